"""Folders whose files belong together by name: conditions, edits and subjects.

Paired conditions, for one task:

    images/7.jpg  conditions/7.png  [captions/7.txt, or images/7.txt]

Edit triplets: source/7.jpg, target/7.jpg and instructions/7.txt. Subject pairs: target/7.jpg,
source/7.jpg, captions/7.txt, and the item's name in items/7.txt. Each of these can be a table
instead, see table.py.
"""

import posixpath
from collections.abc import Iterator
from typing import Any

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import (
    BadRecord,
    RawExample,
    names_hash,
    pick_shard,
    record_or_bad,
    shard_ranges,
)
from onediff_jax.data.sources.folder import find_sidecars, is_note, read_sidecar
from onediff_jax.data.sources.images import is_picture_name
from onediff_jax.data.sources.records import RecordReader


class PairSource:
    """Folders with files of the same name, up to the extension.

    Args:
      path: the folder that holds the others.
      reader: the task (one with a second picture) and how its condition is read.
      image_folder, source_folder: of the targets, and of the other pictures. In a task of one's
        own each other role has the folder of its name, which may be missing where its pictures are
        made from the targets.
      caption_folder: of .txt or .json captions (instructions for image_editing); None: they are
        beside the targets.
      item_folder: of .txt files with the subject's name (subject_driven).
      shard_size: pairs per shard.

    Raises ValueError for a task without a second picture, or a folder that is not there or empty.
    """

    def __init__(
        self,
        path: str,
        reader: RecordReader,
        *,
        image_folder: str = "images",
        source_folder: str = "conditions",
        caption_folder: str | None = None,
        item_folder: str | None = None,
        shard_size: int = 1000,
    ):
        if reader.definition.group not in ("i2i", "identity"):
            raise ValueError(f"task {reader.task} has no second picture")
        if reader.definition.item and item_folder is None:
            raise ValueError(f"{reader.task} needs item_folder")
        self._path, self._reader = path, reader
        self._roles = {"image": image_folder, "source": source_folder}
        if reader.own:
            lacking = set(reader.definition.frames) - set(reader.needed())
            others = [r for r in reader.definition.frames[1:] if r not in lacking or self._has(r)]
            self._roles = {"image": image_folder, **{role: role for role in others}}
        self._parts, self._repeated = {}, []
        for role, folder in self._roles.items():
            self._parts[role] = self._pictures(folder)
        texts = {"caption": caption_folder or image_folder, "item": item_folder}
        for role, folder in texts.items():
            if folder is not None:
                names = files.list_tree(files.join(path, folder))
                sidecars = find_sidecars(names)
                self._parts[role] = {s: posixpath.join(folder, n) for s, n in sidecars.items()}
        self._stems = sorted({stem for role in self._roles for stem in self._parts[role]})
        self._shards = shard_ranges(len(self._stems), shard_size)

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        counts = {role: len(names) for role, names in self._parts.items()}
        names = names_hash(n for part in self._parts.values() for n in sorted(part.values()))
        return {
            "path": self._path,
            "names_sha256": names,
            **counts,
            **self._roles,
            "reader": self._reader.describe(),
        }

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        indices = pick_shard(self._shards, shard)
        if indices.start == 0:
            used = {name for part in self._parts.values() for name in part.values()}
            rest = "no picture or caption of these folders"
            files.pass_over_rest(self._path, {*used, *self._repeated}, rest)
            for name in self._repeated:
                yield BadRecord(name, "duplicate_key", "another picture has this name")
            for name in self._lone_captions():
                yield BadRecord(name, "unmatched", "a caption without its picture")
        for index in indices:
            stem = self._stems[index]
            missing = [role for role in self._roles if stem not in self._parts[role]]
            if missing:
                have = next(self._parts[r][stem] for r in self._roles if r not in missing)
                folder = self._roles[missing[0]]
                yield BadRecord(have, "unmatched", f"no picture of this name in {folder}")
                continue
            key = self._parts["image"][stem]
            yield record_or_bad(key, lambda: self._example(stem))  # noqa: B023 - called at once

    def _example(self, stem: str) -> RawExample:
        row: dict[str, Any] = {role: self._parts[role][stem] for role in self._roles}
        if stem in self._parts["caption"]:
            captions = read_sidecar(self._full(self._parts["caption"][stem]), self._reader)
            row["caption"] = list(captions)
        if stem in self._parts.get("item", {}):
            item = read_sidecar(self._full(self._parts["item"][stem]), self._reader)
            row["item"] = item[0] if item else None
        return self._reader.example(row["image"], row, lambda name: self._load(name))

    def _has(self, folder: str) -> bool:
        return files.is_folder(files.join(self._path, folder))

    def _load(self, name: str) -> bytes:
        return files.read_bytes(self._full(name))

    def _full(self, name: str) -> str:
        return files.join(self._path, name)

    def _pictures(self, folder: str) -> dict[str, str]:
        """Stem -> name of the pictures (and .npy depth maps) in a folder."""
        found: dict[str, str] = {}
        for name in files.list_tree(files.join(self._path, folder)):
            if not (is_picture_name(name) or name.endswith(".npy")):
                continue
            stem, full = files.split_suffix(name)[0], posixpath.join(folder, name)
            if stem in found:
                self._repeated.append(full)
            found.setdefault(stem, full)
        if not found:
            raise ValueError(f"{files.join(self._path, folder)!r} has no picture")
        return found

    def _lone_captions(self) -> list[str]:
        """Captions that belong to no picture of either folder."""
        stems = set(self._stems)
        captions = self._parts["caption"].items()
        return [name for stem, name in captions if stem not in stems and not is_note(stem)]
