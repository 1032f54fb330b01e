"""What is noted while a shard is read: the files it depends on, and what was passed over.

    with journal.keep() as notes:
        records = list(source.read(shard))
    notes.inputs       # path → Content, of every file that was opened, or looked for in vain
    notes.passed_over  # (name, why) of what lies there and is part of no record

Sources note both as they go; where nobody keeps a journal, nothing is noted and nothing is hashed.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file held when it was read.

    Attributes:
      sha256: of its bytes; None: it was not there, or could not be read.
      stamp: what changes when somebody writes to it: size, and times of the last change of content
        and of state in nanoseconds; for remote files what the store says. An equal stamp saves the
        hashing.
    """

    sha256: str | None
    stamp: tuple[int | str, ...] = ()


@dataclasses.dataclass
class Notes:
    """The notes of one reading.

    Attributes:
      inputs: path → its content.
      passed_over: (name, why) of files, members and rows that are part of no record.
      merged: rows that became part of an earlier row's record.
    """

    inputs: dict[str, Content] = dataclasses.field(default_factory=dict)
    passed_over: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    merged: int = 0


_notes: contextvars.ContextVar[Notes | None] = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def keep() -> Iterator[Notes]:
    """Collects what is read in this thread while the context lasts."""
    notes = Notes()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def is_kept() -> bool:
    return _notes.get() is not None


def note_input(path: str, content: Content) -> None:
    """A file was read, or was looked for and is not there."""
    if (notes := _notes.get()) is not None:
        notes.inputs[path] = content


def pass_over(name: str, why: str) -> None:
    """Something lies there that is part of no record, and is no fault either."""
    if (notes := _notes.get()) is not None:
        notes.passed_over.append((name, why))


def note_merged() -> None:
    """A row became part of an earlier row's record."""
    if (notes := _notes.get()) is not None:
        notes.merged += 1
