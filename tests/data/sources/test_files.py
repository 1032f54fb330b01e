import pytest

from onediff_jax.data.sources import files as names
from onediff_jax.data.sources.base import BadData


def test_join_and_parent():
    assert names.join("a/b", "c.png") == "a/b/c.png"
    assert names.join("a/b", "../c.png") == "a/c.png"
    assert names.join("a/b", "/x/c.png") == "/x/c.png"
    assert names.join("gs://bucket/a", "c.png") == "gs://bucket/a/c.png"
    assert names.join("gs://bucket/a", "../c.png") == "gs://bucket/c.png"
    assert names.join("gs://bucket/a", "/c.png") == "gs:///c.png"
    assert names.join("gs://bucket/a", "s3://other/c.png") == "s3://other/c.png"
    assert names.parent("gs://bucket/a/t.csv") == "gs://bucket/a"
    assert names.parent("a/t.csv") == "a" and names.parent("t.csv") == ""


def test_read_bytes(files):
    path = files.write("a.bin", b"12345")
    assert names.read_bytes(path) == b"12345" == names.read_bytes(path, limit=5)
    with pytest.raises(BadData, match="too_large"):
        names.read_bytes(path, limit=4)
    files.write("empty", b"")
    with pytest.raises(BadData, match="empty_file"):
        names.read_bytes(files.path("empty"))
    for missing in (files.path("nothing"), str(files), "memory://no/such/file"):
        with pytest.raises(BadData, match="missing_file"):
            names.read_bytes(missing)


def test_list_files(files):
    for name in ("a/1.tar", "a/2.TAR", "a/note.txt", "3.tar"):
        files.write(name, b"x")
    assert names.list_files(str(files), (".tar",))[1] == ["3.tar", "a/1.tar", "a/2.TAR"]
    assert names.list_files(files.path("a/1.tar"), (".tar",)) == (files.path("a"), ["1.tar"])
    assert names.list_files(files.path("a/?.tar"), (".tar",))[1] == ["1.tar"]
    with pytest.raises(ValueError, match="only the file's name may have"):
        names.list_files(files.path("*/1.tar"), (".tar",))
    with pytest.raises(ValueError, match="no file that ends with"):
        names.list_files(files.path("a"), (".parquet",))


def test_split_suffix():
    assert names.split_suffix("a/b.c.JPG") == ("a/b.c", ".jpg")
    assert names.split_suffix("plain") == ("plain", "")


def test_a_pattern_stays_in_its_folder(files):
    for name in ("a.tar", "b.tar", "val/c.tar"):
        files.write(name, b"x")
    assert names.list_files(files.path("*.tar"), (".tar",)) == (str(files), ["a.tar", "b.tar"])
    assert names.list_files(str(files), (".tar",))[1] == ["a.tar", "b.tar", "val/c.tar"]


def test_several_splits_in_a_folder_are_said(files):
    files.write("data/train-00000-of-00001.parquet", b"x")
    files.write("data/training_notes.txt", b"x")
    assert names.several_splits(str(files)) is None
    files.write("data/test-00000-of-00001.parquet", b"x")
    said = names.several_splits(str(files))
    assert said and "test (data/test-00000-of-00001.parquet), train (data/train-0" in said
    assert names.several_splits(files.path("data/*.parquet")) is None
