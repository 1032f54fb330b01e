"""Reading processes that may be killed: nobody waits for what one of them will never send."""

import faulthandler
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from multiprocessing import util
from pathlib import Path
from typing import Any, TextIO

STACKS = signal.SIGUSR1  # asks a reading process where its threads are; it prints that to stderr
_NAME = "grain-process-prefetch"  # what grain calls its processes
_POLL = 0.5  # seconds between two looks at the processes
_GRACE = 5.0  # seconds that a batch which a killed process had sent may take to come
_CLOSING = 30.0  # seconds that an orderly end may take


class ReaderLost(BrokenExecutor):
    """A reading process was killed."""


class Readers:
    """Batches of a grain iterator with reading processes, handed over by a thread.

    A process that is killed while it writes leaves half a message in its pipe, at which grain waits
    for ever, in `next` as in `close`. Here only a thread does, that nobody waits for.

    Args:
      stream: an iterator of grain's over `mp_prefetch`, of which nothing was taken yet.
    """

    def __init__(self, stream: Any):
        self._stream, self._stopped = stream, threading.Event()
        self._others = set(multiprocessing.active_children())
        self._processes: dict[int, Any] = {}
        self._ready: queue.Queue = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._hand_over, daemon=True, name="batches")
        self._thread.start()

    def _hand_over(self) -> None:
        while not self._stopped.is_set():
            try:
                item = (next(self._stream), None)
            except BaseException as error:  # it is raised where the batch is asked for
                item = (None, error)
            while not self._stopped.is_set():
                try:
                    self._ready.put(item, timeout=_POLL)
                    break
                except queue.Full:
                    continue
            if item[1] is not None:
                return

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch. Raises ReaderLost when its process was killed; or what it raised."""
        since = None
        while True:
            try:
                batch, error = self._ready.get(timeout=_POLL)
            except queue.Empty:
                if not (killed := self._killed()):
                    continue
                since = since or time.monotonic()
                if time.monotonic() - since > _GRACE:
                    raise ReaderLost(killed) from None
                continue
            if error is None:
                return batch
            if killed := self._killed():
                raise ReaderLost(killed) from error
            raise error

    def _killed(self) -> str:
        """What ended a process that should run; empty where all do."""
        for process in set(multiprocessing.active_children()) - self._others:
            if process.pid is not None and process.name.startswith(_NAME):
                self._processes[process.pid] = process
        for pid, process in self._processes.items():
            if code := process.exitcode:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                return f"reading process {pid} was ended by {how}"
        return ""

    def close(self) -> None:
        """Ends the processes: in order where all live, by force where one was killed."""
        self._stopped.set()
        closing = threading.Thread(target=self._close, daemon=True, name="closing batches")
        closing.start()
        until = time.monotonic() + _CLOSING
        while closing.is_alive() and time.monotonic() < until and not self._killed():
            closing.join(_POLL / 5)
        if closing.is_alive() or self._killed():
            self._end_by_force()
        # One that was killed a moment ago may not have ended yet, or grain's thread, which joins it
        # too, may not have written down that it has.
        until = time.monotonic() + _GRACE
        ours = set(self._processes.values())
        while ours & set(multiprocessing.active_children()) and time.monotonic() < until:
            time.sleep(0.01)

    def _close(self) -> None:
        self._thread.join()
        self._stream.close()

    def _end_by_force(self) -> None:
        for process in self._processes.values():
            process.kill()
        # grain would close its iterators once more when Python ends, and wait at the same pipe.
        for finalizer in list(util._finalizer_registry.values()):  # pyright: ignore[reportAttributeAccessIssue]
            if getattr(finalizer._callback, "__name__", "") == "_close_if_alive":
                finalizer.cancel()


def begin_reader(index: int, count: int) -> None:
    """Ties a reading process to the one it reads for, which alone decides what a signal means.

    Ctrl-C and schedulers signal all processes of a job; a reader that ended then would keep the
    trainer from saving. One that outlived a killed trainer would hold memory for ever.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(STACKS, file=sys.__stderr__ or sys.stderr, all_threads=True)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def ask_for_stacks(output: TextIO, seconds: float = 0.5) -> None:
    """Every process that this one started and that knows how prints the stacks of its threads.

    Args:
      output: gets a line before each.
      seconds: that each has for it.
    """
    for process in multiprocessing.active_children():
        if process.pid is not None and _catches(process.pid, STACKS):
            print(f"Where process {process.pid} ({process.name}) is:", file=output, flush=True)
            os.kill(process.pid, STACKS)
            time.sleep(seconds)


def _catches(process: int, number: int) -> bool:
    """Whether a process handles a signal: another would be ended by it. Linux alone tells."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def say_restart(reason: str, batch: int) -> None:
    """Tells on the console that reading starts again."""
    print(f"{reason}; reading starts again at batch {batch}", file=sys.stderr, flush=True)
