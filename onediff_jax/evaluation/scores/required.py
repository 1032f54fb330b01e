"""What a trained model must reach, and whether it does; held-out loss read from a run's metrics."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onediff_jax.evaluation.scores.case import Row

DEPTH_SHARE = 0.45  # of the best constant's AbsRel
SEGMENTATION_GAIN = 0.04  # accuracy over painting nothing
COLOUR_FACTOR = 2.0  # over shuffled captions
LOSS_SHARE = 0.8  # of the held-out loss after the first steps (50 unless log.held_out_at differs)


@dataclasses.dataclass(frozen=True)
class Check:
    """One requirement: what it says with its numbers, and whether it holds."""

    name: str
    text: str
    passed: bool


@dataclasses.dataclass(frozen=True)
class HeldOutLoss:
    """Held-out loss per task at two steps of a run, the same bundles and noise both times.

    `by_noise` has those of the late step at fixed noise levels: task → σ → loss.
    """

    early_step: int
    late_step: int
    early: dict[str, float]
    late: dict[str, float]
    by_noise: dict[str, dict[float, float]] = dataclasses.field(default_factory=dict)

    def ratios(self) -> dict[str, float]:
        """Late over early, per task; below 1 is learning."""
        return {task: self.late[task] / self.early[task] for task in self.early}


def held_out_loss(file: Path, step: int | None = None) -> HeldOutLoss | None:
    """The first and the last held-out losses up to `step` in a run's metrics.jsonl.

    None when the file is missing or holds fewer than two such steps. Lines that are damaged (a
    killed run's last one) are passed over; values that are not finite are left out.
    """
    if not file.exists():
        return None
    found: dict[int, dict[str, float]] = {}
    by_noise: dict[int, dict[str, dict[float, float]]] = {}
    for line in file.read_text(errors="replace").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            continue
        losses = {
            name.removeprefix("held_out/"): float(value)
            for name, value in values.items()
            if name.startswith("held_out/") and isinstance(value, float | int)
        }
        if losses and values["step"] > 0 and (step is None or values["step"] <= step):
            found[values["step"]] = losses
            by_noise[values["step"]] = _by_noise(values)
    if len(found) < 2:
        return None
    first, last = min(found), max(found)
    both = [task for task in found[first] if task in found[last]]
    levels = {task: of_task for task, of_task in by_noise[last].items() if task in both}
    return HeldOutLoss(
        first, last, {t: found[first][t] for t in both}, {t: found[last][t] for t in both}, levels
    )


def _by_noise(values: dict[str, Any]) -> dict[str, dict[float, float]]:
    """What a line of metrics says of held_out_by_noise/TASK/σ."""
    found: dict[str, dict[float, float]] = {}
    for name, value in values.items():
        match name.split("/"):
            case ["held_out_by_noise", task, level] if isinstance(value, float | int):
                found.setdefault(task, {})[float(level)] = float(value)
    return found


def checks(rows: Sequence[Row], losses: HeldOutLoss | None) -> list[Check]:
    """The requirements that these rows and losses speak about."""
    found = []
    for row in rows:
        controls, value = row.controls, row.model
        if row.task == "image2depth":
            limit = DEPTH_SHARE * controls["best constant"]
            text = f"AbsRel {value:.3f} ≤ {limit:.3f} ({DEPTH_SHARE} × best constant's)"
            found.append(Check("depth", text, value <= limit))
            limit = controls["mean map"]
            text = f"AbsRel {value:.3f} < {limit:.3f} (mean map's)"
            found.append(Check("depth", text, value < limit))
        if row.task == "image2semanticmap" and row.metric == "pixel accuracy":
            limit = controls["background"] + SEGMENTATION_GAIN
            text = f"accuracy {value:.3f} ≥ {limit:.3f} (background + {SEGMENTATION_GAIN})"
            found.append(Check("segmentation", text, value >= limit))
        if row.task == "text2image" and "shuffled captions" in controls:
            limit = COLOUR_FACTOR * controls["shuffled captions"]
            text = f"Jaccard {value:.3f} ≥ {limit:.3f} ({COLOUR_FACTOR} × shuffled captions')"
            found.append(Check("colours", text, value >= limit))
    if losses is not None:
        for task, ratio in losses.ratios().items():
            text = (
                f"{task}: {losses.late[task]:.3f} at step {losses.late_step} is {ratio:.2f} × "
                f"{losses.early[task]:.3f} at step {losses.early_step} (≤ {LOSS_SHARE} ×)"
            )
            found.append(Check("held-out loss", text, ratio <= LOSS_SHARE))
    return found
