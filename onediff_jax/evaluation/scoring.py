"""Evaluation: generate every task on held-out scenes, and score it beside its controls."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from onediff_jax.data.bundle import Bundle, Encoded, encode_bundle
from onediff_jax.data.codec import to_uint8
from onediff_jax.data.world import Scene, View, World
from onediff_jax.data.world_bundles import DEPTH_RANGE, WorldBundles, renders
from onediff_jax.evaluation.held_out import Example
from onediff_jax.evaluation.results import bootstrap_means
from onediff_jax.evaluation.scores.by_direction import score
from onediff_jax.evaluation.scores.case import Case, Row, partners
from onediff_jax.evaluation.scores.shown_colors import ColorDetector
from onediff_jax.evaluation.scores.typical import Typical
from onediff_jax.evaluation.scores.wrong_given import wrong_given
from onediff_jax.evaluation.sheet import draw_sheet, example_row
from onediff_jax.evaluation.stored_scores import Shown, seen_cameras
from onediff_jax.experiment.build import HELD_OUT, Experiment
from onediff_jax.sampling.request import Request, request_of_example
from onediff_jax.sampling.sampler import Sampler
from onediff_jax.sampling.source import Source
from onediff_jax.tasks.definitions import TaskSet
from onediff_jax.tasks.roles import get_role

# Scenes 0, 1, … that are not held out: for averages per task, and to fit the colour detector.
TYPICAL_SCENES, DETECTOR_SCENES = 64, 192
SHEET_EXAMPLES = 4  # per direction on the contact sheet


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
      tasks: directions; None for all that the source was trained on.
      scenes: held-out scenes per direction.
      steps, guidance: of the Euler loop; guidance ≤ 1 is off.
      seed: of the starting noise.
    """

    tasks: tuple[str, ...] | None = None
    scenes: int = 48
    steps: int = 8
    guidance: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("scenes", "steps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")


# Examples, the interval, and scene → its own value.
Spread = tuple[int, tuple[float, float] | None, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
      rows: of the table.
      sheet: a contact sheet uint8 (H, W, 3).
      spread: (task, metric) → examples, the bootstrap interval of the value, and each scene's own.
      shown: direction → examples for the report.
    """

    rows: list[Row]
    sheet: np.ndarray
    spread: dict[tuple[str, str], Spread]
    shown: dict[str, list[Shown]]


@dataclasses.dataclass(frozen=True)
class WorldTruth:
    """What an evaluation compares with, rendered once for all weights and numbers of steps.

    Attributes:
      asked: the held-out examples, direction by direction.
      wrong: per example the same with a wrong condition.
      typical: task → averages over training examples.
      detector: of the world's colours.
    """

    asked: list[Example]
    wrong: list[Encoded | None]
    typical: dict[str, Typical]
    detector: ColorDetector

    @property
    def directions(self) -> list[str]:
        return list(dict.fromkeys(example.direction for example in self.asked))


def world_truth(
    experiment: Experiment, wanted: Sequence[str] | None, scenes: int, *, quiet: bool = False
) -> WorldTruth:
    """Renders held-out scenes for the directions that are wanted (None: all that were trained).

    Raises ValueError for a direction that was not trained; lists those that were.
    """
    directions = _directions(experiment, wanted)
    asked: list[Example] = []
    typical: dict[str, Typical] = {}
    task_of = {d.name: t.name for t, d in experiment.tasks.directions()}
    tasks = list(dict.fromkeys(task_of[name] for name in directions))
    bar = functools.partial(tqdm, disable=quiet, dynamic_ncols=True)
    world = _KeptWorld(*world_of(experiment))
    for task in bar(tasks, desc="rendering scenes", unit="task"):
        mine = [name for name in directions if task_of[name] == task]
        asked += _examples(experiment, world, task, mine, scenes)
        training = _bundles(experiment, world, task, 0, TYPICAL_SCENES)
        typical[task] = Typical(training, DEPTH_RANGE["far"])
    wrong = _wrong_given(asked, experiment.tasks)
    return WorldTruth(asked, wrong, typical, _detector(experiment))


def evaluate(
    source: Source,
    settings: Settings,
    *,
    truth: WorldTruth | None = None,
    sampler: Sampler | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Generates every direction on held-out scenes and scores it.

    Args:
      truth: of `world_truth` for the same directions and scenes; None: rendered here.
      sampler: to generate with; None: one of the settings, on the source's devices.
      quiet: no progress bars.

    Raises ValueError for a direction that the source was not trained on; lists those it was.
    """
    experiment = source.experiment
    bar = functools.partial(tqdm, disable=quiet, dynamic_ncols=True)
    truth = truth or world_truth(experiment, settings.tasks, settings.scenes, quiet=quiet)
    asked, wrong = truth.asked, truth.wrong
    task_of = {d.name: t.name for t, d in experiment.tasks.directions()}
    requests = _requests(asked, wrong, settings, experiment.tasks)
    sampler = sampler or Sampler(
        experiment,
        rows=source.rows,
        steps=settings.steps,
        guidance=settings.guidance,
        mesh=source.mesh,
    )
    progress = functools.partial(bar, desc=f"generating {len(requests)} examples", unit="batch")
    generated = sampler(source.params, requests, progress)
    cases = _cases(asked, generated, wrong, experiment)
    rows, spread, shown = [], {}, {}
    for name in bar(truth.directions, desc="scoring", unit="task"):
        mine = [c for c, e in zip(cases, asked, strict=True) if e.direction == name]
        one = functools.partial(
            score,
            name,
            typical=truth.typical[task_of[name]],
            detector=truth.detector,
            tasks=experiment.tasks,
        )
        scored = one(cases=mine)
        rows += scored
        spread |= _spread(name, scored, mine, one)
        shown[name] = [
            _shown(name, i, case, experiment.tasks) for i, case in enumerate(mine[:SHEET_EXAMPLES])
        ]
    return Evaluation(rows, _sheet(asked, cases, experiment), spread, shown)


def _spread(
    name: str, rows: Sequence[Row], cases: Sequence[Case], one: Callable[..., list[Row]]
) -> dict[tuple[str, str], Spread]:
    """Per row how many examples it rests on, and its interval: that of its examples' own values,
    about the value of the set."""
    found: dict[tuple[str, str], Spread] = {}
    values: dict[str, dict[str, float]] = {}
    for scene, case in enumerate(cases):
        try:
            alone = one(cases=[case])
        except ValueError:  # nothing to measure in this one
            continue
        for row in alone:
            if np.isfinite(row.model):
                values.setdefault(row.metric, {})[f"scene {scene}"] = row.model
    for row in rows:
        items = values.get(row.metric, {})
        own = np.array(list(items.values()))
        interval = bootstrap_means(own)
        if interval is not None:
            shift = row.model - own.mean()
            interval = (interval[0] + shift, interval[1] + shift)
        found[name, row.metric] = (len(own) or len(cases), interval, items)
    return found


def _shown(direction: str, index: int, case: Case, tasks: TaskSet) -> Shown:
    """An example for the report."""
    roles = tasks.task(case.bundle.task).roles(len(case.frames))

    def pictures(frames, wanted):
        triples = zip(frames, roles, case.generate, strict=True)
        return tuple(get_role(r).show(f) if r == "ray" else f for f, r, m in triples if m == wanted)

    return Shown(
        direction,
        f"scene {index}",
        case.bundle.prompt,
        pictures(case.frames, False),
        pictures(case.frames, True),
        pictures(case.bundle.frames, True),
        tuple(r for r, m in zip(roles, case.generate, strict=True) if m),
        None,
        "",
        "higher",
        seen_cameras(case.frames, roles, case.generate, case.bundle.truth.get("cameras")),
    )


def _directions(experiment: Experiment, wanted: Sequence[str] | None) -> list[str]:
    trained = {name for name, weight in experiment.config.data.tasks.items() if weight}
    pairs = experiment.tasks.directions()
    available = [d.name for task, d in pairs if task.name in trained]
    if unknown := [name for name in wanted or () if name not in available]:
        raise ValueError(f"tasks {unknown} are not what this model was trained on: {available}")
    if wanted is not None:
        return [name for name in available if name in wanted]
    # Of a task with frames that it does not know, the embedded world has no examples.
    known = {d.name for task, d in pairs if task not in experiment.tasks.own or renders(task)}
    return [name for name in available if name in known]


def world_of(experiment: Experiment) -> tuple[int, str]:
    """Seed and level of the embedded world: the run's own, or the rich one for other data."""
    data = experiment.config.data
    return (data.seed, data.level) if data.name == "world" else (0, "rich")


class _KeptWorld(World):
    """The world, whose scenes are rendered once for all the tasks that show them."""

    def __init__(self, seed: int, level: str):
        super().__init__(seed, level)
        self._scenes: dict[tuple, Scene] = {}
        self._views: dict[tuple, View] = {}
        self._ids: set[int] = set()  # of the kept scenes, which no other object has meanwhile

    def scene(self, index: int, figure: bool | None = None) -> Scene:
        key = (index, figure)
        if key not in self._scenes:
            self._scenes[key] = super().scene(index, figure)
            self._ids.add(id(self._scenes[key]))
        return self._scenes[key]

    def render(self, scene: Scene, height: int, width: int, camera: Any = None) -> View:
        kept = camera is None and id(scene) in self._ids
        if not kept:
            return super().render(scene, height, width, camera)
        key = (id(scene), height, width)
        if key not in self._views:
            self._views[key] = super().render(scene, height, width)
        return self._views[key]


def _bundles(
    experiment: Experiment, world: World, task: str, first: int, count: int
) -> list[Bundle]:
    """Examples of a task from the embedded world, in the sizes the model was trained on."""
    group = experiment.tasks.task(task).group
    source = WorldBundles(
        task,
        experiment.sizes[group],
        tasks=experiment.tasks,
        seed=world.seed,
        level=world.level,
        world=world,
        first=first,
        count=count,
        max_frames=min(slot.frames for slot in experiment.slots(task)),
    )
    return [source[i] for i in range(count)]


def _examples(
    experiment: Experiment, world: World, task: str, directions: Sequence[str], scenes: int
) -> list[Example]:
    bundles = _bundles(experiment, world, task, HELD_OUT, scenes)
    encoded = [encode_bundle(bundle, experiment.codec) for bundle in bundles]
    found = []
    for name in directions:
        for bundle, latents in zip(bundles, encoded, strict=True):
            mask = experiment.tasks.task(task).denoise_mask(name, len(bundle.frames))
            found.append(Example(name, bundle, latents, tuple(map(bool, mask))))
    return found


def _wrong_given(asked: Sequence[Example], tasks: TaskSet) -> list[Encoded | None]:
    """Per example the same with a wrong condition, taken from another of its direction."""
    keys = [(e.direction, *(f.shape for f in e.encoded.frames)) for e in asked]
    found = []
    for example, partner in zip(asked, partners(keys), strict=True):
        other = None if partner is None else asked[partner].encoded
        found.append(
            other and wrong_given(example.direction, example.bundle, example.encoded, other, tasks)
        )
    return found


def _requests(
    asked: Sequence[Example],
    wrong: Sequence[Encoded | None],
    settings: Settings,
    tasks: TaskSet,
) -> list[Request]:
    """The examples, then the wrong ones, which start from the same noise.

    The noise depends on scene and direction, not on what else is evaluated.
    """
    order = [d.name for _, d in tasks.directions()]
    scene: dict[str, int] = dict.fromkeys(order, 0)
    right = []
    for example in asked:
        stream = settings.seed * len(order) + order.index(example.direction)
        right.append(example.request(stream * 2**20 + scene[example.direction]))
        scene[example.direction] += 1
    return right + [
        request_of_example(example.direction, bundle, example.generate, request.seed)
        for example, request, bundle in zip(asked, right, wrong, strict=True)
        if bundle is not None
    ]


def _cases(
    asked: Sequence[Example],
    generated: Sequence[list[np.ndarray]],
    wrong: Sequence[Encoded | None],
    experiment: Experiment,
) -> list[Case]:
    """Everything as pictures; `generated` holds the asked examples, then the wrong ones."""
    rest = iter(generated[len(asked) :])
    cases, codec = [], experiment.codec
    for example, frames, other in zip(asked, generated, wrong, strict=False):
        roles = experiment.tasks.task(example.bundle.task).roles(len(frames))

        def pictures(latents, roles=roles):
            pairs = zip(latents, roles, strict=True)
            return tuple(
                np.asarray(f, np.float32) if role == "ray" else to_uint8(codec.decode(f))
                for f, role in pairs
            )

        cases.append(
            Case(
                example.bundle,
                example.generate,
                pictures(frames),
                None if other is None else pictures(next(rest)),
                pictures(example.encoded.frames),
            )
        )
    return cases


def _detector(experiment: Experiment) -> ColorDetector:
    world = World(*world_of(experiment))
    side = min(128, *(n for sizes in experiment.sizes.values() for size in sizes for n in size))
    scenes = [world.scene(i) for i in range(DETECTOR_SCENES)]
    return ColorDetector((scene, world.render(scene, side, side)) for scene in scenes)


def _sheet(asked: Sequence[Example], cases: Sequence[Case], experiment: Experiment) -> np.ndarray:
    rows, count = [], {}
    for example, case in zip(asked, cases, strict=True):
        count[example.direction] = count.get(example.direction, 0) + 1
        if count[example.direction] <= SHEET_EXAMPLES:
            roles = experiment.tasks.task(example.bundle.task).roles(len(case.frames))
            cells = example_row(example, case.frames, experiment.codec, roles)
            rows.append((example.direction, example.bundle.prompt, cells))
    return draw_sheet(rows)
