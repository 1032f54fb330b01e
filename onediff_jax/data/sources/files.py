"""Files by name, on this machine or wherever fsspec reaches (gs://, s3://, memory://, …)."""

import fnmatch
import functools
import os
import posixpath
from typing import BinaryIO

from onediff_jax.data.sources.base import BadData

# A picture or sidecar larger than this is a mistake or an attack, not a training record.
MAX_FILE_BYTES = 1 << 28


def is_remote(path: str) -> bool:
    return "://" in path


def join(folder: str, *names: str) -> str:
    """The path of a file in a folder; an absolute name stands for itself."""
    if is_remote(folder) and not any(is_remote(name) for name in names):
        scheme, rest = folder.split("://", 1)
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, *names))}"
    return names[-1] if is_remote(names[-1]) else os.path.normpath(os.path.join(folder, *names))


def parent(path: str) -> str:
    """The folder that holds a file."""
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path)


def is_folder(path: str) -> bool:
    return _remote(path).isdir(path) if is_remote(path) else os.path.isdir(path)


def is_file(path: str) -> bool:
    return _remote(path).isfile(path) if is_remote(path) else os.path.isfile(path)


def open_binary(path: str) -> BinaryIO:
    """The file, open for reading; OSError when it is not there."""
    return _remote(path).open(path, "rb") if is_remote(path) else open(path, "rb")


def size_of(path: str) -> int:
    """Bytes of a file."""
    return _remote(path).size(path) if is_remote(path) else os.path.getsize(path)


def read_bytes(path: str, limit: int | None = MAX_FILE_BYTES) -> bytes:
    """The whole file, of at most `limit` bytes.

    Raises:
      BadData: it does not exist or cannot be read ("missing_file"), is empty, or is too large.
    """
    try:
        with open_binary(path) as file:
            data = file.read(-1 if limit is None else limit + 1)
    except OSError as error:
        raise BadData("missing_file", error.strerror or type(error).__name__) from None
    if not data:
        raise BadData("empty_file")
    if limit is not None and len(data) > limit:
        raise BadData("too_large", f"more than {limit} bytes")
    return data


def list_tree(folder: str) -> list[str]:
    """All files below a folder, as paths relative to it with "/", in sorted order.

    Hidden files and folders (".git", "._photo.jpg") are left out; links to folders are followed
    once each.

    Raises:
      ValueError: no such folder.
    """
    if not is_folder(folder):
        raise ValueError(f"{folder!r} is not a folder")
    if is_remote(folder):
        system = _remote(folder)
        root = system._strip_protocol(folder).rstrip("/") + "/"
        names = [path.removeprefix(root) for path in system.find(folder)]
        return sorted(n for n in names if not any(p.startswith(".") for p in n.split("/")))
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back: without this the walk never ends
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(where, folder).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        found += [prefix + name for name in names if not name.startswith(".")]
    return sorted(found)


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
        names = [name for name in list_tree(folder) if fnmatch.fnmatchcase(name, pattern)]
    elif is_file(path):
        folder = parent(path) or "."
        names = [path.replace(os.sep, "/").rpartition("/")[2]]
    else:
        folder = path
        names = [name for name in list_tree(folder) if name.lower().endswith(suffixes)]
    if not names:
        raise ValueError(f"{path!r} has no file that ends with one of {suffixes}")
    return folder, names


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
