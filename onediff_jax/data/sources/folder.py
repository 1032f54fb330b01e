"""A folder of pictures, each with its caption beside it, or all captions in one table.

    cats/1.jpg   cats/1.txt        "a cat on a sofa"
    cats/2.png   cats/2.json       {"captions": ["a cat", "a sleeping cat"]}
    cats/3.webp                    no caption: an unlabelled picture

A .jsonl, .csv or .tsv file at the top of the folder holds the captions instead: `open_source` then
reads that table, see table.py.
"""

import collections
import json
from collections.abc import Iterator
from typing import Any

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    check_captions,
    decode_text,
    names_hash,
    pick_shard,
    shard_ranges,
)
from onediff_jax.data.sources.images import is_picture_name
from onediff_jax.data.sources.records import RecordReader

_SIDECARS = (".txt", ".json")
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
        names = files.list_tree(path)
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
        self._others = collections.Counter(
            files.split_suffix(name)[1]
            for name in names
            if not is_picture_name(name) and not name.lower().endswith(_SIDECARS)
        )
        self._captioned = sum(stem in self._sidecars for stem in stems)
        self._orphans = [
            name for stem, name in self._sidecars.items() if stem not in stems and not is_note(stem)
        ]
        self._shards = shard_ranges(len(self._pictures), shard_size)

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "names_sha256": self._names_hash,
            "pictures": len(self._pictures),
            "captions": self._captioned,
            "other_files": dict(sorted(self._others.items())),
            "reader": self._reader.describe(),
        }

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        indices = pick_shard(self._shards, shard)
        if indices.start == 0:  # captions without a picture belong to no other shard
            for name in self._orphans:
                yield BadRecord(name, "unmatched", "a caption without its picture")
        for index in indices:
            name = self._pictures[index]
            if name not in self._firsts:
                stem = files.split_suffix(name)[0]
                yield BadRecord(name, "duplicate_key", f"another picture is called {stem}")
                continue
            try:
                yield self._example(name)
            except BadData as error:
                yield error.record(name)

    def _example(self, name: str) -> RawExample:
        captions = picture_captions(self._path, name, self._sidecars, self._reader)
        if self._reader.require_caption and not captions:
            raise BadData("missing_field", "no caption")
        image = self._reader.images.read(files.join(self._path, name))
        return RawExample(name, "text2image", (image,), (captions,))


def is_note(stem: str) -> bool:
    """Whether a text file without a picture is a note about the folder and no lost caption."""
    return stem.lower() in _NO_CAPTIONS


def find_sidecars(names: list[str]) -> dict[str, str]:
    """Stem -> caption file, for sorted names; .txt wins over .json."""
    found = {}
    for suffix in reversed(_SIDECARS):
        for name in names:
            stem, own = files.split_suffix(name)
            if own == suffix:
                found[stem] = name
    return found


def read_sidecar(path: str, reader: RecordReader) -> tuple[str, ...]:
    """The captions in a .txt (one caption) or .json file (an object, a text or a list of texts).

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
    """The captions beside a picture; none without a sidecar."""
    stem = files.split_suffix(name)[0]
    return read_sidecar(files.join(folder, sidecars[stem]), reader) if stem in sidecars else ()
