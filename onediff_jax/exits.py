"""Exit codes of all commands, in one table; docs/runbook.md says what to do about each.

What matters to a launcher is whether starting the same command again would help. It would not for
1 and 2; for every other code it may, and a run goes on from its last checkpoint.
"""

import contextlib
import dataclasses
import errno
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from typing import NoReturn

from onediff_jax.files import FULL


@dataclasses.dataclass(frozen=True)
class Exit:
    """What an exit code says.

    code: of the process. meaning: one line. again: whether starting the same command again helps.
    """

    code: int
    meaning: str
    again: bool


FINISHED = Exit(0, "finished, or stopped by SIGTERM with everything saved", False)
BAD_INPUT = Exit(1, "the input does not fit, or was not found; the message names it", False)
USAGE = Exit(2, "the command line cannot be read", False)
FAULT = Exit(70, "an error that nobody foresaw; a traceback is printed", True)
STORAGE = Exit(74, "a disk is full, read-only or failing, or the network is", True)
STOPPED = Exit(75, "stopped by SIGTERM or Ctrl-C before the end, everything saved", True)
LOST = Exit(76, "another process of the run was lost", True)
WORKER = Exit(77, "a process that reads or prepares data was killed", True)
HANGS = Exit(78, "the watchdog ended a process in which nothing moved", True)
INTERRUPTED = Exit(130, "ended at once by a second Ctrl-C; the last checkpoint counts", True)
TERMINATED = Exit(143, "ended at once by a second SIGTERM; the last checkpoint counts", True)

ALL = (
    *(FINISHED, BAD_INPUT, USAGE, FAULT, STORAGE, STOPPED, LOST, WORKER, HANGS),
    *(INTERRUPTED, TERMINATED),
)

# Errors of a disk, for which the input is not to blame.
_OF_STORAGE = (*FULL, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.EFBIG)
# How libraries that write through C++ say it.
_FULL_TEXTS = (
    *("No space left on device", "Disk quota exceeded", "RESOURCE_EXHAUSTED: No space"),
    "File too large",
)
_OF_NETWORK = (ConnectionError, TimeoutError)


def of_error(error: BaseException) -> Exit:
    """The exit of a command that an error ends.

    An error, or one that it came from, of a full or failing disk is the storage's; a pool whose
    process was killed is a worker's; a ValueError and other errors of files are bad input.
    """
    chain = list(_causes(error))
    if any(isinstance(e, BrokenExecutor) for e in chain):  # first: their pipes broke too
        return WORKER
    if any(_is_storage(e) for e in chain):
        return STORAGE
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return BAD_INPUT if isinstance(error, ValueError | OSError) else FAULT


@contextlib.contextmanager
def foreseen() -> Iterator[None]:
    """Around a command: an error that comes through was not foreseen, and the code says so."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        sys.exit(FAULT.code)


def _is_storage(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _OF_STORAGE:
        return True
    return isinstance(error, _OF_NETWORK) or any(text in str(error) for text in _FULL_TEXTS)


def fail(error: BaseException) -> NoReturn:
    """Ends a command by an error that is told in one line, with the code of its kind."""
    print(f"error: {str(error) or type(error).__name__}", file=sys.stderr, flush=True)
    sys.exit(of_error(error).code)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
