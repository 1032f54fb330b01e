"""What a run reports: console line, JSONL, pictures, trackers."""

import io
import json
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from onediff_jax.data.rows import TASK_NAMES
from onediff_jax.files import replace_file
from onediff_jax.run.trackers import Trackers


class Reporter:
    """Writes what a run tells: metrics.jsonl and pictures in the workdir, and its trackers.

    Args:
      workdir: of the run.
      is_writer: whether this process writes; the others stay silent.
      trackers: names of log.trackers.
      config: of the run, plain values, for the trackers.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        is_writer: bool = True,
        trackers: Sequence[str] = ("tensorboard",),
        config: dict[str, Any] | None = None,
    ):
        self._workdir, self._jsonl, self._trackers = workdir, io.StringIO(), None
        if is_writer:
            _end_torn_line(workdir / "metrics.jsonl")
            self._jsonl = (workdir / "metrics.jsonl").open("a")
            self._trackers = Trackers(trackers, workdir, config or {})

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of JSON, and the same to the trackers; not-finite values as strings."""
        if self._trackers is None:
            return
        clean = {k: v if np.isfinite(v) else str(v) for k, v in values.items()}
        self._jsonl.write(json.dumps({"step": step, **clean}) + "\n")
        self._jsonl.flush()
        self._trackers.scalars(step, values)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 (H, W, 3) picture: NAME/STEP.png in the workdir, and to the trackers."""
        if self._trackers is None:
            return
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        folder = self._workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{step:07d}.png", content.getvalue())
        self._trackers.image(step, name, picture)

    def text(self, step: int, name: str, text: str) -> None:
        """A text, such as the table of parameters."""
        if self._trackers is not None:
            self._trackers.text(step, name, text)

    def say(self, line: str) -> None:
        """One line on the console."""
        if self._trackers is not None:
            print(line, flush=True)

    def close(self) -> None:
        """Flushes everything."""
        if self._trackers is not None:
            self._trackers.close()
            self._jsonl.close()


def _end_torn_line(file: Path) -> None:
    """Removes the last line if it lacks its end: a power cut or a full disk tore it."""
    if not isinstance(file, Path) or not file.exists():
        return  # objects in a store appear whole
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as opened:
            opened.truncate(whole)


class Results:
    """What the steps returned, on the devices until it is asked for.

    A step's numbers are a few hundred bytes. They are kept per step, not summed: the sums of many
    steps are then exact, in float64.
    """

    def __init__(self):
        self._waiting: deque[tuple[int, dict[str, jax.Array]]] = deque()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of the step that made `step`, without waiting for them."""
        self._waiting.append((step, metrics))

    @property
    def newest(self) -> dict[str, jax.Array] | None:
        """The metrics of the newest step; None where all were fetched."""
        return self._waiting[-1][1] if self._waiting else None

    @property
    def idle(self) -> bool:
        """Whether the devices have nothing left to do."""
        return self.newest is None or self.newest["loss"].is_ready()  # pyright: ignore[reportAttributeAccessIssue]

    def settle(self, ahead: int = 0) -> None:
        """Returns when all steps but the newest `ahead` are done."""
        if len(self._waiting) > ahead:
            jax.block_until_ready(self._waiting[-1 - ahead][1]["loss"])

    def fetch(self, step: int) -> list[tuple[int, dict[str, np.ndarray]]]:
        """Takes the metrics of the steps up to `step`, each with its number, in one transfer."""
        found = []
        while self._waiting and self._waiting[0][0] <= step:
            found.append(self._waiting.popleft())
        metrics = jax.device_get([metrics for _, metrics in found])
        return [(number, values) for (number, _), values in zip(found, metrics, strict=True)]


def step_means(
    results: Sequence[dict[str, np.ndarray]], tasks: Sequence[str] = TASK_NAMES
) -> dict[str, float]:
    """Losses and padding of several steps together, each mean over all their tokens; `tasks` as in
    `task_means`."""
    names = ("task_loss", "task_tokens", "valid_tokens", "all_tokens")
    sums = {k: np.sum([np.asarray(r[k], np.float64) for r in results], axis=0) for k in names}
    tokens = sums["task_tokens"].sum()
    return {
        "loss": float(sums["task_loss"].sum() / (tokens or 1.0)),
        **task_means(sums, tasks=tasks),
        "padding": float(1 - sums["valid_tokens"] / sums["all_tokens"]),
    }


def task_means(
    sums: dict[str, np.ndarray], prefix: str = "loss", tasks: Sequence[str] = TASK_NAMES
) -> dict[str, float]:
    """Mean loss per task that had tokens, from the sums of one or more steps; `tasks` are the names
    of all tasks in the order of the sums."""
    pairs = zip(tasks, sums["task_loss"], sums["task_tokens"], strict=True)
    return {f"{prefix}/{name}": float(s / n) for name, s, n in pairs if n > 0}


def add_sums(total: dict[str, np.ndarray] | None, new: dict[str, Any]) -> dict[str, np.ndarray]:
    """Running sums over steps, in float64."""
    new = {k: np.asarray(v, np.float64) for k, v in new.items()}
    return new if total is None else {k: total[k] + new[k] for k in total}


def console_line(step: int, total: int, values: dict[str, float]) -> str:
    """Where the run is, how fast, and its losses, in one line."""
    speed = ""
    if rate := values.get("steps_per_second"):
        left = time_left(total - step, rate)
        mfu = f"MFU {values['mfu']:.1%}  " if "mfu" in values else ""
        speed = f"{rate:.2f} steps/s  left {left}  wait {values['data_wait']:.1%}  {mfu}"
    per_task = " ".join(
        f"{k.removeprefix('loss/')} {v:.3f}" for k, v in values.items() if k[:5] == "loss/"
    )
    return f"step {step}/{total}  {speed}loss {values['loss']:.4f}  | {per_task}"


def time_left(steps: int, rate: float) -> str:
    """h:mm:ss for that many steps at that rate."""
    seconds = int(steps / max(rate, 1e-9))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def memory_peak_gib() -> float:
    """Peak resident memory of this process, GiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
