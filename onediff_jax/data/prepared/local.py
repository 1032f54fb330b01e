"""A preparation on one machine: a process per core, or threads that share networks."""

import concurrent.futures
import contextlib
import fcntl
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onediff_jax.data.prepared.annotated import AnnotatedSource
from onediff_jax.data.prepared.manifest import PreparedError, parts_left, read_reports
from onediff_jax.data.prepared.parts import part_name
from onediff_jax.data.prepared.plan import Encoders, Plan
from onediff_jax.data.prepared.workers import write_parts
from onediff_jax.data.prepared.writer import plan_hash, write_part
from onediff_jax.data.sources.report import Report

_SHOW_EVERY = (0.2, 10.0)  # seconds between two states of the progress, on a terminal and not


def run(
    plan: Plan, encoders: Encoders, folder: Path, workers: int, left: Sequence[int] | None = None
) -> None:
    """Writes every part that is not done yet, or those that are `left`.

    With networks to run (encoders, annotators) the workers are threads that share them, as the
    devices are the bottleneck then; otherwise they are processes, if more than one. Neither changes
    the output.

    Raises ValueError for no workers, TooManyBadRecords above the plan's share.
    """
    if workers < 1:
        raise ValueError(f"{workers=} must be positive")
    shards = plan.source.shards()
    if left is None:
        left = parts_left(folder, shards, plan.source, plan_hash(folder))
    report = read_reports(folder, shards, plan.max_bad_share, left)
    jobs = [(shards[n], part_name(n, len(shards))) for n in left]
    expected = sum(_size(shard) for shard, _ in jobs)
    progress = _Progress(folder, len(shards), len(shards) - len(jobs), expected)
    with Interrupts() as interrupts, progress:

        def done(part: dict[str, Any]) -> None:
            interrupts.check()
            report.merge(Report.from_json(part["report"], plan.max_bad_share))
            report.check(final=False)
            progress.part_done(len(report.bad))

        if encoders or isinstance(plan.source, AnnotatedSource) or workers == 1:
            _in_threads(plan, encoders, folder, jobs, workers, tick=progress.tick, done=done)
        else:
            write_parts(plan, folder, jobs, workers, tick=progress.tick, done=done)


class _Stopped(BaseException):
    """Raised in a thread that is to end: nobody waits for its part any more."""


def _in_threads(plan, encoders, folder, jobs, workers: int, *, tick, done) -> None:
    """Writes parts in threads that share the networks; they end at their next example when
    something goes wrong or Ctrl-C is pressed."""
    stop = threading.Event()

    def count(examples: int) -> None:
        if stop.is_set():
            raise _Stopped
        tick(examples)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        parts = [
            pool.submit(write_part, plan, encoders, shard, name, folder, count)
            for shard, name in jobs
        ]
        try:
            for part in concurrent.futures.as_completed(parts):
                done(part.result())
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps other preparations out of it; removes half-written files, those that
    a killed one left and, at the end, those of workers that were stopped.

    Raises PreparedError when it cannot be written or another preparation is at work.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 - held while the context lasts
    except OSError as error:
        raise PreparedError(f"{folder} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreparedError(f"{folder} is in use by another preparation") from None
        _sweep(folder)
        try:
            yield
        finally:
            _sweep(folder)


def _sweep(folder: Path) -> None:
    for stale in folder.rglob(".*.tmp"):
        stale.unlink(missing_ok=True)


class Interrupts:
    """Ctrl-C that is not lost: Python drops a KeyboardInterrupt that is raised in a destructor or a
    callback of the garbage collector, and whoever pressed it would wait for the end.
    """

    def __init__(self):
        self._heard, self._before = False, None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *error) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, *_) -> None:
        self._heard = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed, also when the first one was lost."""
        if self._heard:
            raise KeyboardInterrupt


class _Progress:
    """A line that tells how far it is: parts, examples, rate, time left, bad records, where to."""

    def __init__(self, folder: Path, parts: int, done: int, expected: int):
        self._folder, self._parts, self._before = folder, parts, done
        self._count, self._lock = 0, threading.Lock()
        self._expected = expected  # examples, as far as the shards' names tell
        self._done, self._bad = done, 0
        self._begin = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> "_Progress":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join()
        print(self._line(), file=sys.stderr, flush=True)

    def tick(self, examples: int) -> None:
        """So many more were read."""
        with self._lock:
            self._count += examples

    def part_done(self, bad: int) -> None:
        """Another part is finished; `bad` records so far."""
        self._done += 1
        self._bad = bad

    def _show(self) -> None:
        while not self._stop.wait(_SHOW_EVERY[0 if self._terminal else 1]):
            end = "\r" if self._terminal else "\n"
            print(self._line(), end=end, file=sys.stderr, flush=True)

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._begin, 1e-9)
        examples, now = self._count, self._done - self._before
        left = "?"
        if now:
            left = _duration(seconds / now * (self._parts - self._done))
        elif 0 < examples < self._expected:
            left = _duration(seconds / examples * (self._expected - examples))
        return (
            f"{self._done}/{self._parts} parts  {examples:,} examples  {examples / seconds:,.1f}/s"
            f"  left {left}  bad {self._bad}  → {self._folder}"
        )


def _size(shard: str) -> int:
    """Records of a shard that is named by a range, see sources.base.shard_ranges; otherwise 0."""
    first, _, end = shard.partition("-")
    return int(end) - int(first) if first.isdigit() and end.isdigit() else 0


def _duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
