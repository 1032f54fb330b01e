"""One split for all folders: by the picture, wherever it lies and whatever it is called."""

import dataclasses

import numpy as np
import pytest

from onediff_jax.data.prepared import manifest
from onediff_jax.data.prepared.dataset import PreparedData, open_folders
from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.data.prepared.split import SPLITS, picture_keys, read_names
from onediff_jax.data.sources import open_source
from tests.data.prepared.fake import FakeSource, make_plan, prepare
from tests.data.sources.conftest import Files


def pictures(folder, split, task="text2image"):
    return {r.frames[0].tobytes() for r in PreparedFolder(folder).records(task, split)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """photos/, the same under other names and as another kind of file in pairs/, and some of them
    as pictures of subjects/, three each."""
    files = Files(tmp_path_factory.mktemp("split"))
    for number in range(24):
        picture = files.photo(number, 32, 32)
        files.write(f"photos/{number}.png", picture)
        files.write(f"pairs/images/x/{100 - number}.bmp", files.encode(picture, "BMP"))
        files.write(f"pairs/conditions/x/{100 - number}.png", picture)
        if number < 15:
            files.write(f"subjects/{number // 3}/{number}.png", picture)
    return files


def make(root, out, kind="folder", **changes):
    options = {"task": "canny2image"} if kind == "paired" else {}
    path = root.path({"paired": "pairs", "identity": "subjects"}.get(kind, "photos"))
    plan = make_plan(open_source(kind, path, **options), aspects=("1:1",), tokens=4, **changes)
    prepare(out, plan)
    return out


def test_a_picture_is_on_one_side_in_every_folder_and_task(root, tmp_path):
    photos = make(root, tmp_path / "photos", held_out=0.3)
    pairs = make(root, tmp_path / "pairs", "paired", held_out=0.3)
    for split in SPLITS:
        assert pictures(photos, split) == pictures(pairs, split, "canny2image") != set()


def test_what_another_folder_holds_out_is_not_trained_on(root, tmp_path):
    photos = make(root, tmp_path / "photos", held_out=0.5)
    names = frozenset({"100", "99", "x/nothing"})
    pairs = make(root, tmp_path / "pairs", "paired", held_out_names=names)
    assert len(pictures(pairs, "held_out", "canny2image")) == 2
    opened = [folder for folder, _ in open_folders((str(photos), str(pairs)))]
    tasks = ("text2image", "canny2image")
    sides = {
        split: [
            {r.frames[0].tobytes() for r in folder.records(task, split)}
            for folder, task in zip(opened, tasks, strict=True)
        ]
        for split in SPLITS
    }
    held_out = set().union(*sides["held_out"])
    trained = [picture for side in sides["train"] for picture in side]
    assert not held_out & set(trained)
    everything = pictures(photos, "train") | pictures(photos, "held_out")
    assert held_out | set(trained) == everything  # nothing else is lost


def test_a_picture_alone_and_in_a_group_is_on_one_side(root, tmp_path):
    """Sides by hand: what is held out alone takes its whole subject out of training, and what is
    held out with its subject is not trained on alone."""
    made = (
        make(root, tmp_path / "photos", held_out=0.3),
        make(root, tmp_path / "subjects", "identity", held_out=0.3),
    )
    content = [root.photo(number, 32, 32).tobytes() for number in range(24)]
    number_of = {
        record.frames[0].tobytes(): int(record.key.partition(".")[0])
        for split in SPLITS
        for record in PreparedFolder(made[0]).records("text2image", split)
    }
    alone = {number_of[picture] for picture in pictures(made[0], "held_out")}
    grouped = PreparedFolder(made[1])
    subjects = {r.group for r in grouped.records("faceid", "held_out")}
    assert len(number_of) == len(content) and alone and subjects
    assert not alone <= {n for n in range(15) if str(n // 3) in subjects}  # else this tests nothing
    photos, faces = (folder for folder, _ in open_folders(tuple(map(str, made))))
    trained = {int(r.key.partition(".")[0]) for r in photos.records("text2image", "train")}
    expected = set(range(24)) - alone - {n for n in range(15) if str(n // 3) in subjects}
    assert trained == expected
    left = {r.group for r in faces.records("faceid", "train")}
    assert left == {str(n) for n in range(5)} - subjects - {str(n // 3) for n in alone if n < 15}
    said = PreparedData(((photos, 1.0), (faces, 1.0)), None, "train", None, False).left_out_lines()
    gone = 24 - len(alone) - len(trained)
    assert f"photos: {gone} of {24 - len(alone)} training records are left out" in said[0]
    assert len(said) == 2
    everything = make(root, tmp_path / "all", "identity", held_out=0.99)
    opened = open_folders((str(everything), str(made[1])))
    data = PreparedData(opened, None, "train", None, False)
    with pytest.raises(ValueError, match="every train example of task faceid shares a picture"):
        data._records("faceid", "train")


def test_records_left_out_anywhere(tmp_path):
    prepare(tmp_path, make_plan(FakeSource(each=8, kinds=("text2image",)), held_out=0.0))
    folder = PreparedFolder(tmp_path)
    keys = [record.key for record in folder.records("text2image", "train")]
    lines = list(folder.index())
    gone = {0, 7, 8, 9, 23}
    folder.leave_out(lines[n] for n in gone)
    left = folder.records("text2image", "train")
    assert [r.key for r in left] == [k for n, k in enumerate(keys) if n not in gone]
    with pytest.raises(IndexError):
        left[len(left)]


def test_a_small_set_spares_one(root, tmp_path):
    plan = make_plan(open_source("folder", root.path("photos"), shard_size=5), held_out=1e-9)
    plan = dataclasses.replace(plan, spare_one=True)
    prepare(tmp_path, plan)
    assert not pictures(tmp_path, "held_out")
    spared, again = manifest.spare_one(tmp_path, plan)
    assert len(again) == 1 and 0 < spared.held_out < 0.3
    told = dataclasses.replace(plan, spare_one=False)
    assert manifest.spare_one(tmp_path, told) == (told, [])


def test_edits_of_one_picture_are_on_one_side():
    source = FakeSource()
    one, other = (source.example(key, "image_editing") for key in "ab")
    other = dataclasses.replace(other, images=(other.images[0], one.images[1]))
    assert picture_keys(one)[0] == picture_keys(other)[0]
    assert set(picture_keys(one)) != set(picture_keys(other))
    changed = np.array(one.images[1])
    changed[0, 0] += 1
    other = dataclasses.replace(other, images=(other.images[0], changed))
    assert picture_keys(one)[0] != picture_keys(other)[0]
    assert len(picture_keys(source.example("a", "depth2image"))) == 1  # a condition is none
    assert len(picture_keys(source.example("a", "multiview"))) == 4


def test_lists(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("\ufeff# mine\n a/1.jpg \n\n2\n", encoding="utf-8")
    assert read_names(str(file)) == {"a/1.jpg", "2"}
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match="names nothing"):
        read_names(str(file))
    with pytest.raises(ValueError, match="cannot be read"):
        read_names(str(tmp_path / "no.txt"))
