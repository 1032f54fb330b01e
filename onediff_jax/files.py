"""Files that are whole or not there: JSON, replacing, syncing, hashing. Standard library only.

After a power cut a file that was only written and renamed may be there and empty. So what counts
is written beside its place, synced to the disk, renamed, and the folder that holds its name is
synced too. Paths may be pathlib's, or etils' for an object store, whose objects appear whole.
"""

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a disk without room
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_THREADS = 8  # that sync or hash the files of a folder
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class FileError(ValueError):
    """A file that cannot be read as what it should be; the message names it."""


def read_json(file: Any) -> Any:
    """The JSON value of a file.

    Raises FileError that names the file and says what is wrong: missing, empty, cut off, not JSON,
    or no ordinary file.
    """
    try:
        if is_remote(file):
            content = file.read_bytes()
        else:
            with open_regular(file) as opened:
                content = opened.read()
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from error
    if not content.strip(b" \t\r\n\0"):
        what = "empty" if not content else "blank: zeros or spaces alone"
        raise FileError(f"{file} cannot be read: it is {what}, as after a power cut")
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FileError(f"{file} cannot be read: it is not JSON, nor text ({error})") from error
    except json.JSONDecodeError as error:
        cut = error.pos >= len(content.decode("utf-8").rstrip())
        what = "cut off" if cut or "Unterminated" in error.msg else "not JSON"
        raise FileError(f"{file} cannot be read: it is {what} ({error})") from error
    except RecursionError as error:
        raise FileError(f"{file} cannot be read: its values are nested too deeply") from error


def read_object(file: Any, *names: str) -> dict[str, Any]:
    """The JSON object of a file, which has these names. Raises FileError as `read_json` does."""
    value = read_json(file)
    if not isinstance(value, dict):
        raise FileError(f"{file} must hold a JSON object, not {type(value).__name__}")
    if missing := [name for name in names if name not in value]:
        raise FileError(f"{file} lacks {', '.join(missing)}: it is not the file it was")
    return value


def write_json(file: Any, value: Any, *, indent: int | None = 2) -> None:
    """Writes a JSON value with sorted keys: whole or not at all, and on the disk on return."""
    replace_file(file, (json.dumps(value, indent=indent, sort_keys=True) + "\n").encode())


def replace_file(file: Any, content: bytes) -> None:
    """Makes `content` the content of a file: whole or not at all, and on the disk on return."""
    if is_remote(file):
        file.write_bytes(content)
        return
    file = Path(file)
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def is_remote(path: Any) -> bool:
    """Whether a path is of an object store, such as gs://bucket/folder."""
    return "://" in str(path)


def open_regular(file: str | os.PathLike) -> io.BufferedReader:
    """Opens an ordinary file for reading; never waits for the other end of a FIFO or a device.

    Raises FileError where it is something else, OSError where it cannot be opened.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
        raise FileError(f"{file} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")
    return open(handle, "rb")


def file_hash(file: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open_regular(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of a folder, by their names relative to it; several are read at a time."""
    names = sorted(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: file_hash(folder / name), names), strict=True))


def text_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, as hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sync_file(file: str | os.PathLike) -> None:
    """Returns when a file's bytes are on the disk."""
    _sync(file, os.O_RDONLY)


def sync_folder(folder: str | os.PathLike) -> None:
    """Returns when the names in a folder are on the disk (what they name may not be)."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(folder: str | os.PathLike) -> None:
    """Returns when everything in a folder is on the disk: files, folders, and their names."""
    files, folders = [], []
    for parent, _, names in os.walk(folder):
        folders.append(parent)
        files += [path for path in (os.path.join(parent, n) for n in names) if _is_regular(path)]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(sync_file, files))
    for parent in reversed(folders):  # the inner ones first
        sync_folder(parent)


def replace_folder(new: Path, out: Path) -> None:
    """Gives the folder `new` the name `out`, at every moment whole; what was there is removed.

    Both must be on one file system. All of `new` is on the disk before it gets the name. Linux
    exchanges two names in one go. Where that is not supported (some network file systems), what was
    there is renamed first; a process that dies in between leaves it for `recover_folder`.
    """
    sync_tree(new)
    aside = _aside(out)
    if not out.exists():
        new.rename(out)
    elif exchange(new, out):
        sync_folder(out.parent)
        shutil.rmtree(new, ignore_errors=True)
    else:
        shutil.rmtree(aside, ignore_errors=True)
        out.rename(aside)
        try:
            new.rename(out)
        except OSError:
            aside.rename(out)
            raise
        sync_folder(out.parent)
        shutil.rmtree(aside, ignore_errors=True)
    sync_folder(out.parent)


def recover_folder(out: Path) -> bool:
    """Finishes what a `replace_folder` that died left; whether an earlier folder came back."""
    aside = _aside(out)
    if not aside.is_dir():
        return False
    if out.exists():
        shutil.rmtree(aside, ignore_errors=True)
        return False
    aside.rename(out)
    sync_folder(out.parent)
    return True


def exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two files or folders in one step; False where it is not supported."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), f"{one} ↔ {other}")


@contextlib.contextmanager
def full_disk_named(folder: str | os.PathLike) -> Iterator[None]:
    """Adds to an OSError of a full disk which folder it was about, and how much is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        try:
            free = f"{shutil.disk_usage(folder).free / 1e9:.2f} GB free"
        except OSError:
            free = "how much is free is not known"
        raise OSError(error.errno, f"the disk of {folder} is full ({free})") from error


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced")


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError as error:
        if error.errno in _ABSENT:  # removed meanwhile
            return False
        raise


def _sync(path: str | os.PathLike, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # it cannot be synced
            raise
    finally:
        os.close(handle)
