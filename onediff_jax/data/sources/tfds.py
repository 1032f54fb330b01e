"""TensorFlow Datasets in array_record format, read at random without TensorFlow.

    open_source("tfds", "/data/my_set/1.0.0")                          a directory
    open_source("tfds", "my_set", data_dir="/data", split="train")     a name

Nested features are reached with "/", such as caption="captions/text".
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onediff_jax.data.sources import files, journal
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    decode_text,
    pick_shard,
    record_or_bad,
    shard_ranges,
)
from onediff_jax.data.sources.records import RecordReader


class TfdsSource:
    """One split of a prepared TFDS data set.

    Args:
      path: the directory of a version (with features.json), or a name.
      reader: which features mean what, and the task.
      split: name of the split.
      data_dir: where named data sets are; None: ~/tensorflow_datasets.
      shard_size: records per shard.

    Raises ValueError when the data set or split is not there, or it is not in a format that can be
    read at random.
    """

    def __init__(
        self,
        path: str,
        reader: RecordReader,
        *,
        split: str = "train",
        data_dir: str | None = None,
        shard_size: int = 1000,
    ):
        self._path, self._reader, self._split, self._data_dir = path, reader, split, data_dir
        builder = self._builder()
        if split not in builder.info.splits:
            raise ValueError(
                f"unknown {split=} of {path!r}; choose from {list(builder.info.splits)}"
            )
        self._name = builder.info.full_name
        self._count = builder.info.splits[split].num_examples
        if not self._count:
            raise ValueError(f"{split=} of {path!r} has no records")
        present = _leaves(builder.info.features)
        for role in reader.needed():
            if not set(reader.names(role)) & set(present):
                raise ValueError(
                    f"{path!r} has no feature for {role}: none of {reader.names(role)} "
                    f"among {list(present)}"
                )
        self._shards = shard_ranges(self._count, shard_size)
        self._open(builder, range(1))  # raises now for a format that has no random access

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "name": self._name,
            "split": self._split,
            "records": self._count,
            "reader": self._reader.describe(),
        }

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        indices = pick_shard(self._shards, shard)
        builder = self._builder()
        if indices.start == 0:
            for name, other in builder.info.splits.items():
                if name != self._split:
                    journal.pass_over(f"split {name}", f"{other.num_examples} of another split")
        source = self._open(builder, indices)
        named = builder.info.splits[f"{self._split}[{indices.start}:{indices.stop}]"]
        for instruction in named.file_instructions:
            files.note_whole(str(instruction.filename))
        for offset, index in enumerate(indices):
            key = f"{self._split}/{index}"
            try:
                record = source[offset]
            except Exception as error:  # the native reader has error types of its own
                yield BadRecord(key, "broken_archive", f"{type(error).__name__}: {error}")
                continue
            yield record_or_bad(key, lambda: self._example(key, record))  # noqa: B023 - at once

    def _example(self, key: str, record: Mapping) -> RawExample:
        return self._reader.example(key, self._fields(record), _as_bytes)

    def _builder(self):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder

        try:
            if os.path.isdir(self._path):
                return tfds.builder_from_directory(self._path)
            return read_only_builder.builder_from_files(self._path, data_dir=self._data_dir)
        except (tfds.core.DatasetNotFoundError, FileNotFoundError) as error:
            raise ValueError(f"no TFDS data set at {self._path!r}: {error}") from None

    def _open(self, builder, indices: range):
        try:
            return builder.as_data_source(
                f"{self._split}[{indices.start}:{indices.stop}]",
                decoders=_undecoded(builder.info.features),
            )
        except NotImplementedError as error:
            raise ValueError(
                f"{self._path!r} cannot be read at random ({error}); convert it with "
                "`python -m tensorflow_datasets.scripts.cli.main convert_format "
                "--out_file_format=array_record …`"
            ) from None

    def _fields(self, record: Mapping) -> dict[str, Any]:
        fields = _leaves(record)
        pictures = {*self._reader.names("image"), *self._reader.names("source")}
        return {
            name: value if name in pictures else _as_text(value, name)
            for name, value in fields.items()
        }


def _leaves(features: Any, prefix: str = "") -> dict[str, Any]:
    """{"a/b": value} of nested features or values."""
    found = {}
    for name, value in features.items():
        value = getattr(value, "feature", value)  # a sequence of features
        nested = hasattr(value, "items")
        found |= _leaves(value, f"{prefix}{name}/") if nested else {f"{prefix}{name}": value}
    return found


def _undecoded(features: Mapping) -> dict[str, Any]:
    """Decoders that leave pictures as file bytes: damaged ones get their name and reason here."""
    import tensorflow_datasets as tfds

    decoders: dict[str, Any] = {}
    for name, feature in features.items():
        if isinstance(feature, tfds.features.Image):
            decoders[name] = tfds.decode.SkipDecoding()
        elif hasattr(feature, "items") and (nested := _undecoded(feature)):
            decoders[name] = nested
    return decoders


def _as_text(value: Any, name: str) -> Any:
    if isinstance(value, bytes):
        return decode_text(value, name)
    if isinstance(value, np.ndarray | list | tuple):
        return [_as_text(v, name) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _as_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise BadData("bad_metadata", f"a picture must be bytes, got {type(value).__name__}")
    if not value:
        raise BadData("empty_file")
    return value
