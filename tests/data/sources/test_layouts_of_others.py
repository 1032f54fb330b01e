"""Rows as other trainers write them, and what people's tables really look like."""

import os

import numpy as np
import pytest

from onediff_jax.data.sources import journal, open_source
from onediff_jax.data.sources.table_rows import iterate_rows
from tests.data.sources.test_table import jsonl


@pytest.fixture
def pictures(files):
    for index in range(6):
        files.write(f"{index}.png", files.photo(index))
    return files


def notes_of(source):
    """Everything a source notes: name → why of what it passes over, rows merged, and its inputs."""
    with journal.keep() as notes:
        records = [record for shard in source.shards() for record in source.read(shard)]
    return records, dict(notes.passed_over), notes


def test_rows_of_other_trainers(pictures, read):
    def sources(name, rows, task, **options):
        pictures.write(name, jsonl(*rows))
        result = read("table", pictures.path(name), task=task, **options)
        assert not result.bad
        (example,) = result.good
        return [
            next(i for i in range(6) if (image == pictures.photo(i)).all())
            for image in example.images
        ], example.captions[0]

    musubi = {"image_path": "0.png", "control_path_0": "1.png", "caption": "as a sketch"}
    assert sources("a.jsonl", [musubi], "image_editing") == ([0, 1], ("as a sketch",))
    more = {**musubi, "control_path_1": "2.png", "item": "cup"}
    assert sources("b.jsonl", [more], "subject_driven")[0] == [0, 1, 2]
    omni = {"task_type": "edit", "instruction": "redder", "input_images": ["3.png"]}
    omni["output_image"] = "4.png"
    other = {"task_type": "t2i", "instruction": "a cat", "output_image": "5.png"}
    kept = sources("c.jsonl", [omni, other], "image_editing", where="task_type=edit")
    assert kept == ([4, 3], ("redder",))
    jodi = {"image": "0.png", "caption": "x", "annotation_canny": "1.png"}
    jodi["annotation_openpose"], jodi["source"] = "2.png", "laion"
    assert sources("d.jsonl", [jodi], "canny2image")[0] == [0, 1]
    assert sources("e.jsonl", [jodi], "pose2image")[0] == [0, 2]


def test_ordinary_columns_are_no_roles(pictures, read):
    table = "file_name,text,source,regions,target\n0.png,a cat,flickr,EU,3\n"
    pictures.write("metadata.csv", table)
    (example,) = read("folder", pictures).good
    assert example.captions == (("a cat",),) and len(example.images) == 1
    pairs = [{"image": "0.png", "source": "laion", "conditioning_image": "1.png", "regions": "EU"}]
    pictures.write("pairs.jsonl", jsonl(*pairs))
    result = read("table", pictures.path("pairs.jsonl"), task="canny2image")
    assert not result.bad and (result.good[0].images[1] == pictures.photo(1)).all()


def test_a_row_per_caption(pictures, read):
    rows = [(f"{i}.png", f"caption {i}{c}") for c in "abc" for i in (0, 1)]
    rows += [("0.png", "caption 0a"), ("2.png", "alone")]
    pictures.write("t.csv", "image,caption\n" + "".join(f"{i},{c}\n" for i, c in rows))
    for size in (1, 3, 100):
        result = read("table", pictures.path("t.csv"), shard_size=size)
        assert not result.bad
        assert {k: r.captions[0] for k, r in result.by_key.items()} == {
            "0.png": ("caption 0a", "caption 0b", "caption 0c"),
            "1.png": ("caption 1a", "caption 1b", "caption 1c"),
            "2.png": ("alone",),
        }
    assert notes_of(result.source)[2].merged == 5
    shards = open_source("table", pictures.path("t.csv"), shard_size=1)
    before = [shards.content(shard) for shard in shards.shards()]
    text = (pictures.folder / "t.csv").read_text().replace("caption 1c", "caption 1x")
    pictures.write("t.csv", text)
    shards = open_source("table", pictures.path("t.csv"), shard_size=1)
    after = [shards.content(shard) for shard in shards.shards()]
    # The row that changed, and the earlier one that it is merged into.
    assert [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [1, 5]


@pytest.mark.parametrize(
    "name, text, captions",
    [
        ("t.tsv", 'image\tcaption\n0.png\t"I said\n1.png\ta 5" cup\n2.png\t"so" he\n',
         ['"I said', 'a 5" cup', '"so" he']),
        ("t.tsv", 'image\tcaption\n0.png\t"two\nlines"\n1.png\t"a ""b"""\n2.png\tc\n',
         ["two\nlines", 'a "b"', "c"]),
        ("t.csv", '\ufeff"image";"caption"\r\n"0.png";"a, b"\r\n"1.png";"c"\r\n2.png;d\r\n',
         ["a, b", "c", "d"]),
        ("t.csv", 'image,caption\n0.png,"open\n1.png,b\n2.png,c\n', [None, "b", "c"]),
    ],
)  # fmt: skip
def test_no_row_vanishes(pictures, read, name, text, captions):
    pictures.write(name, text)
    result = read("table", pictures.path(name), shard_size=2)
    found = {r.key: r.captions[0][0] for r in result.good}
    assert [found.get(f"{i}.png") for i in range(3)] == captions
    assert len(result.good) + len(result.bad) == 3


def test_encodings(pictures, read):
    text = 'image,caption\r\n0.png,"a Ċ\u0a0d 猫"\r\n1.png,"two\nlines"\r\n'
    for encoding, mark in (("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")):
        path = pictures.write("t.csv", mark + text.encode(encoding))
        result = read("table", path, shard_size=1)
        assert [r.captions[0] for r in result.good] == [("a Ċ\u0a0d 猫",), ("two\nlines",)]
        rows = list(iterate_rows(path, 0))
        assert list(iterate_rows(path, rows[0][1])) == rows[1:]
    pictures.write("t.csv", "image,caption\n0.png,café\n1.png,x\n".encode("cp1252"))
    result = read("table", pictures.path("t.csv"))
    assert result.reasons == {"t.csv:1": "bad_text"} and len(result.good) == 1
    result = read("table", pictures.path("t.csv"), encoding="cp1252")
    assert result.by_key["0.png"].captions == (("café",),)
    with pytest.raises(ValueError, match="unknown encoding"):
        open_source("table", pictures.path("t.csv"), encoding="klingon")


def test_names_below_the_root_alone(pictures, read):
    inside = pictures.path("1.png")
    names = (r"sub\0.png", inside, "/etc/passwd", "foo://x/y.png", "../x.png", "sub/0", 3)
    pictures.write("sub/0.png", pictures.photo())
    pictures.write("3.png", pictures.photo(3))
    pictures.write("t.jsonl", jsonl(*({"image": name} for name in names)))
    result = read("table", pictures.path("t.jsonl"))
    assert [r.key for r in result.good] == [r"sub\0.png", inside, "sub/0", "3"]
    assert [r.reason for r in result.bad] == ["outside"] * 3
    result = read("table", pictures.path("t.jsonl"), allow_outside=True)
    assert [r.reason for r in result.bad] == ["not_a_picture", "missing_file", "missing_file"]


def test_tables_of_split_folders(pictures, read):
    for folder in ("train", "test"):
        pictures.write(f"{folder}/0.png", pictures.photo())
        pictures.write(f"{folder}/metadata.jsonl", jsonl({"file_name": "0.png", "text": folder}))
    result = read("folder", pictures)
    found = {key: r.captions[0] for key, r in result.by_key.items()}
    assert found == {"train/0.png": ("train",), "test/0.png": ("test",)}
    passed = notes_of(result.source)[1]
    assert passed == {f"{i}.png": "no row names it" for i in range(6)}


def test_everything_in_a_folder_is_accounted_for(files):
    for name in ("a.jpg", "b.jfif", "c.JPE", "sub/d.png"):
        files.write(name, files.photo())
    texts = ("a.txt", "a.json", "b.caption", "sub/d.png.txt", "readme.txt", "sub/x.csv", "y.heic",
             ".git/config", "lost.txt")  # fmt: skip
    for name in texts:
        files.write(name, "words")
    records, passed, notes = notes_of(open_source("folder", str(files)))
    captions = {r.key: r.captions[0] for r in records if hasattr(r, "captions")}
    word = ("words",)
    assert captions == {"a.jpg": word, "b.jfif": word, "c.JPE": (), "sub/d.png": word}
    assert [r.key for r in records if hasattr(r, "reason")] == ["lost.txt"]
    assert set(passed) == {"a.json", "readme.txt", "sub/x.csv", "y.heic", ".git/"}
    assert {os.path.relpath(path, str(files)) for path in notes.inputs} == {
        *("a.jpg", "b.jfif", "c.JPE", "sub/d.png", "a.txt", "b.caption", "sub/d.png.txt"),
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name")
def test_a_pipe_never_blocks(files, read):
    files.write("a.png", files.photo())
    os.mkfifo(files.path("b.png"))
    os.mkfifo(files.path("a.txt"))
    assert read("folder", files).reasons == {"a.png": "missing_file", "b.png": "missing_file"}


def test_rows_say_how_they_are_trained_on(pictures, read):
    pictures.write("mask.png", 255 - pictures.photo(1) // 200 * 255)
    table = "image,caption,mask_path,repeats,is_reg\n0.png,a cat,mask.png,3,\n2.png,a dog,,,true\n"
    pictures.write("train.csv", table)
    first, second = read("table", pictures.path("train.csv")).good
    assert first.mask.shape == first.images[0].shape[:2] and set(np.unique(first.mask)) <= {0, 255}
    assert (first.repeats, first.is_reg) == (3, False)
    assert (second.mask, second.repeats, second.is_reg) == (None, 1, True)
    for field, why in (
        ({"repeats": 0}, "repeats=0 must be in 1..10000"),
        ({"repeats": "x"}, "repeats='x' must be in"),
        ({"is_reg": "maybe"}, "is_reg='maybe' must be true or false"),
        ({"mask_path": "none.png"}, "missing_file"),
    ):
        pictures.write("bad.jsonl", jsonl({"image": "0.png", "caption": "x", **field}))
        (bad,) = read("table", pictures.path("bad.jsonl")).bad
        assert why in f"{bad.reason}: {bad.detail}"


@pytest.mark.parametrize("most", [1, 127])
def test_a_mask_of_another_scale_is_refused(pictures, read, most):
    """Saved as 0 and 1 it would weigh 1/255: hardly trained on, without a word."""
    pictures.write("m.png", np.uint8(np.eye(24, 32) * most))
    path = pictures.write("a.jsonl", jsonl({"image": "0.png", "text": "x", "mask_path": "m.png"}))
    (bad,) = read("table", path, task="text2image").bad
    assert bad.reason == "bad_labels" and f"brightest value is {most} of 255" in bad.detail
