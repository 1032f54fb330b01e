import pathlib
import pickle

import pytest

from onediff_jax.data.sources import open_source
from onediff_jax.data.sources.records import RecordReader, merge_captions

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(files, name: str, columns: dict, row_group_size: int = 4) -> str:
    path = files.write(name, b"")
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_the_hugging_face_layout(files, read):
    structs = [{"bytes": files.encode(files.photo(i)), "path": f"{i}.png"} for i in range(10)]
    texts = [["one", "uno"], ["two"], [], None, [""], *[["猫"]] * 5]
    write(files, "data/train-00000.parquet", {"image": structs, "text": texts, "id": range(10)})
    write(files, "data/train-00001.parquet", {"image": structs[:2], "text": texts[:2]})
    result = read("parquet", files.path("data"), keep=["id"])
    assert not result.bad and len(result.good) == 12
    assert len(result.source.shards()) == 4  # row groups of 4, 4, 2 and 2
    first = result.by_key["train-00000.parquet:0"]
    assert first.captions == (("one", "uno"),) and first.extras == {"id": 0}
    assert (first.images[0] == files.photo(0)).all()
    assert [result.by_key[f"train-00000.parquet:{i}"].captions[0] for i in (2, 3, 4, 9)] == [
        (),
        (),
        (),
        ("猫",),
    ]
    assert result.source.describe()["rows"] == 12
    copy = pickle.loads(pickle.dumps(result.source))
    assert [r.key for r in copy.read(copy.shards()[1])] == [
        f"train-00000.parquet:{i}" for i in range(4, 8)
    ]


def test_a_row_per_caption(files, read):
    """Rows that follow on one another; another picture, a bad caption or none stands alone."""
    one, two = (files.encode(files.photo(seed)) for seed in (1, 2))
    images = [one, one, one, two, two, one, one, one]
    texts = ["a", "b", "a", "c", None, "d", None, "e"]
    write(files, "rows.parquet", {"image": images, "text": texts}, row_group_size=8)
    found = read("parquet", files.path("rows.parquet"))
    assert [(r.key.partition(":")[2], r.captions[0]) for r in found.good] == [
        ("0", ("a", "b")),
        ("3", ("c",)),
        ("4", ()),
        ("5", ("d",)),
        ("6", ()),
        ("7", ("e",)),
    ]


def test_rows_before_a_damaged_one_are_kept():
    def rows():
        yield from ({"image": b"1", "text": text} for text in "ab")
        raise OSError("damaged")

    found = []
    with pytest.raises(OSError, match="damaged"):
        found.extend(merge_captions(rows(), RecordReader()))
    assert found == [({"image": b"1", "text": ["a", "b"]}, 2)]


def test_plain_bytes_paths_and_bad_rows(files, read):
    good = files.encode(files.photo())
    files.write("pics/1.png", good)
    images = [good, good[:50], b"", None, b"text"]
    write(files, "bytes.parquet", {"image": images, "caption": ["a"] * 5})
    result = read("parquet", files.path("bytes.parquet"))
    assert [r.key for r in result.good] == ["bytes.parquet:0"]
    assert [r.reason for r in result.bad] == [
        "broken_picture",
        "empty_file",
        "missing_field",
        "not_a_picture",
    ]
    structs = [{"bytes": None, "path": "pics/1.png"}, {"bytes": None, "path": None}]
    write(files, "paths.parquet", {"image": structs})
    result = read("parquet", files.path("paths.parquet"))
    assert [r.key for r in result.good] == ["paths.parquet:0"]
    assert result.reasons == {"paths.parquet:1": "missing_field"}


def test_columns_that_json_cannot_hold_are_not_kept(files, read):
    columns = {"image": [files.encode(files.photo())], "raw": [b"x"], "score": [0.5], "group": [3]}
    write(files, "a.parquet", columns)
    (row,) = read("parquet", files, keep=("score",)).good
    assert row.extras == {"score": 0.5} and row.group == "3"
    assert read("parquet", files, keep=("raw",)).reasons == {"a.parquet:0": "bad_metadata"}


def test_edit_triplets(files, read):
    image = [{"bytes": files.encode(files.photo(i)), "path": None} for i in range(2)]
    columns = {
        "original_image": image[:1],
        "edited_image": image[1:],
        "edit_prompt": ["make it red"],
        "original_prompt": ["a cat"],
    }
    write(files, "edits.parquet", columns)
    result = read("parquet", files, task="image_editing", caption="edit_prompt")
    (edit,) = result.good
    assert edit.captions == (("make it red",), ())
    assert (edit.images[0] == files.photo(1)).all() and (edit.images[1] == files.photo(0)).all()


def test_a_missing_column_is_an_error_that_lists_the_others(files):
    write(files, "a.parquet", {"picture": [b"x"], "words": ["y"]})
    with pytest.raises(ValueError, match=r"no column for image: none of .* among \['picture', 'wo"):
        open_source("parquet", str(files))
    with pytest.raises(ValueError, match=r"no column for image: none of \('photo',\)"):
        open_source("parquet", str(files), image="photo")
    with pytest.raises(ValueError, match="no column for caption"):
        open_source("parquet", str(files), image="picture", require_caption=True)


def test_damaged_files(files, read):
    rows = {"image": [files.encode(files.photo(i)) for i in range(8)]}
    path = write(files, "b.parquet", rows)
    data = bytearray(pathlib.Path(path).read_bytes())
    files.write("a.parquet", bytes(data[: len(data) // 2]))
    files.write("c.parquet", b"no parquet")
    result = read("parquet", files)
    assert len(result.good) == 8
    assert result.reasons == {"a.parquet": "broken_archive", "c.parquet": "broken_archive"}
    data[200:4000] = bytes(3800)  # inside the first row groups: the footer still reads
    files.write("b.parquet", bytes(data))
    result = read("parquet", files.path("b.parquet"))
    assert result.bad and len(result.good) < 8
