"""The watchdog: says where a run hangs, and ends it where it was told to."""

import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from onediff_jax import exits
from onediff_jax.data.readers import ask_for_stacks
from onediff_jax.experiment.fields_running import ON_HANG

_TIMES_MEDIAN = 10  # of the same thing's earlier durations
_KEPT = 50  # durations that the median is of
# Seconds that are no hang, whatever the median: the first step is compiled, a save may wait for a
# slow store.
_AT_LEAST = {
    "a step": 60.0,
    "the start of a step": 60.0,
    "the next batch": 60.0,
    "a save": 600.0,
    "evaluation": 600.0,
}
_FIRST = {"the start of a step": 3600.0, "a step": 3600.0, "evaluation": 3600.0}


class Watchdog:
    """Watches what the loop waits for, from a thread of its own.

    What takes longer than ten times the median of its like, and than a minute (ten for a save or an
    evaluation, an hour where a program may be compiled), is reported once on `output`: its name,
    the stack of every thread, and of those of reading processes.

    Args:
      on_hang: "report", or "exit": the process ends with exits.HANGS after the report, so that a
        launcher starts it again.
      at_least: seconds by what is waited for; None for those above.
      output: a file with a descriptor.

    Raises ValueError for an unknown on_hang.
    """

    def __init__(
        self,
        on_hang: str = "report",
        *,
        at_least: dict[str, float] | None = None,
        output: TextIO | None = None,
    ):
        if on_hang not in ON_HANG:
            raise ValueError(f"log.on_hang={on_hang!r} must be one of {ON_HANG}")
        self._exit, self._output = on_hang == "exit", output or sys.__stderr__ or sys.stderr
        self._least = _AT_LEAST if at_least is None else at_least
        self._first = _FIRST if at_least is None else {}
        self._durations: dict[str, deque[float]] = {}
        self._current: tuple[str, float, float] | None = None  # name, begin, limit
        self._closed = threading.Event()
        tick = min(1.0, *(seconds / 4 for seconds in self._least.values()))
        self._thread = threading.Thread(
            target=self._watch, args=(tick,), daemon=True, name="watchdog"
        )
        self._thread.start()

    def limit(self, name: str) -> float:
        """Seconds after which that is a hang."""
        known = self._durations.get(name)
        if not known:
            return self._first.get(name, self._least[name])
        return max(self._least[name], _TIMES_MEDIAN * statistics.median(known))

    @contextlib.contextmanager
    def waiting_for(self, name: str) -> Iterator[None]:
        """Inside, the loop waits for one of the things of `_AT_LEAST`."""
        before, began = self._current, time.monotonic()
        self._current = (name, began, self.limit(name))
        try:
            yield
            durations = self._durations.setdefault(name, deque(maxlen=_KEPT))
            durations.append(time.monotonic() - began)
        finally:
            self._current = before

    def _watch(self, tick: float) -> None:
        reported = None
        while not self._closed.wait(tick):
            current = self._current
            if current is None or current is reported:
                continue
            name, began, limit = current
            if (taken := time.monotonic() - began) > limit:
                reported = current
                self._report(name, taken, limit)

    def _report(self, name: str, taken: float, limit: float) -> None:
        end = f"; ending with code {exits.HANGS.code}" if self._exit else ""
        print(
            f"watchdog: {name} takes {taken:.0f} s by now, more than {limit:.0f} s{end}. "
            f"Where every thread of process {os.getpid()} is:",
            file=self._output,
            flush=True,
        )
        faulthandler.dump_traceback(file=self._output, all_threads=True)
        ask_for_stacks(self._output)
        self._output.flush()
        if self._exit:
            os._exit(exits.HANGS.code)

    def close(self) -> None:
        """Ends the watching."""
        self._closed.set()
        self._thread.join()
