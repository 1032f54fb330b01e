"""Tables of picture names and captions: JSONL, CSV and TSV files.

    {"image": "cats/1.jpg", "caption": "a cat on a sofa"}
    {"image": "cats/2.jpg", "captions": ["a cat", "a sleeping cat"]}

One pass over the names at the start finds the duplicates, the rows that belong together and where
each shard begins.
"""

import array
import bisect
import contextlib
import hashlib
import json
import os
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onediff_jax.data.sources import files, journal
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    check_captions,
    given,
    names_hash,
    pick_shard,
    record_or_bad,
)
from onediff_jax.data.sources.images import SUFFIXES as PICTURES
from onediff_jax.data.sources.records import RecordReader
from onediff_jax.data.sources.table_rows import SUFFIXES, find_layout, iterate_rows, rows_of

__all__ = ["SUFFIXES", "TableSource", "iterate_rows"]


class TableSource:
    """Rows that name picture files.

    Rows of one picture that differ in their captions alone are one example with all the captions.

    Args:
      path: a table, a pattern such as "part-*.jsonl", or a folder of tables.
      reader: which fields mean what, and the task.
      key: the field with a row's name; None: "key" or "id" where there is one, else the picture's.
      root: folder that picture names are relative to; None: the table's own.
      encoding: of the text; None: by the byte order mark, else UTF-8.
      where: NAME=VALUE; other rows are passed over.
      allow_outside: rows may name any file, and URLs; otherwise files below `root` alone.
      shard_size: rows per shard.
      names: tables in the folder `path`; None: all.
      whole_folder: everything below it is accounted for; None: `path`, if it is a folder.

    Raises ValueError when there is no table, it has no rows, or its first line does not name them.
    """

    def __init__(
        self,
        path: str,
        reader: RecordReader,
        *,
        key: str | None = None,
        root: str | None = None,
        encoding: str | None = None,
        where: str | None = None,
        allow_outside: bool = False,
        shard_size: int = 1000,
        names: Sequence[str] | None = None,
        whole_folder: str | None = None,
    ):
        if shard_size < 1:
            raise ValueError(f"{shard_size=} must be positive")
        if where is not None and "=" not in where:
            raise ValueError(f"{where=} must be NAME=VALUE")
        found = files.list_files(path, SUFFIXES) if names is None else (path, list(names))
        self._folder, self._names = found
        self._reader, self._path, self._root = reader, path, root
        self._keys = ("key", "id") if key is None else (key,)
        self._encoding, self._where, self._outside = encoding, where, allow_outside
        whole = path if whole_folder is None and files.is_folder(path) else whole_folder
        self._whole = whole
        self._layouts = {n: find_layout(files.join(self._folder, n), encoding) for n in self._names}
        # Shard -> file, its first row there, number of rows, byte offset, rows in earlier files.
        self._shards: dict[str, tuple[str, int, int, int, int]] = {}
        self._begins: list[int] = []  # rows in earlier files, per file
        self._count = 0
        self._index(shard_size)

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "files": len(self._names),
            "names_sha256": names_hash(self._names),
            "rows": self._count,
            "root": self._root,
            "keys": list(self._keys),
            "encoding": self._encoding,
            "where": self._where,
            "reader": self._reader.describe(),
            **given(allow_outside=self._outside),
        }

    def content(self, shard: str) -> str:
        """The shard's rows, with those that are merged into them, as a hash."""
        said = hashlib.sha256()
        with _Tables(self._folder, self._layouts) as tables:
            for number, row in self._rows(shard):
                also = [tables.row(*place) for place in self._merged(number)]
                rows = [str(r) if isinstance(r, BadData) else r for r in (row, *also)]
                state = [self._is_later(number), self._is_duplicate(number)]
                said.update(json.dumps([rows, state], sort_keys=True).encode())
        return said.hexdigest()

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        name, first, _, _, before = pick_shard(self._shards, shard)
        if before + first == 0:
            self._account()
        with _Tables(self._folder, self._layouts) as tables:
            for number, row in self._rows(shard):
                yield from self._read_row(name, number - before, number, row, tables)

    def _read_row(self, name: str, place: int, number: int, row, tables):
        row_name = f"{name}:{place + 1}"
        if isinstance(row, BadData):
            yield row.record(row_name)
            return
        if not self._is_wanted(row):
            journal.pass_over(row_name, f"not {self._where}")
            return
        if self._is_later(number):
            journal.note_merged()
            return
        key = self._key(name, row) or row_name
        if self._is_duplicate(number):
            yield BadRecord(row_name, "duplicate_key", f"{key} is in an earlier row")
            return
        made = record_or_bad(key, lambda: self._example(key, row, name, number, tables))
        if isinstance(made, BadRecord):
            shown = row_name if key == row_name else f"{row_name} {key}"
            made = BadRecord(shown, made.reason, made.detail)
        yield made

    def _example(self, key: str, row: dict, name: str, number: int, tables) -> RawExample:
        captions = list(check_captions(self._reader.get(row, "caption")))
        for place in self._merged(number):
            captions += check_captions(self._reader.get(tables.row(*place), "caption"))
        if len(captions) > 1:
            field = next(n for n in self._reader.names("caption") if row.get(n) is not None)
            row = {**row, field: list(dict.fromkeys(captions))}
        return self._reader.example(key, row, lambda value: self._load(name, value))

    def _load(self, name: str, value: Any) -> bytes:
        """The bytes of the picture that a row names; one without a suffix is tried with each."""
        root = files.parent(files.join(self._folder, name)) if self._root is None else self._root
        top = self._folder if self._root is None else self._root
        path = files.find_below(root, value, top=top, allow_outside=self._outside)
        bare = "." not in posixpath.basename(path) and not files.is_remote(path)
        if bare and not files.is_file(path):
            path = next((path + s for s in PICTURES if files.is_file(path + s)), path)
        return files.read_bytes(path)

    def _rows(self, shard: str) -> Iterator[tuple[int, dict | BadData]]:
        """(number through all files, row) of a shard."""
        name, first, count, offset, before = pick_shard(self._shards, shard)
        rows = iterate_rows(files.join(self._folder, name), offset, self._layouts[name])
        for number in range(before + first, before + first + count):
            yield number, next(rows, (BadData("bad_metadata", "the table was cut"), 0))[0]

    def _is_wanted(self, row: dict) -> bool:
        if self._where is None:
            return True
        name, _, value = self._where.partition("=")
        return str(row.get(name)) == value

    def _key(self, name: str, row: dict) -> str | None:
        found = next((row[n] for n in self._keys if row.get(n) is not None), None)
        if found is None:
            found = self._reader.get(row, "image")
            folder = posixpath.dirname(name)
            if folder and self._root is None and isinstance(found, str):
                return posixpath.join(folder, found)
        return None if found is None else str(found)

    def _index(self, shard_size: int) -> None:
        # 24 bytes a row while it lasts, so that a hundred million rows still fit.
        keys, pictures, ends = (array.array("Q") for _ in range(3))
        named = array.array("Q")  # files, where the whole folder is accounted for
        fields: dict[str, None] = {}
        for name in self._names:
            offset, before = 0, self._count
            self._begins.append(before)
            rows = iterate_rows(files.join(self._folder, name), 0, self._layouts[name])
            for number, (row, after) in enumerate(rows):
                if number % shard_size == 0:
                    first, begun = number, offset
                self._shards[f"{name}:{first:09d}"] = (
                    *(name, first, number - first + 1, begun, before),
                )
                ends.append(offset)
                offset = after
                if not isinstance(row, BadData):
                    fields.update(dict.fromkeys(row))
                alone = f"{name}\0{number}"
                good = None if isinstance(row, BadData) or not self._is_wanted(row) else row
                key = None if good is None else self._key(name, good)
                keys.append(_digest(alone if key is None else f"key\0{key}"))
                picture = None if good is None else self._picture(name, good)
                pictures.append(_digest(picture, alone))
                if good is not None and self._whole is not None:
                    named.extend(self._named(name, good))
                self._count += 1
        if not self._count:
            raise ValueError(f"{self._path!r} has no rows")
        if fields:
            self._reader.check_fields(fields, repr(self._path))
        self._duplicates = _later(keys)[0]
        self._laters, firsts = _later(pictures)
        order = np.argsort(firsts, kind="stable")
        self._firsts, self._parts = firsts[order], self._laters[order]
        self._offsets = np.asarray(ends)[self._parts]
        self._named_files = np.unique(np.asarray(named, np.uint64))

    def _picture(self, name: str, row: dict) -> str | None:
        """What rows of one picture have in common; None for rows that stand alone."""
        with contextlib.suppress(TypeError, ValueError):
            if (same := self._reader.all_but_caption(row)) is not None:
                folder = posixpath.dirname(name) if self._root is None else ""
                return json.dumps([folder, same], sort_keys=True)
        return None

    def _is_later(self, number: int) -> bool:
        """Whether a row is merged into an earlier one."""
        return _holds(self._laters, number)

    def _is_duplicate(self, number: int) -> bool:
        return _holds(self._duplicates, number)

    def _merged(self, number: int) -> Iterator[tuple[str, int]]:
        """(table, offset) of the rows that are merged into a row."""
        begin, end = (np.searchsorted(self._firsts, number, side) for side in ("left", "right"))
        for place in range(begin, end):
            table = bisect.bisect_right(self._begins, int(self._parts[place])) - 1
            yield self._names[table], int(self._offsets[place])

    def _named(self, name: str, row: dict) -> Iterator[int]:
        """Hashes of the files that a row may mean."""
        table = files.join(self._folder, name)
        root = files.parent(table) if self._root is None else self._root
        for role in ("image", "source", "mask_path"):
            value = self._reader.get(row, role)
            for one in value if isinstance(value, list | tuple) else (value,):
                if isinstance(one, str | int) and "\0" not in str(one):
                    path = os.path.normpath(files.join(root, str(one).replace("\\", "/")))
                    suffixes = ("",) if "." in posixpath.basename(path) else ("", *PICTURES)
                    yield from (_digest(path + suffix) for suffix in suffixes)

    def _account(self) -> None:
        """Passes over whatever lies in the folder and is in no row."""
        if self._whole is None or files.is_remote(self._whole):
            return
        names, hidden = files.walk_tree(self._whole)
        for name, why in hidden:
            journal.pass_over(name, why)
        tables = {os.path.normpath(files.join(self._folder, name)) for name in self._names}
        for name in names:
            path = os.path.normpath(files.join(self._whole, name))
            if path not in tables and not _holds(self._named_files, _digest(path)):
                journal.pass_over(name, "no row names it")


class _Tables:
    """Rows of tables at given offsets; every table is opened once."""

    def __init__(self, folder: str, layouts: dict):
        self._folder, self._layouts = folder, layouts
        self._open: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_Tables":
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def row(self, name: str, offset: int) -> Any:
        if name not in self._open:
            file = files.open_binary(files.join(self._folder, name))
            self._open[name] = self._stack.enter_context(file)
        return next(rows_of(self._open[name], offset, self._layouts[name]))[0]


def _digest(text: str | None, otherwise: str = "") -> int:
    raw = (otherwise if text is None else text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def _later(hashes: array.array) -> tuple[np.ndarray, np.ndarray]:
    """Sorted numbers of the rows whose hash an earlier row has, and the first of those rows."""
    values = np.asarray(hashes, np.uint64)
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    first = first[inverse]
    later = np.flatnonzero(first != np.arange(len(values)))
    return later, first[later]


def _holds(values: np.ndarray, value: int) -> bool:
    """Whether sorted values hold one."""
    place = np.searchsorted(values, np.asarray(value, values.dtype))
    return bool(place < len(values) and values[place] == value)
