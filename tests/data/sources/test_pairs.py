import json

import numpy as np
import pytest

from onediff_jax.data.sources import open_source
from onediff_jax.tasks import colors
from onediff_jax.tasks.depth import Normalisation, depth_from_image
from onediff_jax.tasks.edges import canny
from onediff_jax.tasks.own import own_tasks


def test_a_condition_beside_each_picture(files, read):
    for index in range(4):
        files.write(f"images/a/{index}.jpg", files.encode(files.photo(index), "JPEG"))
        edges = canny(files.photo(index))
        files.write(f"conditions/a/{index}.png", edges)
        files.write(f"images/a/{index}.txt", f"picture {index}")
    result = read("paired", files, task="canny2image", shard_size=3)
    assert not result.bad and [r.key for r in result.good] == [
        f"images/a/{i}.jpg" for i in range(4)
    ]
    example = result.good[2]
    assert example.captions == (("picture 2",), ())
    assert (example.images[1] == canny(files.photo(2))).all()


def test_unmatched_halves_are_named(files, read):
    for index in (1, 2, 3):
        files.write(f"images/{index}.png", files.photo(index))
    for index in (2, 3, 4):
        files.write(f"poses/{index}.png", files.photo(index))
    files.write("poses/3.webp", files.encode(files.photo(3), "WEBP"))
    files.write("captions/2.txt", "two")
    files.write("captions/9.txt", "nine")
    result = read(
        "paired",
        files,
        task="pose2image",
        source_folder="poses",
        caption_folder="captions",
    )
    assert [r.key for r in result.good] == ["images/2.png", "images/3.png"]
    assert result.good[0].captions[0] == ("two",) and result.good[1].captions[0] == ()
    assert result.reasons == {
        "images/1.png": "unmatched",
        "poses/4.png": "unmatched",
        "captions/9.txt": "unmatched",
        "poses/3.webp": "duplicate_key",
    }


def test_depth_in_16_bits_and_in_metres(files, read):
    metres = np.linspace(1.0, 9.0, 24 * 32).reshape(24, 32)
    metres[0, :4] = 0  # unknown
    for name in "abc":
        files.write(f"images/{name}.png", files.photo())
    files.write("conditions/a.png", np.rint(metres * 1000).astype(np.uint16))
    np.save(files.path("conditions/b.npy"), metres.astype(np.float32))
    files.write("conditions/c.png", files.photo()[..., 0])
    result = read("paired", files, task="depth2image")
    assert not result.bad
    for name in "ab":
        example = result.by_key[f"images/{name}.png"]
        norm = Normalisation(**example.depth_norm)
        assert norm.near == pytest.approx(metres[metres > 0].min(), abs=1e-3)
        found = depth_from_image(example.images[1], norm)
        assert np.isinf(found[0, :4]).all()
        known = metres > 0
        # Grey has 255 steps of 1 / depth: at 9 m one is 9² · (1 − 1/9) / 254 m.
        assert np.abs(found - metres)[known].max() < 0.5 * 81 * (8 / 9) / 254 * 1.1
    picture = result.by_key["images/c.png"]
    assert picture.depth_norm is None  # eight bits: a depth picture as it is
    assert (picture.images[1] == files.photo()[..., :1]).all()
    fixed = read("paired", files, task="depth2image", depth_near=0.5, depth_far=20.0)
    assert fixed.by_key["images/a.png"].depth_norm == {
        "near": 0.5,
        "far": 20.0,
        "kind": "inverse",
    }


def test_depth_with_nothing_known(files, read):
    files.write("images/a.png", files.photo())
    files.write("conditions/a.png", np.zeros((24, 32), np.uint16))
    assert read("paired", files, task="depth2image").reasons == {"images/a.png": "bad_labels"}


def test_class_maps_get_allowed_colours_and_matching_regions(files, read):
    classes = np.zeros((24, 32), np.uint8)
    classes[4:20, 4:20] = 1
    classes[20:, :] = 2
    files.write("images/a.png", files.photo())
    files.write("conditions/a.png", classes)
    files.write("images/b.png", files.photo())
    files.write("conditions/b.png", np.full((24, 32), 7, np.uint8))
    files.write("images/c.png", files.photo())
    files.write("conditions/c.png", np.zeros((24, 32), np.uint8))
    files.write("classes.txt", "\nsheep\ngrass\n")
    result = read("paired", files, task="semanticmap2image", classes=files.path("classes.txt"))
    example = result.by_key["images/a.png"]
    assert [label for _, label in example.regions] == ["sheep", "grass"]  # the largest first
    painted = {label: colors.rgb(color) for color, label in example.regions}
    assert (example.images[1][classes == 1] == painted["sheep"]).all()
    assert (example.images[1][classes == 2] == painted["grass"]).all()
    assert (example.images[1][classes == 0] == 0).all()
    assert result.reasons == {"images/b.png": "bad_labels", "images/c.png": "bad_labels"}


def test_shapes_that_do_not_agree(files, read):
    files.write("images/same.png", files.photo(height=240, width=320))
    files.write("conditions/same.png", files.photo())
    files.write("images/other.png", files.photo())
    files.write("conditions/other.png", files.photo(height=32, width=24))
    files.write("images/broken.png", files.photo())
    files.write("conditions/broken.png", b"")
    result = read("paired", files, task="hed2img")
    assert [r.key for r in result.good] == ["images/same.png"]
    assert result.reasons == {
        "images/other.png": "size_mismatch",
        "images/broken.png": "empty_file",
    }


def test_edit_folders(files, read):
    for index in range(3):
        files.write(f"target/{index}.png", files.photo(index))
        files.write(f"source/{index}.png", files.photo(10 + index))
    files.write("instructions/0.txt", "make it red")
    files.write("instructions/1.json", ["make it blue", "blue, please"])
    files.write("instructions/2.txt", "")
    result = read("editing", files)
    assert [r.captions[0] for r in result.good] == [
        ("make it red",),
        ("make it blue", "blue, please"),
    ]
    assert (result.good[0].images[1] == files.photo(10)).all()
    assert result.reasons == {"target/2.png": "missing_field"}


def test_subject_folders(files, read):
    for index in range(2):
        files.write(f"target/{index}.png", files.photo(index))
        files.write(f"source/{index}.png", files.photo(10 + index))
    files.write("captions/0.txt", "a cup in the snow")
    files.write("items/0.txt", "cup")
    result = read("subject", files)
    (pair,) = result.good
    assert (pair.task, pair.item, pair.captions) == (
        "subject_driven",
        "cup",
        (("a cup in the snow",), ()),
    )
    assert result.reasons == {"target/1.png": "missing_field"}


def test_wrong_use(files):
    files.write("images/a.png", files.photo())
    with pytest.raises(ValueError, match="needs task"):
        open_source("paired", str(files))
    with pytest.raises(ValueError, match="has no second picture"):
        open_source("paired", str(files), task="text2image")
    with pytest.raises(ValueError, match="conditions' is not a folder"):
        open_source("paired", str(files), task="hed2img")
    with pytest.raises(ValueError, match="subject_driven needs item_folder"):
        open_source("paired", str(files), task="subject_driven")
    with pytest.raises(ValueError, match="depth_scale"):
        open_source("paired", str(files), task="depth2image", depth_scale=0)
    with pytest.raises(ValueError, match="depth range"):
        open_source("paired", str(files), task="depth2image", depth_near=3, depth_far=2)


OWN = {
    "mine": {"frames": ["image", "normal", "depth", "canny"], "directions": {"mine": "first"}},
}


def test_a_task_of_ones_own_has_a_folder_per_role(files, read):
    """What can be derived may be missing, as a folder and as a file of a table."""
    for index in (1, 2):
        files.write(f"images/{index}.png", files.photo(index))
        files.write(f"normal/{index}.png", files.photo(index + 5))
    metres = np.linspace(1.0, 9.0, 24 * 32).reshape(24, 32)
    files.write("depth/1.png", np.rint(metres * 1000).astype(np.uint16))
    options = {"task": "mine", "tasks": own_tasks(OWN)}
    result = read("paired", files, **options)
    assert result.reasons == {"images/2.png": "unmatched"}
    (example,) = result.good
    assert example.task == "mine" and example.definition.frames[1] == "normal"
    assert (example.images[1] == files.photo(6)).all() and example.images[3] is None
    assert example.depth_norm["near"] == pytest.approx(1.0, abs=1e-3)
    files.write("canny/1.png", files.photo(9))
    assert (read("paired", files, **options).good[0].images[3] == files.photo(9)).all()

    rows = [{"image": "images/1.png", "normal": "normal/1.png", "depth": "depth/1.png"}]
    rows += [rows[0] | {"image": "images/2.png", "canny": "canny/1.png"}, {"image": "images/1.png"}]
    files.write(
        "table.jsonl", "\n".join(json.dumps(row | {"key": k}) for k, row in enumerate(rows))
    )
    result = read("table", files, **options)
    assert [e.images[3] is None for e in result.good] == [True, False]
    (bad,) = result.bad
    assert bad.reason == "missing_field" and "normal" in bad.detail


def test_a_task_of_ones_own_needs_the_folders_that_nothing_else_gives(files, read):
    files.write("images/1.png", files.photo(1))
    with pytest.raises(ValueError, match="normal"):
        read("paired", files, task="mine", tasks=own_tasks(OWN))
    files.write("normal/1.png", files.photo(2))
    annotated = read("paired", files, task="mine", tasks=own_tasks(OWN), annotated=("depth",))
    assert annotated.good[0].images[2] is None
