import io
import json
import tarfile

import pytest

from onediff_jax.data.sources import open_source


def tar_bytes(members, mode: str = "w") -> bytes:
    """A tar of (name, bytes) members, or of TarInfo for special ones."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def record(files, index: int, caption: str = "x"):
    picture = files.encode(files.photo(index), "JPEG", quality=95)
    return [(f"{index:04d}.jpg", picture), (f"{index:04d}.txt", caption.encode())]


def test_pictures_with_captions_over_two_tars(files, read):
    for shard in range(2):
        members = []
        for index in range(3):
            members += record(files, 3 * shard + index, f"picture {index}")
        members.append(("0099.png", files.encode(files.photo(9))))
        members.append(("0099.json", json.dumps({"caption": ["a", "b"], "width": 3}).encode()))
        members.append(("0099.cls", b"7"))
        files.write(f"set/train-{shard:03d}.tar", tar_bytes(members))
    result = read("webdataset", files.path("set"))
    assert not result.bad and len(result.good) == 8
    assert result.source.shards() == ["train-000.tar", "train-001.tar"]
    assert result.by_key["train-001.tar/0004"].captions == (("picture 1",),)
    assert result.by_key["train-000.tar/0099"].captions == (("a", "b"),)
    one = open_source("webdataset", files.path("set/train-001*.tar"))
    assert one.shards() == ["train-001.tar"]


@pytest.mark.parametrize("suffix,mode", [("gz", "w:gz"), ("bz2", "w:bz2"), ("xz", "w:xz")])
def test_compressed(files, read, suffix, mode):
    data = tar_bytes(record(files, 0) + record(files, 1), mode)
    files.write(f"a.tar.{suffix}", data)
    assert len(read("webdataset", files).good) == 2
    files.write(f"a.tar.{suffix}", data[: len(data) // 2])
    cut = read("webdataset", files)
    assert [r.reason for r in cut.bad] == ["broken_archive"] and len(cut.good) < 2


def test_pairs_by_role(files, read):
    members = [
        ("1.target.png", files.encode(files.photo(1))),
        ("1.source.png", files.encode(files.photo(2))),
        ("1.txt", b"make it red"),
        ("2.target.png", files.encode(files.photo(1))),
        ("2.txt", b"no source"),
    ]
    files.write("a.tar", tar_bytes(members))
    result = read("webdataset", files, task="image_editing")
    (edit,) = result.good
    assert edit.captions == (("make it red",), ())
    assert (edit.images[1] == files.photo(2)).all()
    assert result.reasons == {"a.tar/2": "missing_field"}


def test_unsafe_members_are_named_and_never_written(files, read):
    link = tarfile.TarInfo("0002.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("0003.jpg")
    device.type = tarfile.CHRTYPE
    picture = files.encode(files.photo())
    members = [
        ("/etc/0000.jpg", picture),
        ("../../0001.jpg", picture),
        ("a/../../0001.jpg", picture),
        ("C:\\0001.jpg", picture),
        ("..\\0001.jpg", picture),
        link,
        device,
        *record(files, 5),
    ]
    files.write("set/a.tar", tar_bytes(members))
    result = read("webdataset", files.path("set"))
    assert [r.key for r in result.good] == ["a.tar/0005"]
    assert [r.reason for r in result.bad] == ["unsafe_member"] * 7
    assert sorted(p.name for p in files.folder.rglob("*")) == ["a.tar", "set"]


def test_bad_members_do_not_stop_the_others(files, read):
    picture = files.encode(files.photo())
    members = [
        *record(files, 0),
        ("0001.jpg", picture[:60]),
        ("0001.txt", b"cut"),
        ("0002.jpg", b""),
        ("0003.txt", b"no picture"),
        ("0004.jpg", picture),
        ("0004.txt", b"caf\xe9"),
        ("0005.jpg", picture),
        ("0005.json", b"{"),
        ("0006.jpg", picture),
        ("0006.png", picture),
        ("0007.jpg", b"<html>"),
        *record(files, 8),
        *record(files, 0),
        (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), picture),
        ("0009.jpg", picture),
        ("0009.json", b"[]"),
    ]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    files.write("a.tar", file.getvalue())
    result = read("webdataset", files.path("a.tar"))
    assert [r.key for r in result.good] == ["a.tar/0000", "a.tar/0008"]
    assert {key.removeprefix("a.tar/"): reason for key, reason in result.reasons.items()} == {
        "0001": "broken_picture",
        "0002": "empty_file",
        "0003": "missing_field",
        "0004": "bad_text",
        "0005": "bad_metadata",
        "0006": "duplicate_key",
        "0007": "not_a_picture",
        "0000": "duplicate_key",
        "caf\\udce9.jpg": "bad_text",
        "0009": "bad_metadata",
    }


def test_a_tar_that_ends_early(files, read):
    data = tar_bytes([m for i in range(4) for m in record(files, i)])
    end = len(data.rstrip(b"\0"))
    for length in range(600, end, 700):
        files.write("a.tar", data[:length])
        result = read("webdataset", files)
        # A tar may end without its closing zeros, but never inside a member.
        assert len(result.good) + len(result.bad) >= 1
        assert len(result.bad) == 1 or length % 512 == 0
        assert all(r.reason in ("broken_archive", "missing_field") for r in result.bad)


def test_a_damaged_header_in_the_middle(files, read):
    data = bytearray(tar_bytes([m for i in range(4) for m in record(files, i)]))
    where = data.find(b"0002.jpg")
    data[where : where + 300] = b"\xff" * 300
    files.write("a.tar", bytes(data))
    result = read("webdataset", files)
    assert [r.key for r in result.good] == ["a.tar/0000", "a.tar/0001"]
    assert result.reasons == {"a.tar/(archive)": "broken_archive"}


def test_an_empty_file_and_no_tar(files, read):
    files.write("set/a.tar", b"")
    assert [r.reason for r in read("webdataset", files.path("set")).bad] == ["broken_archive"]
    files.write("other/x.txt", "")
    with pytest.raises(ValueError, match="no file that ends with"):
        open_source("webdataset", files.path("other"))


def test_a_record_and_a_header_have_a_largest_size(files, read, monkeypatch):
    picture = files.encode(files.photo())
    members = [("0.jpg", picture), *((f"0.{i}.cls", b"x") for i in range(70)), *record(files, 1)]
    files.write("a.tar", tar_bytes([*members, ("2.jpg", picture), ("2.caption", b"two")]))
    result = read("webdataset", files)
    assert [r.key for r in result.good] == ["a.tar/0", "a.tar/0001", "a.tar/2"]
    assert result.by_key["a.tar/2"].captions == (("two",),)
    assert set(result.reasons.values()) == {"too_large"} and len(result.bad) == 7
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("0.jpg")
        info.size, info.pax_headers = len(picture), {"comment": "x" * 3_000_000}
        tar.addfile(info, io.BytesIO(picture))
    files.write("a.tar", file.getvalue())
    (bad,) = read("webdataset", files).bad
    assert bad.reason == "broken_archive" and "header of 3000" in bad.detail
