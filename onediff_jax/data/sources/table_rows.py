"""The rows of JSONL, CSV and TSV files, one by one, with the byte offset where each ends.

A row that cannot be read is told as such and costs no other: a quote that is never closed makes its
own line bad, and reading goes on with the next one.
"""

import codecs
import collections
import csv
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import BadData

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
         (codecs.BOM_UTF16_BE, "utf-16-be"))  # fmt: skip
_MOST_LINES = 1000  # in one quoted cell
_LONGEST_LINE = 1 << 26  # bytes


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a table is written.

    Attributes:
      encoding: of its text.
      start: bytes of a byte order mark at its beginning.
      delimiter: between cells; empty for JSON lines.
      quoted: cells may be in quotes, with line ends in them; otherwise a line is a row, whatever
        quotes are in it (TSV as most data sets write it).
      header: the names of the columns.
    """

    encoding: str
    start: int
    delimiter: str = ""
    quoted: bool = True
    header: tuple[str, ...] = ()


def find_layout(path: str, encoding: str | None = None) -> Layout:
    """The layout of a table, by its byte order mark, its suffix, its first line, and where quotes
    may or may not count (TSV) by which reading gives every row its cells.

    Args:
      encoding: of a table without a mark; None: UTF-8.

    Raises:
      ValueError: an unknown encoding, or a first line that does not name the columns.
    """
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise ValueError(f"unknown {encoding=}; such as utf-8, utf-16, cp1252, shift_jis") from None
    with files.open_binary(path) as file:
        head = file.read(4)
    marks = [(kind, len(mark)) for mark, kind in _BOMS if head.startswith(mark)]
    kind, start = marks[0] if marks else (encoding or "utf-8", 0)
    suffix = files.split_suffix(path)[1]
    if suffix in (".jsonl", ".ndjson"):
        return Layout(kind, start)
    with files.open_binary(path) as file:
        first = next((text for text, _ in _lines(file, start, kind) if text.strip()), "")
    delimiter = "\t" if suffix == ".tsv" else ","
    if delimiter not in first:
        delimiter = next((d for d in ";\t,|" if d in first), delimiter)
    try:
        cells = next(csv.reader([first], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{path!r}: the first line must name the columns: {error}") from None
    header = tuple(cell.strip().removeprefix("\ufeff") for cell in cells)
    if len(set(header)) != len(header) or not any(header):
        raise ValueError(f"{path!r}: the first line must name the columns, got {list(header)}")
    layout = Layout(kind, start, delimiter, True, header)
    if delimiter != "\t":
        return layout
    plain = dataclasses.replace(layout, quoted=False)
    misfits = _misfits(path, plain)
    return layout if misfits and _misfits(path, layout) == 0 else plain


def iterate_rows(
    path: str, offset: int, layout: Layout | None = None
) -> Iterator[tuple[dict | BadData, int]]:
    """The rows of a table from a byte offset that an earlier row ended at (0: the beginning).

    Yields:
      (row, or what is wrong with it; the offset after it). Empty lines do not count.
    """
    with files.open_binary(path) as file:
        yield from rows_of(file, offset, layout or find_layout(path))


def rows_of(file, offset: int, layout: Layout) -> Iterator[tuple[dict | BadData, int]]:
    """`iterate_rows` of a file that is open."""
    lines = _lines(file, offset or layout.start, layout.encoding)
    if not layout.delimiter:
        yield from _json_rows(lines)
        return
    if not offset:
        next((text for text, _ in lines if text.strip()), None)  # the header
    yield from _csv_rows(lines, layout)


def _lines(file, offset: int, encoding: str) -> Iterator[tuple[str, int]]:
    """(text, offset after it) of lines; bytes that the encoding does not know become surrogates,
    which carry them through the parser, row by row."""
    file.seek(offset)
    wide = encoding.lower().replace("_", "-").startswith("utf-16")
    little = wide and not encoding.lower().endswith("be")
    end = (b"\n\0" if little else b"\0\n") if wide else b"\n"
    while raw := file.readline(_LONGEST_LINE):
        while wide and (len(raw) % 2 or raw[-2:] != end):
            # In UTF-16 the byte of "\n" may be half of another character, or comes first.
            more = file.read(1) if len(raw) % 2 else file.readline(_LONGEST_LINE)
            if not more or len(raw) > _LONGEST_LINE:
                break
            raw += more
        offset += len(raw)
        errors = "surrogatepass" if wide else "surrogateescape"
        kind = ("utf-16-le" if little else "utf-16-be") if wide else encoding
        try:
            text = raw.decode(kind, errors)
        except UnicodeDecodeError:
            text = "\udcff"  # what no text has: the row is bad, the others are not
        yield text, offset


def _json_rows(lines):
    for text, offset in lines:
        if not text.strip():
            continue
        row: Any
        try:
            if _is_broken(text):
                raise BadData("bad_text", "the row is not in the table's encoding (encoding=…)")
            row = json.loads(text)
            if not isinstance(row, dict):
                row = BadData("bad_metadata", f"a row must be an object, got {type(row).__name__}")
        except BadData as error:
            row = error
        except (ValueError, RecursionError) as error:
            row = BadData("bad_metadata", f"JSON: {error}")
        yield row, offset


def _csv_rows(lines, layout: Layout):
    waiting: collections.deque = collections.deque()
    while (first := waiting.popleft() if waiting else next(lines, None)) is not None:
        if not first[0].strip("\r\n"):
            continue
        taken = [first]

        def feed(taken=taken):
            yield taken[0][0]
            while len(taken) < _MOST_LINES:
                line = waiting.popleft() if waiting else next(lines, None)
                if line is None:
                    return
                taken.append(line)
                yield line[0]

        row = _csv_row(feed(), first[0], layout)
        if isinstance(row, BadData) and len(taken) > 1:
            waiting.extendleft(reversed(taken[1:]))  # the quote is to blame, not the lines after it
            taken = taken[:1]
        yield row, taken[-1][1]


def _csv_row(fed: Iterator[str], line: str, layout: Layout) -> dict | BadData:
    if layout.quoted:
        try:
            cells = next(csv.reader(fed, delimiter=layout.delimiter, strict=True))
        except (csv.Error, StopIteration) as error:
            return BadData("bad_metadata", f"CSV: {error}")
    else:
        cells = [_unquoted(cell) for cell in line.rstrip("\r\n").split(layout.delimiter)]
    if len(cells) != len(layout.header):
        return BadData("bad_metadata", f"{len(cells)} cells, the header has {len(layout.header)}")
    row: dict[str, Any] = {}
    for name, cell in zip(layout.header, cells, strict=True):
        if _is_broken(cell):
            detail = f"column {name} is not {layout.encoding}; encoding=… names another one"
            return BadData("bad_text", detail)
        # A cell can hold several values only as a JSON list, and only where the name is a plural.
        if name.endswith("s") and cell.startswith("[") and cell.endswith("]"):
            try:
                row[name] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                return BadData("bad_metadata", f"column {name}: {error}")
        elif cell:
            row[name] = cell
    return row


def _unquoted(cell: str) -> str:
    """A cell without the quotes around it, where they are as CSV writes them."""
    inner = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else cell


def _misfits(path: str, layout: Layout) -> int:
    """Rows whose cells do not fit the header."""
    rows = iterate_rows(path, 0, layout)
    return sum(isinstance(row, BadData) and row.reason == "bad_metadata" for row, _ in rows)


def _is_broken(text: str) -> bool:
    if text.isascii():
        return False
    return any("\ud800" <= char <= "\udfff" for char in text)
