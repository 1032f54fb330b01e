"""Tasks of one's own: definitions, and what is said of those that cannot be."""

import json

import pytest

from onediff_jax.tasks import prompts
from onediff_jax.tasks.definitions import BUILT_IN
from onediff_jax.tasks.own import definitions_of, load_own_tasks, merged, own_tasks

NORMAL = {"frames": ["image", "normal"], "directions": {"normal2image": "first", "image2n": "rest"}}
BOTH = {
    "frames": ["image", "depth", "canny"],
    "directions": {"both2image": "first", "image2both": "rest", "image2metres": ["depth"]},
}
GOOD = {"normal2image": NORMAL, "both2image": BOTH}


def test_definitions_are_tasks_like_others():
    tasks = own_tasks(GOOD)
    assert tasks.names == (*BUILT_IN.names, "both2image", "normal2image")
    assert definitions_of(tasks) == GOOD and own_tasks(definitions_of(tasks)) == tasks
    task, direction = tasks.find_direction("image2metres")
    assert task.token == "[[both2image]]" and task.group == "i2i" and task.min_frames == 3
    assert task.denoise_mask(direction.name, 3) == (0, 1, 0)
    assert task.measures("image2metres") == (("depth", 1),)
    assert task.measures("image2both") == (("depth", 1), ("painted", 2))
    assert task.measures("both2image") == (("picture", 0), ("edges", 0))
    assert tasks["normal2image"].measures("image2n") == (("picture", 1),)
    assert prompts.build("both2image", "a cup", tasks=tasks) == "[[both2image]] a cup"
    assert prompts.split_token("[[both2image]] a cup", tasks) == ("both2image", "a cup")


def test_regions_and_instructions_come_with_their_roles():
    tasks = own_tasks(
        {
            "map2image": {
                "frames": ["image", "semanticmap", "depth"],
                "directions": {"map2image": "first"},
            },
            "redo": {"frames": ["image", "source", "depth"], "directions": {"redo": "first"}},
        }
    )
    text = prompts.build("map2image", "x", regions=[("cyan", "cup")], tasks=tasks)
    assert text == "[[map2image]] <#00FFFF cyan mask: cup> x"
    assert tasks["redo"].needs_prompt("redo") and not tasks["map2image"].needs_prompt("map2image")


def changed(**parts):
    return {"mine": {"frames": ["image", "normal"], "directions": {"mine": "first"}} | parts}


@pytest.mark.parametrize(
    "definitions, message",
    [
        ([1], "must be an object of tasks by name"),
        ({"a b": NORMAL}, "one word of letters, digits and _, got 'a b'"),
        ({"a]]": NORMAL}, r"name, which is its token \[\[…\]\], must be one word"),
        ({"faceid": NORMAL}, "task 'faceid' exists already; choose another name"),
        (changed(directions={"depth2image": "first"}), "'depth2image' of task 'mine' exists alr"),
        ({"a": NORMAL, "b": NORMAL}, "'normal2image' of task 'b' exists already, of task 'a'"),
        ({"mine": {"frames": ["image", "x"]}}, r"exactly \['directions', 'frames'\]"),
        (changed(more=1), r"exactly \['directions', 'frames'\]"),
        (changed(frames="image"), "frames must be a list of roles, got 'image'"),
        (
            changed(frames=["image"]),
            r"'image', the target, and 1 to 3 other roles, got \['image'\]",
        ),
        (changed(frames=["normal", "image"]), "must be 'image', the target"),
        (changed(frames=["image", *"abcd"]), "1 to 3 other roles"),
        (changed(frames=["image", "x y"]), "a role must be one word"),
        (changed(frames=["image", "caption"]), "no role may be called one of .*: caption"),
        (changed(frames=["image", "depth", "depth"]), "'depth' stands twice .*other names"),
        (changed(frames=["image", "ray"]), "rays need cameras.*multiview"),
        (changed(frames=["image", "semanticmap", "boundingbox"]), "cannot be together"),
        (changed(directions={}), "directions must name one or more"),
        (
            changed(directions={"mine": "last"}),
            r"generates nothing: 'last' must be one of \['first",
        ),
        (changed(directions={"mine": "rays"}), "generates nothing: 'rays'"),
        (changed(directions={"mine": []}), r"generates nothing; name one or more of \['image'"),
        (changed(directions={"mine": ["depth"]}), r"names 'depth'; its frames are \['image', 'nor"),
        (changed(directions={"my task": "first"}), "a direction's name must be one word"),
    ],
)
def test_what_cannot_be_is_named(definitions, message):
    with pytest.raises(ValueError, match=f"^mine.json: .*{message}"):
        own_tasks(definitions, "mine.json")


def test_files(tmp_path):
    file = tmp_path / "own.json"
    with pytest.raises(ValueError, match=r"own\.json: cannot be read"):
        load_own_tasks(file)
    for text, message in (
        ("{", r"own\.json: no JSON: .*line 1"),
        ('{"a": 1, "a": 2}', r"own\.json: 'a' stands twice in one object"),
        ("[]", r"own\.json: must be an object of tasks"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_own_tasks(file)
    file.write_text(json.dumps(GOOD))
    assert definitions_of(load_own_tasks(file)) == GOOD


def test_folders_that_define_a_name_differently_are_named():
    other = {"normal2image": {**NORMAL, "directions": {"normal2image": "first"}}}
    assert merged({"a": GOOD, "b": {"normal2image": NORMAL}}) == GOOD
    with pytest.raises(ValueError, match="a and b define task 'normal2image' differently.*Prepare"):
        merged({"a": GOOD, "b": other})
