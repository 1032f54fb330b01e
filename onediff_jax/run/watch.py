"""Watching a run: where the time goes, how busy the devices are, what is compiled, a profile."""

import dataclasses
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax
from jax import monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Work:
    """What one step is, for rates.

    Attributes:
      tokens: of all rows, padding included.
      flops: of the model's matrix products, forward and backward, nothing counted twice.
      devices: that share them.
      peak: FLOP/s of one device; None: unknown.
    """

    tokens: int
    flops: float
    devices: int
    peak: float | None

    def rates(self, steps_per_second: float) -> dict[str, float]:
        """Per second at that speed; MFU only where the peak is known."""
        each = self.flops * steps_per_second / self.devices
        found = {
            "tokens_per_second": self.tokens * steps_per_second,
            "model_tflops_per_device": each / 1e12,
        }
        return found if self.peak is None else {**found, "mfu": each / self.peak}


class Clock:
    """Where the time of a loop goes, between two reports, and since the run's first start.

    Args:
      first_start: Unix time at which the run was first started, maybe by an earlier process.
      productive: seconds that earlier processes spent in the steps that this one goes on from.
    """

    def __init__(self, first_start: float, productive: float = 0.0):
        # The wall clock may be set back or forth: it is asked once, and cannot be less than what
        # was productive; from here on the time is counted.
        self._before, self._productive = max(time.time() - first_start, productive), productive
        self._made = self._begin = time.perf_counter()
        self._steps, self._waited = 0, 0.0

    def wait(self, seconds: float) -> None:
        """Time the loop stood waiting for data."""
        self._waited += seconds

    def pause(self, seconds: float) -> None:
        """Time spent on something other than steps (checkpoints, samples, held-out loss)."""
        self._begin += seconds

    def tick(self) -> None:
        """A step was started."""
        self._steps += 1

    def restart(self) -> None:
        """What came since the last report was not steps, but compilation."""
        self._begin, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @property
    def productive(self) -> float:
        """Seconds in steps, without waiting for data, of the whole run. Steps that were done again
        after a kill count once: the number is saved and restored with the state.
        """
        running = time.perf_counter() - self._begin - self._waited
        return self._productive + (max(running, 0.0) if self._steps else 0.0)

    def report(self) -> dict[str, float]:
        """Speed and data-wait share since the last report, and goodput: the share of the wall time
        since the first start that was productive. Empty when there was no step.
        """
        if not self._steps:
            return {}
        self._productive, now = self.productive, time.perf_counter()
        elapsed = max(now - self._begin, 1e-9)
        found = {
            "steps_per_second": self._steps / elapsed,
            "step_seconds": elapsed / self._steps,
            "data_wait": self._waited / elapsed,
            "goodput": self._productive / max(self._before + now - self._made, 1e-9),
        }
        self._begin, self._steps, self._waited = now, 0, 0.0
        return found


class Compiles:
    """Counts the programs that XLA compiles (or reads from its cache) for this thread.

    Attributes: count, seconds.
    """

    def __init__(self):
        self.count, self.seconds, self._thread = 0, 0.0, threading.get_ident()
        monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED and threading.get_ident() == self._thread:
            self.count += 1
            self.seconds += duration_secs

    def close(self) -> None:
        """Stops counting."""
        monitoring.unregister_event_duration_listener(self._listen)


class ProfileWindow:
    """Records a profile of some steps, for xprof or TensorBoard's profile plugin.

    Args:
      folder: where it goes.
      first: step before which it starts; 0 for never.
      steps: how many it holds.

    Raises ValueError for impossible numbers.
    """

    def __init__(self, folder: Path, *, first: int, steps: int):
        if first < 0 or steps < 1:
            raise ValueError(f"log.profile_at={first} must be ≥ 0, log.profile_steps={steps} ≥ 1")
        self._folder, self._first, self._stop = folder, first, first + steps
        self._on = False

    def __call__(self, step: int, running: Any) -> bool:
        """Before the step that makes `step` + 1; `running` is what the last one will return.

        Returns whether it has just ended.
        """
        if self._first and step == self._first:
            jax.block_until_ready(running)
            self._written = Path(tempfile.mkdtemp(prefix="onediff_profile_"))
            jax.profiler.start_trace(str(self._written))
            self._on = True
        if self._on and step >= self._stop:
            jax.block_until_ready(running)
            self.close()
            return True
        return False

    def close(self) -> None:
        """Ends the recording, if it is on."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
            for file in filter(Path.is_file, self._written.rglob("*")):  # to gs:// jax writes none
                target = self._folder / file.relative_to(self._written)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
            shutil.rmtree(self._written)


def device_memory() -> dict[str, float]:
    """The fullest device of this process, GiB in use and at its peak, and the share in use; empty
    where the backend keeps no count (CPU).
    """
    found = [stats for d in jax.local_devices() if (stats := d.memory_stats())]
    if not found:
        return {}
    fullest = max(found, key=lambda stats: stats["bytes_in_use"])
    memory = {
        "hbm_gib": fullest["bytes_in_use"] / _GIB,
        "hbm_peak_gib": max(stats.get("peak_bytes_in_use", 0) for stats in found) / _GIB,
    }
    if limit := fullest.get("bytes_limit"):
        memory["hbm_share"] = fullest["bytes_in_use"] / limit
    return memory
