import pickle

import numpy as np
import pytest

from onediff_jax.data.sources import BadRecord, RawExample, open_source


def test_sidecars_of_both_kinds_and_none(files, read):
    for index, suffix in enumerate(("jpg", "png", "webp")):
        kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix]
        files.write(f"cats/{index}.{suffix}", files.encode(files.photo(index), kind))
    files.write("cats/0.txt", " a cat on a sofa\n")
    files.write("cats/1.json", {"captions": ["a cat", "ein Kater"], "score": 3})
    files.write("CATS/3.JPG", files.photo(3))
    files.write("CATS/3.TXT", "upper case")
    files.write("README.txt", "about")
    files.write("notes.md", "x")
    files.write(".hidden/9.jpg", b"x")
    result = read("folder", files)
    assert not result.bad
    captions = {key: record.captions for key, record in result.by_key.items()}
    assert captions == {
        "CATS/3.JPG": (("upper case",),),
        "cats/0.jpg": (("a cat on a sofa",),),
        "cats/1.png": (("a cat", "ein Kater"),),
        "cats/2.webp": ((),),
    }
    assert (result.by_key["cats/1.png"].images[0] == files.photo(1)).all()
    facts = result.source.describe()
    assert (facts["pictures"], facts["captions"], facts["other_files"]) == (4, 3, {".md": 1})


def test_bad_records_are_named_and_the_rest_is_read(files, read):
    good = files.encode(files.photo(), "JPEG")
    files.write("a.jpg", good)
    files.write("broken.jpg", good[: len(good) // 2])
    files.write("empty.png", b"")
    files.write("page.jpg", b"<html>")
    files.write("latin.jpg", good)
    files.write("latin.txt", b"caf\xe9")
    files.write("list.jpg", good)
    files.write("list.json", "{]")
    files.write("number.jpg", good)
    files.write("number.json", {"caption": 5})
    files.write("same.jpg", good)
    files.write("same.png", files.photo(1))
    files.write("lost.txt", "a caption")
    result = read("folder", files, shard_size=3)
    assert [r.key for r in result.good] == ["a.jpg", "same.jpg"]
    assert result.reasons == {
        "broken.jpg": "broken_picture",
        "empty.png": "empty_file",
        "page.jpg": "not_a_picture",
        "latin.jpg": "bad_text",
        "list.jpg": "bad_metadata",
        "number.jpg": "bad_metadata",
        "same.png": "duplicate_key",
        "lost.txt": "unmatched",
    }


def test_a_name_that_is_not_utf8(files, read):
    path = files.folder.joinpath(b"caf\xe9.png".decode("utf-8", "surrogateescape"))
    try:
        path.write_bytes(files.encode(files.photo()))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    assert [r.key for r in read("folder", files).good] == ["caf\\udce9.png"]


def test_captions_any_script_empty_and_long(files, read):
    texts = {"a": "猫が眠る", "b": "", "c": "y" * 10_000, "d": "قطة"}
    for name, text in texts.items():
        files.write(f"{name}.png", files.photo())
        files.write(f"{name}.txt", text)
    result = read("folder", files)
    found = {key[0]: record.captions[0] for key, record in result.by_key.items()}
    assert found == {"a": ("猫が眠る",), "b": (), "c": ("y" * 10_000,), "d": ("قطة",)}
    strict = read("folder", files, require_caption=True)
    assert strict.reasons == {"b.png": "missing_field"} and len(strict.good) == 3


def test_shards_are_stable_and_survive_pickling(files):
    for index in range(25):
        files.write(f"{index:02d}.png", files.photo(index))
    source = open_source("folder", str(files), shard_size=10)
    shards = source.shards()
    assert len(shards) == 3
    copy = pickle.loads(pickle.dumps(source))
    for shard in reversed(shards):
        ours, theirs = list(source.read(shard)), list(copy.read(shard))
        assert [r.key for r in ours] == [r.key for r in theirs]
        assert all((a.images[0] == b.images[0]).all() for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(ValueError, match="unknown shard='nope'"):
        list(source.read("nope"))


def test_links_that_lead_back_end(files, read):
    files.write("a/1.png", files.photo())
    (files.folder / "a" / "loop").symlink_to(files.folder)
    assert [r.key for r in read("folder", files).good] == ["a/1.png"]


def test_a_table_at_the_top_holds_the_captions(files, read):
    files.write("img/1.png", files.photo(1))
    files.write("img/2.png", files.photo(2))
    files.write("metadata.jsonl", '{"file_name": "img/1.png", "text": "one"}\n')
    result = read("folder", files)
    assert {k: r.captions for k, r in result.by_key.items()} == {"img/1.png": (("one",),)}
    files.write("other.csv", "image,caption\n")
    with pytest.raises(ValueError, match="several tables"):
        open_source("folder", str(files))


def test_wrong_use(files):
    with pytest.raises(ValueError, match="unknown format='zip'; choose from"):
        open_source("zip", str(files))
    with pytest.raises(ValueError, match="has no picture"):
        open_source("folder", str(files))
    with pytest.raises(ValueError, match="is not a folder"):
        open_source("folder", files.path("nothing"))
    files.write("a.png", files.photo())
    with pytest.raises(ValueError, match="unknown option 'colour' of 'folder'; choose from"):
        open_source("folder", str(files), colour=1)
    with pytest.raises(ValueError, match="holds text2image, not faceid"):
        open_source("folder", str(files), task="faceid")


def test_remote_folders_read_like_local_ones(files, read):
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for index in range(3):
        system.pipe(f"/bucket/set/x/{index}.png", files.encode(files.photo(index)))
        system.pipe(f"/bucket/set/x/{index}.txt", f"picture {index}".encode())
    result = read("folder", "memory://bucket/set")
    assert [r.captions[0][0] for r in result.good] == ["picture 0", "picture 1", "picture 2"]
    assert [r.key for r in result.good] == ["x/0.png", "x/1.png", "x/2.png"]
    system.pipe("/bucket/list/t.jsonl", b'{"image": "../set/x/1.png"}\n{"image": "no.png"}\n')
    listed = read("table", "memory://bucket/list/t.jsonl", allow_outside=True)
    assert isinstance(listed.records[0], RawExample) and isinstance(listed.records[1], BadRecord)
    assert np.array_equal(listed.records[0].images[0], files.photo(1))
    assert listed.records[1].reason == "missing_file"
