"""Files by name, on this machine or wherever fsspec reaches (gs://, s3://, memory://, …)."""

import errno
import fnmatch
import functools
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterable
from typing import Any, BinaryIO

from onediff_jax.data.sources import journal
from onediff_jax.data.sources.base import BadData
from onediff_jax.data.sources.journal import Content

# A picture or sidecar larger than this is a mistake or an attack, not a training record.
MAX_FILE_BYTES = 1 << 28
_HIDDEN = "hidden"
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?=[-_./]|$)")
_STORE = "store:"  # begins the identity of a remote file that was not hashed


def is_remote(path: str) -> bool:
    return "://" in path


def join(folder: str, *names: str) -> str:
    """The path of a file in a folder; an absolute name stands for itself."""
    if is_remote(folder) and not any(is_remote(name) for name in names):
        scheme, rest = folder.split("://", 1)
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, *names))}"
    return names[-1] if is_remote(names[-1]) else os.path.normpath(os.path.join(folder, *names))


def find_below(root: str, name: Any, *, top: str | None = None, allow_outside: bool = False) -> str:
    """The path of a file that a row or an annotation names, relative to a folder.

    Windows' separators are taken as such where no file has them in its name.

    Args:
      top: the folder below which the file must lie; None: `root`.
      allow_outside: rows may name any file and any URL.

    Raises:
      BadData: not a name ("bad_metadata"), or a file elsewhere ("outside").
    """
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str):
        raise BadData("bad_metadata", f"a file name must be text, got {type(name).__name__}")
    if not name.strip() or "\0" in name:
        raise BadData("bad_metadata", f"{name!r} is no file name")
    top, path = root if top is None else top, join(root, name)
    if "\\" in name and not is_remote(name) and not (_is_below(top, path) and is_file(path)):
        path = join(root, name.replace("\\", "/"))
    if not allow_outside and not _is_below(top, path):
        raise BadData(
            "outside",
            f"{name} is not below {top or '.'}; allow_outside=True (--allow_outside) reads it",
        )
    return path


def _is_below(root: str, path: str) -> bool:
    if is_remote(root) or is_remote(path):
        return path.startswith(f"{root.rstrip('/')}/")
    top = os.path.abspath(root)
    return os.path.abspath(path).startswith(top if top.endswith(os.sep) else top + os.sep)


def parent(path: str) -> str:
    """The folder that holds a file."""
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path)


def is_folder(path: str) -> bool:
    return _remote(path).isdir(path) if is_remote(path) else os.path.isdir(path)


def is_file(path: str) -> bool:
    return _remote(path).isfile(path) if is_remote(path) else os.path.isfile(path)


def open_binary(path: str) -> BinaryIO:
    """The file, open for reading; OSError when it is not there or is no regular file.

    A pipe or a device is not opened: reading one may wait for ever.
    """
    if is_remote(path):
        return _remote(path).open(path, "rb")
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
            raise OSError(errno.EINVAL, f"{kind}, not a file", path)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def size_of(path: str) -> int:
    """Bytes of a file."""
    return _remote(path).size(path) if is_remote(path) else os.path.getsize(path)


def read_bytes(path: str, limit: int | None = MAX_FILE_BYTES) -> bytes:
    """The whole file, of at most `limit` bytes.

    Raises:
      BadData: it does not exist or cannot be read ("missing_file"), is empty, or is too large.
    """
    try:
        stamp = _stamp(path) if journal.is_kept() else ()
        with open_binary(path) as file:
            data = file.read(-1 if limit is None else limit + 1)
    except Exception as error:  # remote file systems have error types of their own
        journal.note_input(path, Content(None))
        detail = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise BadData("missing_file", detail if path in detail else f"{path}: {detail}") from None
    if journal.is_kept():
        journal.note_input(path, Content(hashlib.sha256(data).hexdigest(), stamp))
    if not data:
        raise BadData("empty_file")
    if limit is not None and len(data) > limit:
        raise BadData("too_large", f"more than {limit} bytes")
    return data


def note_whole(path: str) -> None:
    """Notes that a record depends on a file, or on part of it, that is not read by `read_bytes`.

    A remote one is known by what its store says of it: hashing would fetch it twice.
    """
    if journal.is_kept():
        journal.note_input(path, _look_at(path, fetch=False))


def is_unchanged(path: str, content: Content) -> bool:
    """Whether a file still holds what it held: by its stamp, else by its hash."""
    fetch = not (content.sha256 or "").startswith(_STORE)
    now = _look_at(path, fetch=fetch, known=content)
    return now.sha256 == content.sha256


def _look_at(path: str, *, fetch: bool, known: Content | None = None) -> Content:
    """What a file holds now; hashed once per process and stamp."""
    try:
        stamp = _stamp(path)
        if known is not None and known.sha256 and stamp == known.stamp:
            return known
        if is_remote(path) and not fetch:
            return Content(f"{_STORE}{stamp[0]}", stamp)
        return Content(_hash(path, stamp), stamp)
    except Exception:  # remote file systems have error types of their own
        return Content(None)


def _stamp(path: str) -> tuple[int | str, ...]:
    if is_remote(path):
        return (str(_remote(path).ukey(path)),)
    status = os.stat(path)
    # The time of the last change of state cannot be set back, unlike that of the content.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@functools.lru_cache(maxsize=1024)
def _hash(path: str, stamp: tuple) -> str:
    """SHA-256 of a file that has that stamp."""
    del stamp  # part of the cache's key alone
    with open_binary(path) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def list_tree(folder: str) -> list[str]:
    """All files below a folder, as paths relative to it with "/", in sorted order.

    Hidden files and folders (".git", "._photo.jpg") are left out; links to folders are followed
    once each.

    Raises:
      ValueError: no such folder.
    """
    return walk_tree(folder)[0]


def walk_tree(folder: str) -> tuple[list[str], list[tuple[str, str]]]:
    """What `list_tree` gives, and (name, why) of what it leaves out.

    Raises:
      ValueError: no such folder.
    """
    if not is_folder(folder):
        raise ValueError(f"{folder!r} is not a folder")
    if is_remote(folder):
        system = _remote(folder)
        root = system._strip_protocol(folder).rstrip("/") + "/"
        names = sorted(path.removeprefix(root) for path in system.find(folder))
        hidden = [n for n in names if any(p.startswith(".") for p in n.split("/"))]
        unwanted = set(hidden)
        return [n for n in names if n not in unwanted], [(n, _HIDDEN) for n in hidden]
    found: list[str] = []
    left: list[tuple[str, str]] = []
    seen: set[str] = set()

    def relative(path: str) -> str:
        return os.path.relpath(path, folder).replace(os.sep, "/")

    def failed(error: OSError) -> None:
        left.append((f"{relative(error.filename)}/", f"cannot be listed: {error.strerror}"))

    for where, folders, names in os.walk(folder, onerror=failed, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back: without this the walk never ends
            left.append((f"{relative(where)}/", "a link to a folder that is read already"))
            folders.clear()
            continue
        seen.add(real)
        prefix = "" if (path := relative(where)) == "." else path + "/"
        left += [(f"{prefix}{name}/", _HIDDEN) for name in folders if name.startswith(".")]
        left += [(prefix + name, _HIDDEN) for name in names if name.startswith(".")]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [prefix + name for name in names if not name.startswith(".")]
    return sorted(found), sorted(left)


def pass_over_rest(folder: str, used: Iterable[str], why: str) -> None:
    """Notes every file below a folder that is not among `used`, relative to it, see journal.py."""
    if not journal.is_kept() or is_remote(folder) or not is_folder(folder):
        return
    names, hidden = walk_tree(folder)
    used = set(used)
    for name, reason in [*hidden, *((name, why) for name in names if name not in used)]:
        journal.pass_over(name, reason)


def list_files(path: str, suffixes: tuple[str, ...]) -> tuple[str, list[str]]:
    """The files a path stands for: one file, a pattern with *, or all with a suffix in a folder.

    Returns:
      The folder and the sorted names relative to it.

    Raises:
      ValueError: nothing found.
    """
    if "*" in path or "?" in path:
        folder, pattern = parent(path) or ".", path.replace(os.sep, "/").rpartition("/")[2]
        if "*" in folder or "?" in folder:
            raise ValueError(f"{path=}: only the file's name may have * or ?, not its folder")
        names = [n for n in list_tree(folder) if "/" not in n and fnmatch.fnmatchcase(n, pattern)]
    elif is_file(path):
        folder = parent(path) or "."
        names = [path.replace(os.sep, "/").rpartition("/")[2]]
    else:
        folder = path
        names = [name for name in list_tree(folder) if name.lower().endswith(suffixes)]
    if not names:
        raise ValueError(f"{path!r} has no file that ends with one of {suffixes}")
    return folder, names


def several_splits(path: str) -> str | None:
    """A sentence where a folder's files, or their folders, name the training split and another:
    whoever gives the folder may train on what is to measure it. None for others."""
    if is_remote(path) or not is_folder(path):
        return None
    found: dict[str, str] = {}
    for name in list_tree(path):
        for part in name.split("/"):
            if match := _SPLIT.match(part.lower()):
                found.setdefault(match[1], name)
    if "train" not in found or len(found) == 1:
        return None
    shown = ", ".join(f"{split} ({name})" for split, name in sorted(found.items()))
    return f"{path} holds several splits: {shown}. All are read; give one of them to keep it apart"


def find_table(folder: str, suffixes: tuple[str, ...]) -> str | None:
    """The one file with such a suffix at the top of a folder; None without one.

    Raises:
      ValueError: there are several.
    """
    if is_remote(folder):
        names = [posixpath.basename(n) for n in _remote(folder).ls(folder, detail=False)]
    else:
        names = os.listdir(folder)
    names = sorted(n for n in names if n.lower().endswith(suffixes) and not n.startswith("."))
    if len(names) > 1:
        raise ValueError(f"{folder!r} has several tables, give one of them as the path: {names}")
    return names[0] if names else None


def split_suffix(name: str) -> tuple[str, str]:
    """("a/b.c", ".jpg") of "a/b.c.JPG"."""
    stem, suffix = posixpath.splitext(name)
    return stem, suffix.lower()


@functools.lru_cache(maxsize=8)
def _system(scheme: str):
    import fsspec  # loaded only for remote paths

    return fsspec.filesystem(scheme)


def _remote(path: str):
    return _system(path.split("://", 1)[0])
