"""What an evaluation says: rows of numbers with their intervals, as metrics.json holds them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onediff_jax.files import read_json

REPLICATES, CONFIDENCE = 1000, 0.95


@dataclasses.dataclass(frozen=True)
class Result:
    """One number.

    Attributes:
      task: direction that it measures.
      data: what it was measured on.
      protocol: whose arithmetic.
      metric: its key, e.g. "abs_rel".
      value: NaN where the protocol gives none.
      n: examples.
      interval: low and high ends of the bootstrap interval (95 %); None where there is none.
      better: "higher" or "lower".
      controls: name → value of what a model must beat to have learned anything.
      upper_bound: name → value that the truth itself reaches.
      paper: the paper's figure under this protocol.
      steps: Euler steps; None for pictures of another system.
      part: where the data is a part of an official set, which: "3 of 654".
      items: example → its own value, where an example has one; for paired comparisons.
    """

    task: str
    data: str
    protocol: str
    metric: str
    value: float
    n: int
    interval: tuple[float, float] | None = None
    better: str = "higher"
    controls: dict[str, float] = dataclasses.field(default_factory=dict)
    upper_bound: dict[str, float] = dataclasses.field(default_factory=dict)
    paper: float | None = None
    steps: int | None = None
    part: str | None = None
    items: dict[str, float] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def beats_all(self) -> bool:
        """Whether the value is better than every control."""
        sign = 1 if self.better == "higher" else -1
        return all(sign * self.value > sign * value for value in self.controls.values())

    def as_json(self) -> dict[str, Any]:
        """The row of metrics.json; numbers that are not finite become null."""
        row = dataclasses.asdict(self)
        row["value"] = finite(self.value)
        row["interval"] = None if self.interval is None else [finite(v) for v in self.interval]
        for key in ("controls", "upper_bound"):
            row[key] = {name: finite(value) for name, value in row[key].items()}
        row.pop("items")  # a file's worth of numbers: in "items" of metrics.json
        return row | {"beats_all": self.beats_all if self.controls else None}


def read_rows(folder: Path) -> list[Result]:
    """The rows of an evaluation's metrics.json. Raises ValueError where there is none."""
    file = folder / "metrics.json"
    if not file.is_file():
        raise ValueError(f"{folder} is no evaluation: it has no metrics.json")
    names = [field.name for field in dataclasses.fields(Result) if field.name != "items"]
    rows = []
    for row in read_json(file)["rows"]:
        known = {name: row[name] for name in names if name in row}
        for key in ("controls", "upper_bound"):
            known[key] = {n: math.nan if v is None else v for n, v in row.get(key, {}).items()}
        known["value"] = math.nan if row["value"] is None else row["value"]
        known["interval"] = row.get("interval") and tuple(row["interval"])
        rows.append(Result(**known))
    return rows


def key_of(row: dict[str, Any]) -> str:
    """What a row of metrics.json is about, as one line: equal for the same number of two runs."""
    steps = "" if row.get("steps") is None else f", {row['steps']} steps"
    return f"{row['task']} on {row['data']}{steps}: {row['metric']}"


def finite(value: float | None) -> float | None:
    """The number, or None where it is not finite: JSON has no other."""
    return float(value) if value is not None and math.isfinite(value) else None


def bootstrap(
    scores: Sequence[Any],
    summarize: Callable[[Sequence[Any]], dict[str, float]],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> dict[str, tuple[float, float] | None]:
    """Per key of the summary its 95 % interval: percentiles over resampled examples.

    None with fewer than two examples, or where no resampled set has a finite value.
    """
    if len(scores) < 2:
        return {}
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(replicates):
        picked = rng.integers(len(scores), size=len(scores))
        for key, value in summarize([scores[i] for i in picked]).items():
            if math.isfinite(value):
                found.setdefault(key, []).append(value)
    return {key: confidence_interval(values) for key, values in found.items()}


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """The ends between which 95 % of the resampled values lie."""
    low, high = np.percentile(values, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    return float(low), float(high)


def bootstrap_means(
    values: np.ndarray, *, seed: int = 0, replicates: int = REPLICATES
) -> tuple[float, float] | None:
    """The 95 % interval of a mean over examples (n,); None where it is not known."""
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(values), size=(replicates, len(values)))
    ends = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
    low, high = np.percentile(values[picked].mean(1), ends)
    return float(low), float(high)
