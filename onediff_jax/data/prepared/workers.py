"""Parts written by processes that share nothing: each has a pipe to the parent, and no lock.

A worker that is killed, at whatever moment, closes its pipe and holds nothing that others wait for:
the parent sees it, ends the others and says so. Ctrl-C reaches the parent alone, which ends all.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from onediff_jax.data.prepared.plan import Encoders, Plan
from onediff_jax.data.prepared.writer import write_part

_TELL_EVERY = 0.2  # seconds between two counts of examples that a worker sends
_END_WITHIN = 10.0  # seconds for a process that was told to end, or killed


class WorkerLost(BrokenExecutor):
    """A worker ended without a word: somebody, or the system for want of memory, killed it."""


def write_parts(
    plan: Plan,
    folder: Path,
    jobs: Sequence[tuple[str, str]],
    workers: int,
    *,
    tick: Callable[[int], None],
    done: Callable[[dict[str, Any]], None],
) -> None:
    """Writes parts in processes; no process outlives the call.

    Args:
      jobs: (shard, part name) of each.
      tick: told how many more examples were read.
      done: told about every part, as `write_part` returns it.

    Raises WorkerLost; what a worker or `done` raises.
    """
    waiting = collections.deque(jobs)
    processes: list[Any] = []
    busy: dict[Any, tuple[Any, tuple[str, str]]] = {}
    try:
        while waiting and len(processes) < workers:
            process, pipe = _start(plan, folder)
            processes.append(process)
            busy[pipe] = process, waiting.popleft()
            _send(pipe, busy[pipe][1])
        while busy:
            for pipe in multiprocessing.connection.wait(list(busy)):
                kind, value = _receive(pipe, *busy[pipe])
                if kind == "error":
                    raise value
                if kind == "tick":
                    tick(value)
                    continue
                done(value)
                if waiting:
                    busy[pipe] = busy[pipe][0], waiting.popleft()
                    _send(pipe, busy[pipe][1])
                else:
                    _send(pipe, None)
                    del busy[pipe]
        for process in processes:
            process.join(_END_WITHIN)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join(_END_WITHIN)


def _start(plan: Plan, folder: Path) -> tuple[Any, Any]:
    # Forking a process that runs threads (jax, grain) can hang the child.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, plan, folder), daemon=True)
    with _without_interrupts():
        process.start()
    theirs.close()  # so that its end is seen when the process ends
    return process, ours


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile do not hear Ctrl-C, not even while they start."""
    multiprocessing.resource_tracker.ensure_running()  # which, starting, lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(pipe: Any, job: tuple[str, str] | None) -> None:
    with contextlib.suppress(OSError):  # its end is seen where the answer is awaited
        pipe.send(job)


def _receive(pipe: Any, process: Any, job: tuple[str, str]) -> tuple[str, Any]:
    try:
        return pipe.recv()
    except (EOFError, OSError, pickle.UnpicklingError):
        process.join(_END_WITHIN)
        code = process.exitcode
        how = f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"
        raise WorkerLost(
            f"a worker {how} while it wrote part {job[1]} (of {job[0]}); if memory ran out, fewer "
            "--workers need less. The same command goes on where it was"
        ) from None


def _work(pipe: Any, plan: Plan, folder: Path) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a process that write_parts started"
    # A parent that was killed cannot stop its children; without this they would work on.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    count, told = 0, time.monotonic()

    def tick(examples: int) -> None:
        nonlocal count, told
        count += examples
        if time.monotonic() - told > _TELL_EVERY:
            pipe.send(("tick", count))
            count, told = 0, time.monotonic()

    while (job := pipe.recv()) is not None:
        try:
            shard, name = job
            part = write_part(plan, Encoders(), shard, name, folder, tick)
        except Exception as error:
            pipe.send(("error", _portable(error)))
            return
        pipe.send(("tick", count))
        count = 0
        pipe.send(("part", part))


def _portable(error: Exception) -> Exception:
    """The error as another process can read it, with its traceback as the cause."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.__cause__ = RuntimeError(text)
    return error
