"""Files that are whole or not there."""

import errno
import json
import os
import subprocess
import sys

import pytest

from onediff_jax import files


@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "it is empty"),
        (b"\0\0\0\0", "it is blank"),
        (b'{"a": 1', "it is cut off"),
        (b'{"a": "b', "it is cut off"),
        (b'{"a": 1}}', "it is not JSON"),
        (b"hello", "it is not JSON"),
        (b"\xff\xfe\x00", "not JSON, nor text"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_json_is_said(tmp_path, content, what):
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(files.FileError, match=what) as error:
        files.read_json(file)
    assert str(error.value).startswith(f"{file} cannot be read")


@pytest.mark.parametrize(
    "content, what",
    [
        ("[]", "must hold a JSON object, not list"),
        ("null", "must hold a JSON object, not NoneType"),
        ("{}", "lacks config, train"),
    ],
)
def test_an_object_has_what_it_needs(tmp_path, content, what):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(files.FileError, match=what) as error:
        files.read_object(file, "config", "train")
    assert str(error.value).startswith(str(file))
    file.write_text('{"config": 1, "train": 2}')
    assert files.read_object(file, "config", "train") == {"config": 1, "train": 2}


def test_json_that_is_not_there(tmp_path):
    with pytest.raises(files.FileError, match="No such file"):
        files.read_json(tmp_path / "none.json")


def test_nothing_waits_for_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for read in (files.read_json, files.file_hash):
        with pytest.raises(files.FileError, match="fifo is a FIFO, not a file"):
            read(tmp_path / "fifo")
    with pytest.raises(files.FileError, match="null is a device, not a file"):
        files.file_hash("/dev/null")
    files.sync_tree(tmp_path)


def test_json_is_written_whole(tmp_path):
    file = tmp_path / "x.json"
    files.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1} == files.read_json(file)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    files.write_json(file, 1)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(file, 2)
    assert files.read_json(file) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_order_of_a_replacement(tmp_path, monkeypatch):
    """Bytes first, then the name, then the folder that holds it."""
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        files.os, "fsync", lambda h: (events.append(os.readlink(f"/proc/self/fd/{h}")), fsync(h))
    )
    monkeypatch.setattr("os.replace", lambda a, b: (events.append("rename"), replace(a, b)))
    files.replace_file(tmp_path / "x", b"1")
    assert events[-1] == str(tmp_path) and events[0].startswith(f"{tmp_path}/.x.")
    assert len(events) in (2, 3)  # newer pathlibs rename without os.replace


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    found = files.file_hashes(tmp_path, ["b", "a"])
    assert found["a"].startswith("ba7816bf8f01cfea") and found["b"].startswith("e3b0c44298fc1c14")
    assert files.text_hash({"b": 1, "a": 2}) == files.text_hash({"a": 2, "b": 1})


def folder(path, content):
    path.mkdir()
    (path / "inner").mkdir()
    (path / "inner" / "file").write_text(content)
    return path


def content(path):
    return (path / "inner" / "file").read_text()


@pytest.mark.parametrize("exchanges", [True, False])
def test_replacing_a_folder(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    out = tmp_path / "out"
    for text in ("one", "two"):
        files.replace_folder(folder(tmp_path / "new", text), out)
        assert content(out) == text
        assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_replacement_that_died_between_two_renames(tmp_path):
    out, aside = tmp_path / "out", tmp_path / ".out.replaced"
    folder(aside, "old")
    assert files.recover_folder(out) and content(out) == "old"
    folder(aside, "older")
    assert not files.recover_folder(out) and content(out) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="one system call of Linux")
def test_the_name_is_never_missing(tmp_path):
    """Someone who looks all the time finds the old folder or the new one."""
    out = folder(tmp_path / "out", "0")
    watch = (
        "import os, sys\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists(sys.argv[2]):\n"
        "    os.stat(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", watch, str(out), str(tmp_path / "end")]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watching.stdout.readline()
    for number in range(20):
        files.replace_folder(folder(tmp_path / "new", str(number)), out)
    (tmp_path / "end").touch()
    assert watching.communicate(timeout=20)[1] == "" and watching.returncode == 0
