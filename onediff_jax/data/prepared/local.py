"""A preparation on one machine: a process per core, or threads that share networks."""

import concurrent.futures
import contextlib
import fcntl
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from onediff_jax.data.prepared.annotated import AnnotatedSource
from onediff_jax.data.prepared.manifest import PreparedError, parts_left, read_reports
from onediff_jax.data.prepared.parts import part_name
from onediff_jax.data.prepared.plan import Encoders, Plan
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
    count = multiprocessing.get_context("spawn").Value("q", 0)
    pool, call = _pool(plan, encoders, folder, min(workers, max(len(left), 1)), count)
    expected = sum(map(_size, (shards[n] for n in left)))
    with _Progress(folder, len(shards), len(shards) - len(left), expected, count) as progress:
        jobs = [pool.submit(call, shards[n], part_name(n, len(shards))) for n in left]
        try:
            for job in concurrent.futures.as_completed(jobs):
                part = job.result()
                report.merge(Report.from_json(part["report"], plan.max_bad_share))
                report.check(final=False)
                progress.part_done(len(report.bad))
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps other preparations out of it; removes what a killed one left.

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
        for stale in folder.rglob(".*.tmp"):
            stale.unlink()
        yield


class _Work:
    """What a worker does, with everything it needs."""

    def __init__(self, plan: Plan, encoders: Encoders, folder: Path, count):
        self._plan, self._encoders, self._folder, self._count = plan, encoders, folder, count

    def __call__(self, shard: str, name: str) -> dict[str, Any]:
        return write_part(self._plan, self._encoders, shard, name, self._folder, self._tick)

    def _tick(self, examples: int) -> None:
        with self._count.get_lock():
            self._count.value += examples


def _pool(
    plan: Plan, encoders: Encoders, folder: Path, workers: int, count
) -> tuple[concurrent.futures.Executor, Callable]:
    """The workers, and what to submit to them: (shard, part name) → part."""
    if encoders or isinstance(plan.source, AnnotatedSource) or workers == 1:
        return (
            concurrent.futures.ThreadPoolExecutor(workers),
            _Work(plan, encoders, folder, count),
        )
    # Forking a process that runs threads (jax, grain) can hang the child.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(plan, folder, count),
    )
    return pool, _call_process


def _start_process(plan: Plan, folder: Path, count) -> None:
    global _work  # the plan goes to a process once, not with every part
    _work = _Work(plan, Encoders(), folder, count)
    # A parent that was killed cannot stop its children; without this they would work on.
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _call_process(shard: str, name: str) -> dict[str, Any]:
    return _work(shard, name)


class _Progress:
    """A line that tells how far it is: parts, examples, rate, time left, bad records, where to."""

    def __init__(self, folder: Path, parts: int, done: int, expected: int, count):
        self._folder, self._parts, self._before, self._count = folder, parts, done, count
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
        examples, now = self._count.value, self._done - self._before
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
