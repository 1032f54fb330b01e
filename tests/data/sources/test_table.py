import json
import tracemalloc

import pytest

from onediff_jax.data.sources import open_source
from onediff_jax.data.sources.table import iterate_rows


@pytest.fixture
def pictures(files):
    for index in range(6):
        files.write(f"p/{index}.png", files.photo(index))
    return files


def jsonl(*rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def test_jsonl_rows(pictures, read):
    rows = (
        {"image": "p/0.png", "caption": "a cat"},
        {"image": "p/1.png", "captions": ["a", "b"], "source_id": 7},
        "",
        {"image": "p/2.png"},
        {"image": "p/3.png", "id": "named", "caption": "猫"},
    )
    pictures.write("t.jsonl", jsonl(*rows))
    result = read("table", pictures.path("t.jsonl"), keep=["source_id"])
    assert not result.bad
    assert {k: r.captions[0] for k, r in result.by_key.items()} == {
        "p/0.png": ("a cat",),
        "p/1.png": ("a", "b"),
        "p/2.png": (),
        "named": ("猫",),
    }
    assert result.by_key["p/1.png"].extras == {"source_id": 7}
    assert (result.by_key["named"].images[0] == pictures.photo(3)).all()


def test_bad_rows_are_named_by_file_and_row(pictures, read):
    pictures.write("p/cut.png", pictures.encode(pictures.photo())[:80])
    deep = '{"image": ' + "[" * 100_000 + "]" * 100_000 + "}"
    data = (
        jsonl(
            {"image": "p/0.png"},
            {"image": "p/none.png"},
            '{"image": ',
            "[1, 2]",
            {"caption": "no picture"},
            {"image": "p/0.png", "caption": "again"},
            {"image": "p/1.png", "caption": {"en": "x"}},
            {"image": "p/2.png", "caption": "\ud800"},
            {"image": ["p/2.png"]},
            {"image": "p/cut.png"},
            {"image": "p/\0.png"},
            deep,
        ).encode()
        + b'{"image": "p/3.png", "caption": "caf\xe9"}\n{"image": "p/4.png"}'
    )
    pictures.write("t.jsonl", data)
    result = read("table", pictures.path("t.jsonl"), shard_size=4)
    assert [r.key for r in result.good] == ["p/0.png", "p/4.png"]
    reasons = {key.split(" ")[0]: reason for key, reason in result.reasons.items()}
    assert reasons == {
        "t.jsonl:2": "missing_file",
        "t.jsonl:3": "bad_metadata",
        "t.jsonl:4": "bad_metadata",
        "t.jsonl:5": "missing_field",
        "t.jsonl:6": "duplicate_key",
        "t.jsonl:7": "bad_metadata",
        "t.jsonl:8": "bad_text",
        "t.jsonl:9": "bad_metadata",
        "t.jsonl:10": "broken_picture",
        "t.jsonl:11": "bad_metadata",
        "t.jsonl:12": "bad_metadata",
        "t.jsonl:13": "bad_text",
    }


def test_duplicates_are_found_across_shards_and_files(pictures, read):
    pictures.write("a.jsonl", jsonl(*({"image": f"p/{i}.png"} for i in (0, 1, 2))))
    pictures.write("b.jsonl", jsonl(*({"image": f"p/{i}.png"} for i in (3, 1, 4))))
    result = read("table", pictures, shard_size=2)
    assert [r.key for r in result.good] == [f"p/{i}.png" for i in (0, 1, 2, 3, 4)]
    assert result.reasons == {"b.jsonl:2": "duplicate_key"}


def test_csv_with_quotes_and_lines(pictures, read):
    pictures.write(
        "t.csv",
        b"\xef\xbb\xbfimage,captions\r\n"
        b'p/0.png,"one, two\nlines ""q"""\r\n'
        b'p/1.png,"[""a"", ""b""]"\r\n'
        b"p/2.png,\r\n"
        b"p/3.png,a,b\r\n"
        b"p/4.png,caf\xe9\r\n"
        b'p/5.png,"never closed\r\n',
    )
    result = read("table", pictures.path("t.csv"), shard_size=2)
    assert {k: r.captions[0] for k, r in result.by_key.items()} == {
        "p/0.png": ('one, two\nlines "q"',),
        "p/1.png": ("a", "b"),
        "p/2.png": (),
    }
    assert [r.reason for r in result.bad] == ["bad_metadata", "bad_text", "bad_metadata"]


def test_shards_start_in_the_middle_of_the_file(pictures):
    for name, header, row in (
        ("t.csv", "image,caption\n", 'p/{0}.png,"line\n{0}"\n'),
        ("t.tsv", "image\tcaption\n", "p/{0}.png\tline {0}\n"),
        ("t.jsonl", "", '{{"image": "p/{0}.png", "caption": "line {0}"}}\n'),
    ):
        pictures.write(name, header + "".join(row.format(i) for i in range(6)))
        source = open_source("table", pictures.path(name), shard_size=4)
        last = list(source.read(source.shards()[1]))
        assert [r.key for r in last] == ["p/4.png", "p/5.png"]
        assert [r.captions[0][0].split()[1] for r in last] == ["4", "5"]
        rows = list(iterate_rows(pictures.path(name), 0))
        assert list(iterate_rows(pictures.path(name), rows[2][1])) == rows[3:]


def test_a_long_cell(pictures, read):
    pictures.write("t.csv", "image,caption\np/0.png," + "x" * 10_000 + "\n")
    assert read("table", pictures.path("t.csv")).good[0].captions == (("x" * 10_000,),)


def test_chosen_columns_and_root(pictures, read):
    pictures.write("lists/t.csv", "img,text,title,name\n0.png,wrong,right,zero\n")
    result = read(
        "table",
        pictures.path("lists/t.csv"),
        image="img",
        caption="title",
        key="name",
        root=pictures.path("p"),
    )
    assert result.by_key["zero"].captions == (("right",),)


def test_editing_and_subject_tables(pictures, read):
    rows = (
        {"source": "p/0.png", "target": "p/1.png", "instruction": "make it red"},
        {"source": "p/2.png", "target": "p/3.png", "instruction": " "},
        {"target": "p/4.png", "instruction": "make it red"},
    )
    pictures.write("edits.jsonl", jsonl(*rows))
    result = read("editing", pictures.path("edits.jsonl"))
    (edit,) = result.good
    assert edit.task == "image_editing" and edit.captions == (("make it red",), ())
    assert (edit.images[0] == pictures.photo(1)).all()
    assert (edit.images[1] == pictures.photo(0)).all()
    assert [r.reason for r in result.bad] == ["missing_field"] * 2

    rows = (
        {
            "target": "p/0.png",
            "sources": ["p/1.png", "p/2.png"],
            "item": "backpack",
            "caption": "in the snow",
            "source_captions": ["on a chair", ""],
        },
        {"target": "p/3.png", "sources": ["p/1.png"]},
        {"target": "p/4.png", "sources": ["p/1.png"] * 7, "item": "cup"},
        {"target": "p/5.png", "sources": ["p/1.png"], "item": "cup", "source_captions": []},
    )
    pictures.write("s/subjects.jsonl", jsonl(*rows))
    result = read("subject", pictures.path("s/subjects.jsonl"), root=str(pictures))
    (pair,) = result.good
    assert pair.item == "backpack" and len(pair.images) == 3
    assert pair.captions == (("in the snow",), ("on a chair",), ())
    assert [r.reason for r in result.bad] == ["missing_field", "bad_metadata", "bad_metadata"]


def test_regions_of_painted_conditions(pictures, read):
    rows = (
        {"image": "p/0.png", "source": "p/1.png", "regions": [["cyan", "sheep"]]},
        {"image": "p/2.png", "source": "p/1.png", "regions": [["beige", "sheep"]]},
        {"image": "p/3.png", "source": "p/1.png", "regions": [["cyan", "a <b>"]]},
        {"image": "p/4.png", "source": "p/1.png", "regions": [{"color": "red", "label": "cup"}]},
    )
    pictures.write("t.jsonl", jsonl(*rows))
    result = read("table", pictures.path("t.jsonl"), task="boundingbox2image")
    assert [r.regions for r in result.good] == [(("cyan", "sheep"),), (("red", "cup"),)]
    assert [r.reason for r in result.bad] == ["bad_labels"] * 2


def test_rows_of_a_group(pictures, read):
    groups = ("anna", 7, "", None, 1.5)
    pictures.write(
        "t.jsonl", jsonl(*({"image": f"p/{i}.png", "group": g} for i, g in enumerate(groups)))
    )
    result = read("table", pictures.path("t.jsonl"))
    assert [r.group for r in result.good] == ["anna", "7", None, None]
    assert [r.reason for r in result.bad] == ["bad_metadata"]
    other = read("table", pictures.path("t.jsonl"), group="image")
    assert [r.group for r in other.good] == [f"p/{i}.png" for i in range(5)]


def test_memory_stays_flat_over_many_rows(pictures):
    pictures.write("t.jsonl", "".join(f'{{"image": "{i}.png"}}\n' for i in range(50_000)))
    tracemalloc.start()
    try:
        source = open_source("table", pictures.path("t.jsonl"))
        _, opened = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source.shards()) == 50
    assert opened < 8e6  # bytes: two numbers per row and some temporaries


def test_wrong_use(files):
    with pytest.raises(ValueError, match="no file that ends with"):
        open_source("table", str(files))
    files.write("empty.jsonl", "\n")
    with pytest.raises(ValueError, match="has no rows"):
        open_source("table", files.path("empty.jsonl"))
    files.write("t.csv", "a,a\n1,2\n")
    with pytest.raises(ValueError, match="must name the columns"):
        open_source("table", files.path("t.csv"))
    with pytest.raises(ValueError, match="rows hold no cameras"):
        open_source("table", files.path("t.csv"), task="multiview")


def test_a_column_that_no_row_has_is_named(pictures):
    """A misspelt option would make every record an unlabelled picture."""
    path = pictures.write("list.jsonl", jsonl({"file_name": "p/0.png", "text": "a cat"}))
    with pytest.raises(
        ValueError, match=r"caption='captoin' is no field of .*\['file_name', 'text'"
    ):
        open_source("table", path, task="text2image", caption="captoin")


def test_an_instruction_goes_before_a_caption_in_editing(pictures, read):
    row = {
        "source": "p/0.png",
        "target": "p/1.png",
        "caption": "a dog in a hat",
        "instruction": "add a hat",
    }
    path = pictures.write("edits.jsonl", jsonl(row))
    assert read("editing", path).good[0].captions[0] == ("add a hat",)
    del row["instruction"]
    path = pictures.write("edits.jsonl", jsonl(row))
    assert read("editing", path).good[0].captions[0] == ("a dog in a hat",)
