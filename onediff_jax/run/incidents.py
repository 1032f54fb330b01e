"""Losses that go wrong: outlying ones are found, and the examples behind them named."""

import dataclasses
import json
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onediff_jax.data.rows import TASK_NAMES

_WINDOW, _LEAST = 100, 20  # losses of a task that the median is of, and that it needs
_NAMED = 8  # examples of a step that are named at most


class SpikeError(RuntimeError):
    """A loss is outlying, and train.on_spike says that the run stops, or nothing helped."""


@dataclasses.dataclass(frozen=True)
class Incident:
    """A step with a loss that is outlying or not finite.

    Attributes:
      step: what the step made.
      kind: "outlying loss" or "not finite".
      tasks: of the tasks concerned: mean loss in the step, and the running median before it.
      slots: (row of the batch, slot of the row, mean loss) of what stands behind it, worst first.
      left_out: whether the step was left out.
    """

    step: int
    kind: str
    tasks: dict[str, tuple[float, float]]
    slots: tuple[tuple[int, int, float], ...]
    left_out: bool


class LossWatch:
    """Compares the mean loss of each task in a step with the median of those of the steps before.

    Args:
      factor: of the median, above which a loss is outlying.
      state: what `state` returned, to go on from there.
      tasks: the names that metrics are by.
    """

    def __init__(
        self,
        factor: float,
        state: Mapping[str, Any] | None = None,
        tasks: Sequence[str] = TASK_NAMES,
    ):
        self._factor, self._tasks = factor, tasks
        state = state or {"losses": {}, "limits": {}}
        self._losses = {k: deque(v, maxlen=_WINDOW) for k, v in state["losses"].items()}
        self._limits = dict(state["limits"])

    def state(self) -> dict[str, Any]:
        """JSON values; floats come back as they were."""
        return {"losses": {k: list(v) for k, v in self._losses.items()}, "limits": self._limits}

    def median(self, task: str) -> float:
        """The running median of a task; infinite until enough losses are known."""
        known = self._losses.get(task, ())
        return statistics.median(known) if len(known) >= _LEAST else math.inf

    def set_limits(self) -> None:
        """Takes the medians of now for `limits`."""
        medians = {task: self.median(task) for task in self._losses}
        self._limits = {k: self._factor * v for k, v in medians.items() if math.isfinite(v)}

    @property
    def limits(self) -> np.ndarray:
        """Per task the largest mean loss that is not outlying, (tasks,) float32, when set last."""
        return np.array([self._limits.get(name, np.inf) for name in self._tasks], np.float32)

    def see(self, step: int, metrics: Mapping[str, Any], skipped_before: int) -> Incident | None:
        """Takes the metrics of one step; what is wrong with it, if something is.

        Args:
          skipped_before: metrics["skipped"] of the step before.
        """
        loss, tokens = (np.asarray(metrics[k], np.float64) for k in ("task_loss", "task_tokens"))
        means = {
            task: float(loss[i] / tokens[i]) for i, task in enumerate(self._tasks) if tokens[i]
        }
        left_out = int(metrics["skipped"]) > skipped_before
        finite = np.isfinite(float(metrics["grad_norm"])) and np.isfinite(float(metrics["loss"]))
        if finite:
            tasks = {k: v for k, v in means.items() if v > self._factor * self.median(k)}
            if left_out:  # by the limits that were set last
                over = {k: v for k, v in means.items() if v > self._limits.get(k, math.inf)}
                tasks = over | tasks
        else:
            bad = {k: v for k, v in means.items() if not math.isfinite(v)}
            tasks = bad or means  # a gradient alone tells nothing about the task
        told = {k: (v, self.median(k)) for k, v in tasks.items()}
        slots = _behind(metrics, means, told, self._factor, finite=bool(finite))
        for name, mean in means.items():  # outlying ones too: a level that changed is learned
            if math.isfinite(mean):
                self._losses.setdefault(name, deque(maxlen=_WINDOW)).append(mean)
        if finite and not tasks:
            return None
        return Incident(step, "outlying loss" if finite else "not finite", told, slots, left_out)


def _behind(
    metrics: Mapping[str, Any],
    means: Mapping[str, float],
    told: Mapping[str, tuple[float, float]],
    factor: float,
    *,
    finite: bool,
) -> tuple[tuple[int, int, float], ...]:
    """The slots whose own loss is not finite, or outlying; the worst one where none is alone."""
    loss, tokens = (np.asarray(metrics[k], np.float64) for k in ("slot_loss", "slot_tokens"))
    mean = np.where(tokens > 0, loss / np.where(tokens > 0, tokens, 1.0), -np.inf)
    if not finite:
        found = ~np.isfinite(mean) & (tokens > 0)
    else:
        found = mean > factor * min((median for _, median in told.values()), default=math.inf)
    places = [(int(r), int(s), float(mean[r, s])) for r, s in np.argwhere(found)]
    places.sort(key=lambda place: -place[2] if math.isfinite(place[2]) else -math.inf)
    if not places and told and finite:
        r, s = np.unravel_index(np.argmax(mean), mean.shape)
        places = [(int(r), int(s), float(mean[r, s]))]
    return tuple(places[:_NAMED])


def write_incident(
    file: Path, incident: Incident, examples: Sequence[Mapping[str, Any]], action: str
) -> None:
    """Adds a line to incidents.jsonl: the step, its batch, the tasks, and the examples behind it.

    Args:
      examples: of incident.slots, what is known of each: its name, task, key, prompt.
      action: what was done about it.
    """
    rows = [
        {"row": row, "slot": slot, "loss": _json(loss), **example}
        for (row, slot, loss), example in zip(incident.slots, examples, strict=True)
    ]
    tasks = {k: {"loss": _json(v), "median": _json(m)} for k, (v, m) in incident.tasks.items()}
    line = {
        "step": incident.step,
        "batch": incident.step - 1,  # counted from 0, as BatchSource does
        "kind": incident.kind,
        "action": action,
        "tasks": tasks,
        "examples": rows,
    }
    with file.open("a") as opened:
        opened.write(json.dumps(line, ensure_ascii=False) + "\n")


def described(reference: Any) -> dict[str, Any]:
    """What is known of an example: its name, and where it can be read its record and prompt."""
    found = {"example": reference.name}
    try:
        example = reference.read()
        record = getattr(example, "record", None)
        if record is not None:
            found["key"] = record.key
        drawn = example.draw(np.random.default_rng(0))
        return found | {"task": drawn.task, "prompt": drawn.prompt}
    except (ValueError, OSError) as error:
        return found | {"unreadable": str(error)}


def describe(incident: Incident, examples: Sequence[Mapping[str, Any]]) -> str:
    """One line about it for the console."""
    tasks = ", ".join(
        f"{name} {loss:.4g}" + (f" (median {median:.4g})" if math.isfinite(median) else "")
        for name, (loss, median) in incident.tasks.items()
    )
    names = ", ".join(str(example["example"]) for example in examples)
    return f"step {incident.step}: {incident.kind}: {tasks}; behind it: {names or 'no one example'}"


def _json(value: float) -> float | str | None:
    """Numbers that JSON knows; others as text, an unknown median as null."""
    if value == math.inf:
        return None
    return value if math.isfinite(value) else str(value)
