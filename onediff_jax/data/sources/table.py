"""Tables of picture names and captions: JSONL, CSV and TSV files.

    {"image": "cats/1.jpg", "caption": "a cat on a sofa"}
    {"image": "cats/2.jpg", "captions": ["a cat", "a sleeping cat"]}

One pass over the names at the start finds the duplicates and where each shard begins.
"""

import array
import csv
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    decode_text,
    pick_shard,
)
from onediff_jax.data.sources.records import RecordReader

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")


class TableSource:
    """Rows that name picture files.

    Args:
      path: a table, a pattern such as "part-*.jsonl", or a folder of tables.
      reader: which fields mean what, and the task.
      key: the field with a row's name; None: "key" or "id" where there is one, else the picture's.
      root: folder that picture names are relative to; None: the table's own.
      shard_size: rows per shard.

    Raises ValueError when there is no table, or it has no rows.
    """

    def __init__(
        self,
        path: str,
        reader: RecordReader,
        *,
        key: str | None = None,
        root: str | None = None,
        shard_size: int = 1000,
    ):
        if shard_size < 1:
            raise ValueError(f"{shard_size=} must be positive")
        self._folder, self._names = files.list_files(path, SUFFIXES)
        self._reader, self._path, self._root = reader, path, root
        self._keys = ("key", "id") if key is None else (key,)
        # Shard -> file, its first row there, number of rows, byte offset, rows in earlier files.
        self._shards: dict[str, tuple[str, int, int, int, int]] = {}
        self._duplicates: frozenset[int] = frozenset()  # rows, counted through all files
        self._count = 0
        self._index(shard_size)

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "files": len(self._names),
            "rows": self._count,
            "root": self._root,
            "keys": list(self._keys),
            "reader": self._reader.describe(),
        }

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        name, first, count, offset, before = pick_shard(self._shards, shard)
        table = files.join(self._folder, name)
        root = files.parent(table) if self._root is None else self._root
        rows = iterate_rows(table, offset)
        for number in range(first, first + count):
            row, _ = next(rows)
            row_name = f"{name}:{number + 1}"
            if isinstance(row, BadData):
                yield row.record(row_name)
                continue
            key = self._key(row) or row_name
            if before + number in self._duplicates:
                yield BadRecord(row_name, "duplicate_key", f"{key} is in an earlier row")
                continue
            try:
                yield self._reader.example(key, row, lambda value: _load(root, value))
            except BadData as error:
                yield error.record(row_name if key == row_name else f"{row_name} {key}")

    def _key(self, row: dict) -> str | None:
        values = [row.get(name) for name in self._keys] + [self._reader.get(row, "image")]
        return next((str(value) for value in values if value is not None), None)

    def _index(self, shard_size: int) -> None:
        # Eight bytes a row, so that a hundred million rows still fit.
        hashes, numbers = array.array("Q"), array.array("Q")
        for name in self._names:
            offset, before = 0, self._count
            for number, (row, after) in enumerate(iterate_rows(files.join(self._folder, name), 0)):
                if number % shard_size == 0:
                    first, begun = number, offset
                shard = (name, first, number - first + 1, begun, before)
                self._shards[f"{name}:{first:09d}"] = shard
                offset = after
                key = None if isinstance(row, BadData) else self._key(row)
                if key is not None:
                    raw = key.encode("utf-8", "surrogatepass")
                    digest = hashlib.blake2b(raw, digest_size=8).digest()
                    hashes.append(int.from_bytes(digest, "little"))
                    numbers.append(self._count)
                self._count += 1
        if not self._count:
            raise ValueError(f"{self._path!r} has no rows")
        _, earliest = np.unique(np.asarray(hashes), return_index=True)
        later = np.delete(np.asarray(numbers), earliest)
        self._duplicates = frozenset(later.tolist())


def iterate_rows(path: str, offset: int) -> Iterator[tuple[dict | BadData, int]]:
    """The rows of a table from a byte offset that an earlier row ended at (0: the beginning).

    Yields:
      (row, or what is wrong with it; the offset after it). Empty lines do not count.
    """
    suffix = files.split_suffix(path)[1]
    with files.open_binary(path) as file:
        if suffix in (".jsonl", ".ndjson"):
            yield from _json_rows(file, offset)
        else:
            yield from _csv_rows(file, offset, "\t" if suffix == ".tsv" else ",", path)


def _json_rows(file, offset: int):
    file.seek(offset)
    for line in file:
        offset += len(line)
        if not line.strip():
            continue
        try:
            row = json.loads(decode_text(line, "row"))
            if not isinstance(row, dict):
                row = BadData("bad_metadata", f"a row must be an object, got {type(row).__name__}")
        except BadData as error:
            row = error
        except (ValueError, RecursionError) as error:
            row = BadData("bad_metadata", f"JSON: {error}")
        yield row, offset


def _csv_rows(file, offset: int, delimiter: str, path: str):
    position = 0

    def lines():
        # Surrogates carry the bytes that are not UTF-8 through the parser, row by row.
        nonlocal position
        for line in file:
            position += len(line)
            yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    header = [cell.strip().removeprefix("\ufeff") for cell in next(reader, [])]
    if len(set(header)) != len(header) or not any(header):
        raise ValueError(f"{path!r}: the first line must name the columns, got {header}")
    if offset:
        file.seek(offset)
        position = offset
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadData("bad_metadata", f"CSV: {error}"), position
            continue
        if cells:
            yield _csv_row(header, cells), position


def _csv_row(header: list[str], cells: list[str]) -> dict | BadData:
    if len(cells) != len(header):
        return BadData("bad_metadata", f"{len(cells)} cells, the header has {len(header)}")
    row: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=True):
        try:
            cell.encode("utf-8")
        except UnicodeEncodeError:
            return BadData("bad_text", f"column {name} is not UTF-8")
        # A cell can hold several values only as a JSON list, and only where the name is a plural.
        if name.endswith("s") and cell.startswith("[") and cell.endswith("]"):
            try:
                row[name] = json.loads(cell)
            except ValueError as error:
                return BadData("bad_metadata", f"column {name}: {error}")
        elif cell:
            row[name] = cell
    return row


def _load(root: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise BadData("bad_metadata", f"a file name must be text, got {type(value).__name__}")
    if "\0" in value:
        raise BadData("bad_metadata", f"file name {value!r} has a NUL")
    return files.read_bytes(files.join(root, value))
