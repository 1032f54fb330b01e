"""Parquet files, with pictures inside: the layout of Hugging Face data sets.

A picture column holds {"bytes", "path"} (with a path alone, the file is looked up beside the
table) or plain bytes; a caption column holds text or a list of texts.
"""

from collections.abc import Iterator
from typing import Any

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    given,
    pick_shard,
    record_or_bad,
)
from onediff_jax.data.sources.records import RecordReader, merge_captions

SUFFIXES = (".parquet",)


class ParquetSource:
    """Parquet files; each row group is a shard, so that memory holds a few rows only.

    Args:
      path: a file, a pattern such as "train-*.parquet", or a folder of files.
      reader: which columns mean what, and the task.
      allow_outside: paths in rows may lead out of the folder.
      batch_rows: rows that are read at a time.

    Raises ValueError when there is no file, one that is not Parquet, or none of the columns that
    the task needs.
    """

    def __init__(
        self,
        path: str,
        reader: RecordReader,
        *,
        allow_outside: bool = False,
        batch_rows: int = 16,
    ):
        if batch_rows < 1:
            raise ValueError(f"{batch_rows=} must be positive")
        self._path, self._reader, self._batch_rows = path, reader, batch_rows
        self._outside = allow_outside
        self._folder, names = files.list_files(path, SUFFIXES)
        self._shards: dict[str, tuple[str, int, int]] = {}  # file, row group, first row
        self._rows = 0
        for name in names:
            self._add(name)

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "files": len({name for name, _, _ in self._shards.values()}),
            "rows": self._rows,
            "reader": self._reader.describe(),
            **given(allow_outside=self._outside),
        }

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        name, group, first = pick_shard(self._shards, shard)
        if shard == next(iter(self._shards)):
            used = {name for name, _, _ in self._shards.values()}
            files.pass_over_rest(self._path, used, "no Parquet file")
        files.note_whole(files.join(self._folder, name))
        number = first
        if group < 0:
            yield BadRecord(name, "broken_archive", self._problem(name) or "it could not be opened")
            return
        try:
            for row, count in merge_captions(self._iterate(name, group), self._reader):
                yield self._example(f"{name}:{number}", row)
                number += count
        except Exception as error:  # pyarrow raises its own kinds, and Python's, on damaged bytes
            yield BadRecord(f"{name}:{number}…", "broken_archive", str(error))

    def _iterate(self, name: str, group: int) -> Iterator[dict]:
        import pyarrow.parquet as pq

        with files.open_binary(files.join(self._folder, name)) as file:
            table = pq.ParquetFile(file)
            columns = self._columns(table.schema_arrow.names)
            batches = table.iter_batches(self._batch_rows, row_groups=[group], columns=columns)
            for batch in batches:
                yield from batch.to_pylist()

    def _columns(self, present: list[str]) -> list[str]:
        """Only what the task uses is read."""
        wanted = {name for role in self._reader.roles() for name in self._reader.names(role)}
        return [name for name in present if name in wanted or name in self._reader.keep]

    def _example(self, key: str, row: dict) -> RawExample | BadRecord:
        top = self._folder or "."
        folder = files.parent(files.join(self._folder, key.rpartition(":")[0])) or "."

        def load(value: Any) -> bytes:
            return _picture_bytes(folder, top, value, self._outside)

        return record_or_bad(key, lambda: self._reader.example(key, row, load))

    def _add(self, name: str) -> None:
        problem = self._problem(name)
        if problem is not None:
            self._shards[f"{name}:broken"] = (name, -1, 0)
            return
        import pyarrow.parquet as pq

        with files.open_binary(files.join(self._folder, name)) as file:
            table = pq.ParquetFile(file)
            present = table.schema_arrow.names
            for role in self._reader.needed():
                names = self._reader.names(role)
                if not set(names) & set(present):
                    raise ValueError(
                        f"{name!r} has no column for {role}: none of {names} among {present}"
                    )
            self._reader.check_fields(present, repr(name))
            first = 0
            for group in range(table.num_row_groups):
                self._shards[f"{name}:{group:05d}"] = (name, group, first)
                first += table.metadata.row_group(group).num_rows
            self._rows += first

    def _problem(self, name: str) -> str | None:
        """Why a file is not Parquet; None when it is."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with files.open_binary(files.join(self._folder, name)) as file:
                pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            return str(error)
        return None


def _picture_bytes(folder: str, top: str, value: Any, allow_outside: bool) -> bytes:
    """The bytes in a picture column's value, or of the file it names."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str):
        return files.read_bytes(
            files.find_below(folder, value, top=top, allow_outside=allow_outside)
        )
    if not isinstance(value, bytes):
        raise BadData("missing_field", "the picture column holds neither bytes nor a path")
    if not value:
        raise BadData("empty_file")
    return value
