"""WebDataset tars: neighbouring members that share a name up to the first dot are one record.

    000017.jpg  000017.txt            a picture and its caption
    000017.jpg  000017.json           {"caption": "…"}
    000018.target.jpg  000018.source.jpg  000018.txt     the pictures of a pair, by role

Nothing is ever unpacked to disk.
"""

import bz2
import gzip
import json
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from onediff_jax.data.sources import files, journal
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    decode_text,
    pick_shard,
    record_or_bad,
)
from onediff_jax.data.sources.images import is_picture_name
from onediff_jax.data.sources.records import RecordReader

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_OPENERS = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_CAPTIONS = ("txt", "caption", "text")
_MOST_MEMBERS = 64  # of a record: together they lie in memory
_MOST_HEADER = 1 << 20  # bytes of a member's extended header (a long name, its attributes)
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


class WebDatasetSource:
    """Tar files; each one is a shard.

    Args:
      path: a tar, a pattern such as "train-*.tar", or a folder of tars.
      reader: which fields mean what, and the task. The fields of a record are "image" for a plain
        picture member, the role for one such as "source.jpg", "caption" for a .txt member, and
        those of a .json member.

    Raises ValueError when there is no tar.
    """

    def __init__(self, path: str, reader: RecordReader):
        self._path, self._reader = path, reader
        self._folder, names = files.list_files(path, SUFFIXES)
        self._shards = {name: name for name in names}

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        sizes = [files.size_of(files.join(self._folder, name)) for name in self._shards]
        return {
            "path": self._path,
            "tars": len(self._shards),
            "bytes": sum(sizes),
            "reader": self._reader.describe(),
        }

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        name = pick_shard(self._shards, shard)
        if name == next(iter(self._shards)):
            files.pass_over_rest(self._path, self._shards, "no tar")
        files.note_whole(files.join(self._folder, name))
        seen: set[str] = set()
        for group in _groups(files.join(self._folder, name)):
            if isinstance(group, BadRecord):
                yield BadRecord(f"{name}/{group.key}", group.reason, group.detail)
                continue
            stem, members = group
            key = f"{name}/{stem}"
            if stem in seen:
                yield BadRecord(key, "duplicate_key", "an earlier record has this name")
                continue
            seen.add(stem)
            yield record_or_bad(key, lambda: self._example(key, members))  # noqa: B023 - at once

    def _example(self, key: str, members: list[tuple[str, bytes]]) -> RawExample:
        return self._reader.example(key, _fields(members), _as_bytes)


def _groups(path: str) -> Iterator[tuple[str, list[tuple[str, bytes]]] | BadRecord]:
    """(stem, [(extension, bytes)]) of a tar's records, in order, and what is bad in between."""
    stem, members, total = "", [], 0
    for member in _members(path):
        if isinstance(member, BadRecord):
            yield member
            continue
        name, data = member
        folder, base = posixpath.split(name)
        first, _, extension = base.partition(".")
        if not first or not extension:  # ._x of macOS, or a file without extension
            journal.pass_over(f"{path}/{name}", "no member of a record")
            continue
        this = posixpath.join(folder, first)
        if this != stem:
            if members:
                yield stem, members
            stem, members, total = this, [], 0
        if total + len(data) > files.MAX_FILE_BYTES or len(members) == _MOST_MEMBERS:
            detail = f"more than {files.MAX_FILE_BYTES} bytes or {_MOST_MEMBERS} members in one"
            yield BadRecord(name, "too_large", detail)
            continue
        total += len(data)
        members.append((extension.lower(), data))
    if members:
        yield stem, members


def _members(path: str) -> Iterator[tuple[str, bytes] | BadRecord]:
    """(name, bytes) of the regular files of a tar, and what is bad in it."""
    try:
        with (
            files.open_binary(path) as raw,
            _unpacked(path, raw) as file,
            tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue] it would keep a hundred thousand headers otherwise
                if member.isdir():
                    continue
                problem = _unsafe(member)
                if problem is not None:
                    yield problem
                    continue
                # Joined parts: "./000.jpg" and "000.jpg" are the same record.
                content = tar.extractfile(member)
                assert content is not None, "a regular file, or _unsafe would have said so"
                yield posixpath.normpath(member.name), content.read()
            _check_rest(file, tar.offset)
    except _BROKEN as error:
        yield BadRecord("(archive)", "broken_archive", f"{type(error).__name__}: {error}")


class _Member(tarfile.TarInfo):
    """A member whose extended headers are of a sane size; tarfile reads them whole."""

    def _proc_member(self, tar):
        headers = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        names = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in headers + names and self.size > _MOST_HEADER:
            raise tarfile.ReadError(
                f"an extended header of {self.size} bytes: the rest is not read"
            )
        return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]


def _unpacked(path: str, raw: BinaryIO) -> BinaryIO:
    opener = _OPENERS.get(files.split_suffix(path)[1])
    return raw if opener is None else opener(raw, "rb")


def _unsafe(member: tarfile.TarInfo) -> BadRecord | None:
    name = member.name
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return BadRecord(name, "unsafe_member", "an absolute name")
    if ".." in name.replace("\\", "/").split("/"):
        return BadRecord(name, "unsafe_member", "a name that leaves the archive")
    if not member.isfile():
        return BadRecord(name, "unsafe_member", "a link or a device")
    if not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name):
        return BadRecord(name, "bad_text", "a name that is not UTF-8")
    if member.size > files.MAX_FILE_BYTES:
        return BadRecord(name, "too_large", f"{member.size} bytes")
    return None


def _check_rest(file: BinaryIO, offset: int) -> None:
    """Raises unless only zeros follow: tarfile takes a damaged header for the end of the tar."""
    file.seek(offset)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header at byte {offset}: the rest is lost")


def _fields(members: list[tuple[str, bytes]]) -> dict[str, Any]:
    """The fields of a record: JSON first, then pictures by role and the caption."""
    fields: dict[str, Any] = {}
    for extension, data in members:
        if extension == "json":
            try:
                value = json.loads(decode_text(data, "json"))
            except (ValueError, RecursionError) as error:
                raise BadData("bad_metadata", f"json: {error}") from None
            if not isinstance(value, dict):
                raise BadData("bad_metadata", "json must be an object")
            fields |= value
    used: set[str] = set()
    for extension, data in members:
        if extension == "json":
            continue
        if is_picture_name("." + extension) or extension.endswith(".npy"):
            role = posixpath.splitext(extension)[0] if "." in extension else "image"
        else:
            role = "caption" if extension in _CAPTIONS else extension
        if role in used:
            raise BadData("duplicate_key", f"two members are its {role}")
        used.add(role)
        fields[role] = decode_text(data, role) if extension in _CAPTIONS else data
    return fields


def _as_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise BadData("missing_field", "the archive has no such picture")
    if not value:
        raise BadData("empty_file")
    return value
