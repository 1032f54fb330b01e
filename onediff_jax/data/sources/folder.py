"""A folder of pictures, each with its caption beside it, or all captions in one table.

    cats/1.jpg   cats/1.txt        "a cat on a sofa"
    cats/2.png   cats/2.json       {"captions": ["a cat", "a sleeping cat"]}
    cats/3.webp                    no caption: an unlabelled picture

A .jsonl, .csv or .tsv file at the top of the folder holds the captions instead: `open_source` then
reads that table, see table.py.
"""

import collections
import json
import posixpath
from collections.abc import Iterator
from typing import Any

from onediff_jax.data.sources import files, journal
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    check_captions,
    decode_text,
    names_hash,
    pick_shard,
    record_or_bad,
    shard_ranges,
)
from onediff_jax.data.sources.images import is_picture_name
from onediff_jax.data.sources.records import RecordReader

_SIDECARS = (".txt", ".caption", ".json")
# Stems of text files that people put beside pictures and that are no captions.
_NO_CAPTIONS = ("readme", "license", "licence", "notice", "classes", "dataset_info", "metadata")


class FolderSource:
    """Pictures with sidecar captions, all below a folder.

    Args:
      path: the folder.
      reader: decoding, `require_caption` and the caption field of JSON sidecars. The task must be
        text2image: a folder holds nothing else.
      shard_size: pictures per shard.

    Raises ValueError for another task, or no picture at all.
    """

    def __init__(self, path: str, reader: RecordReader, *, shard_size: int = 1000):
        if reader.task != "text2image":
            raise ValueError(
                f"a picture folder holds text2image, not {reader.task}; use a table, or one of "
                "the formats 'paired', 'identity', 'subject' and 'editing'"
            )
        self._path, self._reader = path, reader
        names, self._hidden = files.walk_tree(path)
        self._names_hash = names_hash(names)
        self._pictures = [name for name in names if is_picture_name(name)]
        if not self._pictures:
            raise ValueError(f"{path!r} has no picture")
        self._sidecars = find_sidecars(names)
        # Two pictures that share a stem would share a caption: only the first one counts.
        stems: dict[str, str] = {}
        for name in self._pictures:
            stems.setdefault(files.split_suffix(name)[0], name)
        self._firsts = frozenset(stems.values())
        used = {sidecar_of(name, self._sidecars) for name in stems.values()} - {None}
        self._captioned = len(used)
        texts = [name for name in names if files.split_suffix(name)[1] in _SIDECARS]
        lost = [name for name in texts if name not in used and not _is_shadowed(name, used)]
        self._orphans = [name for name in lost if not is_note(files.split_suffix(name)[0])]
        taken = {*self._pictures, *used, *self._orphans}
        self._others = [name for name in names if name not in taken]
        self._shards = shard_ranges(len(self._pictures), shard_size)

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "names_sha256": self._names_hash,
            "pictures": len(self._pictures),
            "captions": self._captioned,
            "other_files": self._count_others(),
            "reader": self._reader.describe(),
        }

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        indices = pick_shard(self._shards, shard)
        if indices.start == 0:
            for name, why in [*self._hidden, *((n, _why_not(n)) for n in self._others)]:
                journal.pass_over(name, why)
            # Captions without a picture belong to no other shard.
            for name in self._orphans:
                yield BadRecord(name, "unmatched", "a caption without its picture")
        for index in indices:
            name = self._pictures[index]
            if name not in self._firsts:
                stem = files.split_suffix(name)[0]
                yield BadRecord(name, "duplicate_key", f"another picture is called {stem}")
                continue
            yield record_or_bad(name, lambda: self._example(name))  # noqa: B023 - called at once

    def _count_others(self) -> dict[str, int]:
        counts = collections.Counter(files.split_suffix(name)[1] for name in self._others)
        return {suffix: n for suffix, n in sorted(counts.items()) if suffix not in _SIDECARS}

    def _example(self, name: str) -> RawExample:
        captions = picture_captions(self._path, name, self._sidecars, self._reader)
        if self._reader.require_caption and not captions:
            raise BadData("missing_field", "no caption")
        image = self._reader.images.read(files.join(self._path, name))
        return RawExample(name, "text2image", (image,), (captions,))


def is_note(stem: str) -> bool:
    """Whether a text file without a picture is a note about the folder and no lost caption."""
    return posixpath.basename(stem).lower() in _NO_CAPTIONS


def find_sidecars(names: list[str]) -> dict[str, str]:
    """Stem -> caption file, for sorted names; .txt wins over .caption, that over .json."""
    found = {}
    for suffix in reversed(_SIDECARS):
        for name in names:
            stem, own = files.split_suffix(name)
            if own == suffix:
                found[stem] = name
    return found


def read_sidecar(path: str, reader: RecordReader) -> tuple[str, ...]:
    """The captions in a file beside a picture: .txt and .caption hold one, .json an object, a text
    or a list of texts.

    An empty file is no caption.

    Raises:
      BadData: not UTF-8, or not a caption.
    """
    try:
        text = decode_text(files.read_bytes(path), "caption")
    except BadData as error:
        if error.reason != "empty_file":
            raise
        text = ""
    if not path.lower().endswith(".json") or not text.strip():
        return check_captions(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadData("bad_metadata", f"caption file: {error}") from None
    return check_captions(reader.get(value, "caption") if isinstance(value, dict) else value)


def picture_captions(
    folder: str, name: str, sidecars: dict[str, str], reader: RecordReader
) -> tuple[str, ...]:
    """The captions beside a picture, as 1.txt or 1.jpg.txt of 1.jpg; none without a sidecar."""
    sidecar = sidecar_of(name, sidecars)
    return () if sidecar is None else read_sidecar(files.join(folder, sidecar), reader)


def sidecar_of(name: str, sidecars: dict[str, str]) -> str | None:
    """The caption file of a picture."""
    return sidecars.get(files.split_suffix(name)[0], sidecars.get(name))


def _is_shadowed(name: str, used: set[str | None]) -> bool:
    """Whether another caption file of the same picture is read."""
    stem, own = files.split_suffix(name)
    return any(stem + s in used for s in _SIDECARS if s != own)


def _why_not(name: str) -> str:
    """Why a file of a picture folder is part of no record."""
    suffix = files.split_suffix(name)[1]
    if suffix in _SIDECARS:
        note = is_note(files.split_suffix(name)[0])
        return "a note" if note else "another caption file of its picture is read"
    if suffix in (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"):
        return "a table in a sub-folder: give it as --input"
    return f"no picture and no caption ({suffix or 'no extension'})"
