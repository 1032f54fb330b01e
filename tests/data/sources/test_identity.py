import pytest

from onediff_jax.data.sources import open_source


def subject(files, name: str, count: int):
    for index in range(count):
        files.write(f"{name}/{index}.png", files.photo(hash_of(name) + index))
        files.write(f"{name}/{index}.txt", f"{name} {index}")


def hash_of(name: str) -> int:
    return sum(map(ord, name))


def test_every_picture_is_a_target_once(files, read):
    subject(files, "anna", 6)
    subject(files, "bob", 2)
    result = read("identity", files)
    assert not result.bad and {r.task for r in result.good} == {"faceid"}
    assert {r.key for r in result.good} == {f"anna/{i}.png" for i in range(6)} | {
        "bob/0.png",
        "bob/1.png",
    }
    lengths = set()
    for example in result.good:
        chosen = example.extras["files"]
        assert len(set(chosen)) == len(chosen) and example.key.endswith(chosen[0])
        for name, image, captions in zip(chosen, example.images, example.captions, strict=True):
            assert (image == files.photo(hash_of(example.group) + int(name[0]))).all()
            assert captions == (f"{example.group} {name[0]}",)
        lengths.add(len(chosen))
    assert lengths <= {2, 3, 4, 5} and len(lengths) > 1
    other = read("identity", files, seed=1)
    assert [r.extras for r in other.good] != [r.extras for r in result.good]


def test_subjects_with_a_name(files, read):
    subject(files, "backpack_01", 3)
    files.write("backpack_01/item.txt", "backpack\n")
    subject(files, "nameless", 3)
    subject(files, "odd", 3)
    files.write("odd/item.txt", "a <b>")
    result = read("identity", files, task="subject_driven", max_views=2)
    assert {(r.item, len(r.images)) for r in result.good} == {("backpack", 2)}
    assert result.reasons == {"nameless/item.txt": "missing_field", "odd/item.txt": "bad_labels"}


def test_bad_pictures_leave_the_others(files, read):
    subject(files, "anna", 4)
    files.write("anna/2.png", b"")
    files.write("anna/3.txt", b"caf\xe9")
    subject(files, "carl", 1)
    files.write("carl/1.png", b"<html>")
    files.write("loose.png", files.photo())
    result = read("identity", files)
    assert {r.key for r in result.good} == {"anna/0.png", "anna/1.png"}
    assert result.reasons == {
        "anna/2.png": "empty_file",
        "anna/3.png": "bad_text",
        "carl/1.png": "not_a_picture",
        "carl": "too_few_views",
        "loose.png": "unmatched",
    }
    strict = read("identity", files, require_caption=True)
    assert {r.key for r in strict.good} == {"anna/0.png", "anna/1.png"}


def test_many_pictures_of_one_subject(files, read):
    subject(files, "anna", 40)
    result = read("identity", files, shard_size=1)
    assert len(result.good) == 40


def test_wrong_use(files):
    files.write("loose.png", files.photo())
    with pytest.raises(ValueError, match="no subject folders"):
        open_source("identity", str(files))
    subject(files, "anna", 2)
    with pytest.raises(ValueError, match=r"max_views=6 must be in 2\.\.5"):
        open_source("identity", str(files), max_views=6)
    with pytest.raises(ValueError, match="faceid or subject_driven, not text2image"):
        open_source("identity", str(files), task="text2image")


def test_folders_of_folders_are_no_subject(files, read):
    """train/anna and train/bert are two people: nothing says so but the depth."""
    for name in ("anna/0.png", "anna/1.png", "bert/0.png", "bert/1.png"):
        files.write(f"train/{name}", files.photo(len(name)))
    with pytest.raises(ValueError, match=r"of 'train' lie in 2 folders such as .*train\)"):
        open_source("identity", str(files), task="faceid")
    assert len(read("identity", files.path("train"), task="faceid").good) == 4
    result = read("identity", files, task="faceid", nested=True)
    assert {record.group for record in result.good} == {"train"}
    assert result.source.describe()["nested"]
