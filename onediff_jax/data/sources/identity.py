"""One folder per subject, with its pictures and their captions.

    people/anna/1.jpg  people/anna/1.txt
    people/anna/2.jpg  people/anna/2.txt
    people/anna/item.txt     the subject's name, for subject_driven

Every picture is the target of one example; up to four others of the subject are its sources.
"""

import collections
import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    check_text,
    decode_text,
    given,
    names_hash,
    pick_shard,
    rng_for,
    shard_ranges,
)
from onediff_jax.data.sources.folder import find_sidecars, picture_captions, sidecar_of
from onediff_jax.data.sources.images import is_picture_name
from onediff_jax.data.sources.labels import check_label
from onediff_jax.data.sources.records import RecordReader
from onediff_jax.tasks.definitions import get_task

_ITEM = "item.txt"
# Decoded pictures of a subject that are kept while its examples are made.
_KEEP = 16


class IdentitySource:
    """Subject folders.

    Args:
      path: the folder of the subjects' folders.
      reader: task faceid or subject_driven, and decoding.
      min_views, max_views: pictures in an example, the target included; drawn per example.
      nested: pictures of a subject may lie in several folders of its own.
      seed: which other pictures go with a target.
      shard_size: subjects per shard.

    Raises ValueError for another task, no subject, or views that the task does not allow.
    """

    def __init__(
        self,
        path: str,
        reader: RecordReader,
        *,
        min_views: int = 2,
        max_views: int = 5,
        nested: bool = False,
        seed: int = 0,
        shard_size: int = 50,
    ):
        task = get_task(reader.task)
        if task.group != "identity":
            raise ValueError(f"identity folders hold faceid or subject_driven, not {task.name}")
        if not task.min_frames <= min_views <= max_views <= task.max_frames:
            raise ValueError(
                f"{min_views=} and {max_views=} must be in {task.min_frames}..{task.max_frames}"
            )
        self._path, self._reader, self._seed = path, reader, seed
        self._views = (min_views, max_views)
        self._subjects: dict[str, list[str]] = collections.defaultdict(list)
        self._loose = []
        for name in files.list_tree(path):
            subject, _, inner = name.partition("/")
            if inner:
                self._subjects[subject].append(inner)
            elif is_picture_name(name):
                self._loose.append(name)
        if not self._subjects:
            raise ValueError(f"{path!r} has no subject folders")
        self._nested = nested
        if not nested:
            self._check_depth()
        self._names = sorted(self._subjects)
        self._shards = shard_ranges(len(self._names), shard_size)

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        pictures = sum(is_picture_name(n) for names in self._subjects.values() for n in names)
        return {
            "path": self._path,
            "reader": self._reader.describe(),
            "names_sha256": names_hash(f"{s}/{n}" for s in self._names for n in self._subjects[s]),
            "subjects": len(self._names),
            "pictures": pictures,
            "views": list(self._views),
            "seed": self._seed,
            **given(nested=self._nested),
        }

    def _check_depth(self) -> None:
        """Raises ValueError for folders of folders: nothing says which of them are a subject."""
        for subject, names in self._subjects.items():
            inside = sorted({posixpath.dirname(name) for name in names if is_picture_name(name)})
            if len(inside) > 1 and "" not in inside:
                raise ValueError(
                    f"{self._path!r}: the pictures of {subject!r} lie in {len(inside)} folders "
                    f"such as {inside[:3]}. Where these are the subjects, give the folder that "
                    f"holds them ({files.join(self._path, subject)}); where {subject!r} is one "
                    "subject, nested=True"
                )

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        indices = pick_shard(self._shards, shard)
        if indices.start == 0:
            rest = "no picture of a subject, nor its caption"
            files.pass_over_rest(self._path, self._used(), rest)
            for name in self._loose:
                yield BadRecord(name, "unmatched", "a picture outside the subjects' folders")
        for index in indices:
            yield from self._subject(self._names[index])

    def _used(self) -> Iterator[str]:
        yield from self._loose
        for subject, names in self._subjects.items():
            sidecars = find_sidecars([name for name in names if name != _ITEM])
            pictures = [name for name in names if is_picture_name(name)]
            texts = [sidecar_of(name, sidecars) for name in pictures]
            items = [_ITEM] if self._reader.task == "subject_driven" else []
            yield from (f"{subject}/{name}" for name in [*pictures, *texts, *items] if name)

    def _subject(self, subject: str) -> Iterator[RawExample | BadRecord]:
        folder = files.join(self._path, subject)
        names = self._subjects[subject]
        sidecars = find_sidecars([name for name in names if name != _ITEM])
        try:
            item = self._item(folder, names)
        except BadData as error:
            yield error.record(f"{subject}/{_ITEM}")
            return
        cache: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
        pictures, captions = [], {}
        for name in (name for name in names if is_picture_name(name)):
            try:
                captions[name] = picture_captions(folder, name, sidecars, self._reader)
                if self._reader.require_caption and not captions[name]:
                    raise BadData("missing_field", "no caption")
                self._picture(folder, name, cache)
                pictures.append(name)
            except BadData as error:
                yield error.record(f"{subject}/{name}")
        if len(pictures) < self._views[0]:
            yield BadRecord(subject, "too_few_views", f"{len(pictures)} usable pictures")
            return
        for target in pictures:
            chosen = self._choose(subject, target, pictures)
            images = tuple(self._picture(folder, name, cache) for name in chosen)
            texts = tuple(captions[name] for name in chosen)
            extras = {"files": chosen}
            key = f"{subject}/{target}"
            yield RawExample(
                key, self._reader.task, images, texts, item=item, group=subject, extras=extras
            )

    def _choose(self, subject: str, target: str, pictures: list[str]) -> list[str]:
        rng = rng_for("identity", self._seed, subject, target)
        count = int(rng.integers(self._views[0], min(self._views[1], len(pictures)) + 1))
        others = [name for name in pictures if name != target]
        return [target, *(str(n) for n in rng.permutation(others)[: count - 1])]

    def _picture(self, folder: str, name: str, cache) -> np.ndarray:
        if name not in cache:
            cache[name] = self._reader.images.read(files.join(folder, name))
            if len(cache) > _KEEP:
                cache.popitem(last=False)
        return cache[name]

    def _item(self, folder: str, names: list[str]) -> str | None:
        if self._reader.task != "subject_driven":
            return None
        if _ITEM not in names:
            raise BadData("missing_field", f"subject_driven needs {_ITEM}, the subject's name")
        text = decode_text(files.read_bytes(files.join(folder, _ITEM)), "item")
        return check_label(check_text(text, "item"))
