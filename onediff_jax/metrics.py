"""What a run reports: console line, JSONL, TensorBoard; goodput and data wait."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from onediff_jax.data.rows import TASK_NAMES


class Reporter:
    """Writes scalars and pictures of one run: metrics.jsonl and TensorBoard in the workdir.

    Args:
      workdir: of the run.
      is_writer: whether this process writes; the others stay silent.
    """

    def __init__(self, workdir: Path, *, is_writer: bool = True):
        self._jsonl = self._writer = None
        if is_writer:
            from clu import metric_writers  # brings tensorflow: seconds, after all checks

            self._jsonl = open(workdir / "metrics.jsonl", "a")  # noqa: SIM115 - lives as we do
            self._writer = metric_writers.SummaryWriter(str(workdir))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of JSON and one TensorBoard event per value; not-finite values as strings."""
        if self._writer is None:
            return
        clean = {k: v if np.isfinite(v) else str(v) for k, v in values.items()}
        self._jsonl.write(json.dumps({"step": step, **clean}) + "\n")
        self._jsonl.flush()
        self._writer.write_scalars(step, values)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 (H, W, 3) picture."""
        if self._writer is not None:
            self._writer.write_images(step, {name: picture[None].astype(np.float32) / 255})

    def text(self, step: int, name: str, text: str) -> None:
        """A text, such as the table of parameters."""
        if self._writer is not None:
            self._writer.write_texts(step, {name: text})

    def say(self, line: str) -> None:
        """One line on the console."""
        if self._writer is not None:
            print(line, flush=True)

    def close(self) -> None:
        """Flushes everything."""
        if self._writer is not None:
            self._writer.close()
            self._jsonl.close()


class Clock:
    """Where the time of a loop goes, between two reports."""

    def __init__(self):
        self._start = time.perf_counter()
        self._begin = self._start
        self._steps, self._waited = 0, 0.0
        self.total_waited, self.paused = 0.0, 0.0

    def wait(self, seconds: float) -> None:
        """Time the loop stood waiting for data."""
        self._waited += seconds
        self.total_waited += seconds

    def pause(self, seconds: float) -> None:
        """Time spent on something other than steps (checkpoints, samples, held-out loss)."""
        self._begin += seconds
        self.paused += seconds

    def tick(self) -> None:
        """A step was started."""
        self._steps += 1

    def report(self) -> dict[str, float]:
        """Rate and data-wait share since the last report, and goodput since the start; empty when
        there was no step.
        """
        if not self._steps:
            return {}
        now = time.perf_counter()
        elapsed = max(now - self._begin, 1e-9)
        found = {
            "steps_per_second": self._steps / elapsed,
            "data_wait": self._waited / elapsed,
            "goodput": 1.0 - (self.paused + self.total_waited) / max(now - self._start, 1e-9),
        }
        self._begin, self._steps, self._waited = now, 0, 0.0
        return found


def task_means(sums: dict[str, np.ndarray], prefix: str = "loss") -> dict[str, float]:
    """Mean loss per task that had tokens, from the sums of one or more steps."""
    pairs = zip(TASK_NAMES, sums["task_loss"], sums["task_tokens"], strict=True)
    return {f"{prefix}/{name}": float(s / n) for name, s, n in pairs if n > 0}


def add_sums(total: dict[str, np.ndarray] | None, new: dict[str, Any]) -> dict[str, np.ndarray]:
    """Running sums over steps, in float64."""
    new = {k: np.asarray(v, np.float64) for k, v in new.items()}
    return new if total is None else {k: total[k] + new[k] for k in total}


def time_left(steps: int, rate: float) -> str:
    """h:mm:ss for that many steps at that rate."""
    seconds = int(steps / max(rate, 1e-9))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def memory_peak_gib() -> float:
    """Peak resident memory of this process, GiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
