"""One held-out example with everything that was generated for it, and what goes in the table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onediff_jax.data.bundle import Bundle
from onediff_jax.evaluation.scores.shown_colors import ColorDetector
from onediff_jax.evaluation.scores.typical import Typical

Frames = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """An example and its frames: uint8 pictures (H, W, 3), or float32 ray maps (h, w, 16).

    Attributes:
      bundle: the truth.
      generate: per frame, whether the model made it.
      frames: what the model made; given frames as they were given.
      wrong: the same asked with a wrong condition (see wrong_given.py); None where the direction
        has none or no other example fits.
      round_trip: the truth after the codec: no model does better.
    """

    bundle: Bundle
    generate: tuple[bool, ...]
    frames: Frames
    wrong: Frames | None
    round_trip: Frames


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      task: the direction's name.
      metric: what is measured, with its unit.
      higher: whether more is better.
      model: its value.
      controls: name → value of what the model must beat to have learned anything.
      ceilings: name → value that truth itself reaches.
    """

    task: str
    metric: str
    higher: bool
    model: float
    controls: dict[str, float]
    ceilings: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def beats_all(self) -> bool:
        """Whether the model is better than every control."""
        sign = 1 if self.higher else -1
        return all(sign * self.model > sign * value for value in self.controls.values())


def partners(keys: Sequence) -> list[int | None]:
    """For every example another one with an equal key (sizes, frames); None where it is alone."""
    members: dict = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    found: list[int | None] = [None] * len(keys)
    for group in members.values():
        if len(group) > 1:
            for place, index in enumerate(group):
                found[index] = group[(place + 1) % len(group)]
    return found


def partner_cases(cases: Sequence[Case]) -> list[tuple[Case, Case]]:
    """(case, another of the same shapes) wherever there is one."""
    keys = [tuple(f.shape for f in case.bundle.frames) for case in cases]
    return [(c, cases[p]) for c, p in zip(cases, partners(keys), strict=True) if p is not None]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What one measure looks at.

    Attributes:
      direction: e.g. "image2depth".
      frame: the generated frame that is measured.
      given: the first frame that is not generated; None where all are.
      cases: at least one.
      typical: averages over training examples of the same task.
      detector: of the world's colours.
    """

    direction: str
    frame: int
    given: int | None
    cases: Sequence[Case]
    typical: Typical
    detector: ColorDetector


def mean_of(values) -> float | None:
    """The mean, or None when there are no values."""
    values = list(values)
    return float(np.mean(values)) if values else None


def row(
    task: str,
    metric: str,
    model: float | None,
    controls: Mapping[str, float | None],
    ceilings: Mapping[str, float | None] | None = None,
    *,
    higher: bool = True,
) -> Row:
    """A Row without the controls that could not be measured.

    Raises ValueError where the model itself could not: there is no example to measure it on.
    """
    if model is None:
        raise ValueError(f"{task}: no example to measure {metric!r} on")

    def known(values):
        return {name: value for name, value in (values or {}).items() if value is not None}

    return Row(task, metric, higher, float(model), known(controls), known(ceilings))


def mean_over(cases: Sequence[Case], measure: Callable[[Case], float]) -> float | None:
    """Mean of a measure over cases; None without cases."""
    return mean_of(measure(case) for case in cases)
