"""Records of examples of prepared folders → rows with controls, and examples to look at."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from onediff_jax.data.bundle import Bundle, Encoded
from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.evaluation.frame_measures import (
    CameraMeasure,
    FrameMeasure,
    has_more,
    measure_of,
)
from onediff_jax.evaluation.results import Result, bootstrap
from onediff_jax.tasks.cameras import Cameras, rebase
from onediff_jax.tasks.definitions import Direction, Task
from onediff_jax.tasks.role import Role
from onediff_jax.tasks.roles import get_role

_SHOWN = 4  # examples of a kind
_AS_PICTURE = ", as a picture"  # of numbers of examples of which too little is known for more
_TYPICAL = 64  # training examples that averages are taken of


@dataclasses.dataclass(frozen=True)
class Shown:
    """One example for the report: what was given, made and true, and its first number."""

    direction: str
    key: str
    prompt: str
    given: tuple[np.ndarray, ...]
    made: tuple[np.ndarray, ...]
    truth: tuple[np.ndarray, ...]
    roles: tuple[str, ...]
    score: float | None
    metric: str
    better: str
    cameras: tuple[Cameras, Cameras] | None = None  # found and true, relative to the first


def seen_cameras(
    frames: Sequence[np.ndarray], roles: Sequence[str], mask: Sequence[int], true: Cameras | None
) -> tuple[Cameras, Cameras] | None:
    """Cameras read off generated ray maps and the true ones; None where no rays were generated."""
    rays = [frame for frame, role in zip(frames, roles, strict=True) if role == "ray"]
    made = any(m and role == "ray" for m, role in zip(mask, roles, strict=True))
    if true is None or not made:
        return None
    found = get_role("ray").read(np.stack(rays), {"intrinsics": true})
    return rebase(found), rebase(true)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One pass: a direction on the records of a folder.

    Attributes:
      folder, split, task, direction: where the examples are, and what is asked.
      steps: Euler steps. caption: whether the prompt has its caption.
      count: examples.
    """

    folder: PreparedFolder
    split: str
    task: Task
    direction: Direction
    steps: int
    caption: bool
    count: int

    @property
    def label(self) -> str:
        """The name of the data in the rows."""
        return self.folder.path.name + ("" if self.caption else ", no caption")


@dataclasses.dataclass(frozen=True)
class Example:
    index: int
    key: str
    bundle: Bundle
    encoded: Encoded
    truth: tuple[np.ndarray, ...]
    roles: tuple[str, ...]
    known: dict[str, Any]
    mask: tuple[int, ...]


class Scores:
    """The records of a plan, as its examples come; what is kept does not grow with pictures."""

    def __init__(self, plan: Plan, typical: dict[tuple, np.ndarray]):
        self._plan, self._typical = plan, typical
        self._records: dict[tuple[str, str], list[Any]] = {}  # (what, variant) → records
        self._measures: dict[str, FrameMeasure] = {}
        self._own: dict[str, dict[str, dict[str, float]]] = {}  # what → example → its numbers
        self._last: dict[tuple, tuple[np.ndarray, ...]] = {}  # shapes → frames made for another
        self._count = 0
        self._best: list[Shown] = []
        self._worst: list[Shown] = []
        self._first: list[Shown] = []

    def add(self, example: Example, made, round_trip) -> None:
        """One example with what was made for it, and its truth after the codec (or None)."""
        self._count += 1
        shapes = tuple(f.shape for f in example.truth)
        other = self._last.get(shapes)
        score, metric, better = None, "", "higher"
        for name, wanted in self._asked(example):
            name, measure = self._measure(name, get_role(example.roles[wanted[0]]), example.known)
            truth = _of(example.truth, wanted)
            variants = {"": _of(made, wanted)}
            if other is not None:
                variants["another's"] = _of(other, wanted)
            if round_trip is not None:
                variants["codec"] = _of(round_trip, wanted)
            variants |= self._controls(example, wanted, measure)
            for variant, frames in variants.items():
                record = _record(measure, frames, truth, example.known)
                if record is None:
                    continue
                self._records.setdefault((name, variant), []).append(record)
                if variant == "":
                    own = measure.summarize([record])
                    self._own.setdefault(name, {})[f"{example.index} {example.key}"] = own
                    if score is None:
                        metric, score = next(iter(own.items()))
                        better = "lower" if metric in measure.lower else "higher"
        self._agreement(example, made)
        self._last[shapes] = made
        self._keep(example, made, score, metric, better)

    def _measure(self, name: str, role: Role, known: dict[str, Any]) -> tuple[str, FrameMeasure]:
        """What measures a role where this much is known, and the name of its numbers: those of
        examples of which too little is known for more than pictures stand apart."""
        measure = measure_of(role, known)
        if type(measure) is FrameMeasure and has_more(role):
            name += _AS_PICTURE
        return name, self._measures.setdefault(name, measure)

    def _asked(self, example: Example) -> list[tuple[str, list[int]]]:
        """(name, frames) of what is measured: generated maps and pictures that have one truth."""
        rays = [i for i, r in enumerate(example.roles) if r == "ray" and example.mask[i]]
        found = [("ray", rays)] if rays else []
        pictures = [m for m, r in zip(example.mask, example.roles, strict=True) if r != "ray"]
        from_text = self._plan.task.rays and all(pictures)
        if self._plan.task.group in ("t2i", "identity") or from_text:  # many pictures are right
            return found
        by_role: dict[str, list[int]] = {}
        for index, role in enumerate(example.roles):
            if example.mask[index] and role != "ray":
                by_role.setdefault(role, []).append(index)
        for role, indices in by_role.items():
            if measure_of(get_role(role), example.known).averages:
                found.append((role, indices))  # an example counts once, however many views it has
            else:
                found += [(f"{role} {i}" if i != indices[0] else role, [i]) for i in indices]
        return found

    def _controls(self, example: Example, wanted: list[int], measure) -> dict[str, list]:
        if isinstance(measure, CameraMeasure):
            return {}
        shape, found = example.truth[wanted[0]].shape, {}
        means = [self._typical.get((i, shape)) for i in wanted]
        if all(mean is not None for mean in means):
            found["mean picture"] = means
        if type(measure) is FrameMeasure:
            for index, role in enumerate(example.roles):
                frame = example.truth[index]
                if not example.mask[index] and role != "ray" and frame.shape == shape:
                    found["input"] = [frame] * len(wanted)
                    break
        return found

    def _agreement(self, example: Example, made) -> None:
        """A condition that can be derived again from a picture made from it, beside the given."""
        if len(example.roles) < 2 or not example.mask[0] or example.roles[0] != "image":
            return
        for index, name in enumerate(example.roles):
            role = get_role(name)
            if example.mask[index] or not role.derived or role.needs_mask:
                continue
            what, measure = self._measure(f"{name} again", role, example.known)
            for variant, picture in (("", made[0]), ("truth", example.truth[0])):
                again = role.derive(picture)
                record = measure.record(again, example.truth[index], example.known)
                if record is not None:
                    self._records.setdefault((what, variant), []).append(record)

    def _keep(self, example: Example, made, score, metric, better) -> None:
        def pictures(frames, wanted):
            pairs = zip(frames, example.roles, example.mask, strict=True)
            return tuple(
                get_role(r).show(f) if r == "ray" else f for f, r, m in pairs if bool(m) == wanted
            )

        shown = Shown(
            self._plan.direction.name,
            example.key,
            example.encoded.prompt,
            pictures(example.truth, False),
            pictures(made, True),
            pictures(example.truth, True),
            tuple(r for r, m in zip(example.roles, example.mask, strict=True) if m),
            score,
            metric,
            better,
            seen_cameras(made, example.roles, example.mask, example.known.get("cameras")),
        )
        if len(self._first) < _SHOWN:
            self._first.append(shown)
        if score is None or score != score:
            return
        sign = 1 if better == "higher" else -1
        for kept, way in ((self._best, -sign), (self._worst, sign)):
            kept.append(shown)
            kept.sort(key=lambda s, way=way: way * (s.score or 0.0))
            del kept[_SHOWN:]

    @property
    def shown(self) -> dict[str, list[Shown]]:
        """Examples for the report: the first ones, the best and the worst."""
        if self._count <= _SHOWN:
            return {"first": self._first}
        return {"first": self._first, "best": self._best, "worst": self._worst}

    def rows(self) -> list[Result]:
        """The numbers, with their controls and bounds."""
        found = []
        names = list(dict.fromkeys(name for name, variant in self._records if variant == ""))
        names.sort(key=lambda name: name.endswith(_AS_PICTURE))
        for name in names:
            measure = self._measures[name]
            records = self._records[name, ""]
            values = measure.summarize(records)
            intervals = bootstrap(records, measure.summarize, replicates=measure.replicates)
            others, bounds = {}, {}
            for (n, variant), kept in self._records.items():
                if n == name and variant:
                    side = bounds if variant in ("codec", "truth") else others
                    side[variant] = measure.summarize(kept)
            for key, value in values.items():
                found.append(
                    Result(
                        task=self._plan.direction.name,
                        data=self._plan.label,
                        protocol=measure.protocol,
                        metric=key if name == names[0] else f"{name}: {key}",
                        value=value,
                        n=len(records),
                        interval=intervals.get(key),
                        better="lower" if key in measure.lower else "higher",
                        controls={v: s[key] for v, s in others.items() if key in s},
                        upper_bound={v: s[key] for v, s in bounds.items() if key in s},
                        steps=self._plan.steps,
                        items={k: v[key] for k, v in self._own.get(name, {}).items() if key in v},
                    )
                )
        return found


def _of(frames: Sequence[np.ndarray], wanted: list[int]) -> list[np.ndarray]:
    return [frames[i] for i in wanted]


def _record(measure: FrameMeasure, made: list, truth: list, known: dict[str, Any]) -> Any | None:
    """An example's record: of all its ray maps together, or the mean over its frames."""
    if isinstance(measure, CameraMeasure):
        return measure.record(np.stack(made), np.stack(truth), known)
    pairs = zip(made, truth, strict=True)
    records = [r for a, b in pairs if (r := measure.record(a, b, known)) is not None]
    if len(records) < 2:
        return records[0] if records else None
    return {key: float(np.mean([r[key] for r in records])) for key in records[0]}


def typical_pictures(plan: Plan) -> dict[tuple, np.ndarray]:
    """The mean of each frame over training examples, by (frame, shape); pixels alone."""
    records = plan.folder.records(plan.task.name, "train")
    kept: dict[tuple, list[np.ndarray]] = {}
    apart = plan.task.per_picture  # a bundle has a ray map after each picture, a record has none
    for index in range(min(len(records), _TYPICAL)):
        for place, frame in enumerate(records[index].frames):
            if frame.dtype == np.uint8:
                kept.setdefault((place * apart, frame.shape), []).append(frame.astype(np.float32))
    return {k: np.rint(np.mean(v, 0)).astype(np.uint8) for k, v in kept.items()}
