"""The loss on held-out bundles while a run trains: as it trains, and per noise level."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from onediff_jax.data.layout import RowLayout
from onediff_jax.experiment.build import Experiment
from onediff_jax.parallel.mesh import row_shardings
from onediff_jax.parallel.program import Program
from onediff_jax.parallel.sharding import on_mesh
from onediff_jax.run.metrics import add_sums, task_means
from onediff_jax.run.train_step import make_eval_step

LEVELS = tuple((place + 0.5) / 8 for place in range(8))  # σ, the middles of eight equal parts
_LEVELS = np.array(LEVELS, np.float32)


class HeldOutLoss:
    """Losses of fixed batches with fixed noise; call it with parameters.

    The loss per task has σ drawn as in training. Beside it stands the loss per task and noise
    level: its σ are `LEVELS`, dealt out to the frames of every task by turns (stratified), and its
    noise depends on no setting, so that the numbers of two runs on the same examples compare.

    Args:
      experiment: of the run.
      mesh: where the parameters lie.
      shardings: of all parameters, in the order of `join`.
      batches: of held-out examples, on the devices.
    """

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        shardings: Any,
        batches: Sequence[dict[str, jax.Array]],
    ):
        self._experiment, self._batches = experiment, batches
        whole = NamedSharding(mesh, jax.P())
        step = jax.jit(
            on_mesh(make_eval_step(experiment), mesh),
            in_shardings=(
                shardings,
                row_shardings(mesh, weighted=experiment.packer.weighted),
                None,
                whole,
            ),
            out_shardings=whole,
        )
        self._step = Program(step, "the held-out loss")
        self._tasks = [_everywhere(batch["task"], whole) for batch in batches]
        self._dealt = deal_levels(self._tasks, experiment.layout)
        data = experiment.config.data
        self.on_training_examples = data.name == "prepared" and data.evaluate_on == "train"

    @property
    def name(self) -> str:
        """What the metrics call the loss: held_out, or training_examples where none is spared."""
        return "training_examples" if self.on_training_examples else "held_out"

    def __call__(self, params: Any) -> dict[str, float]:
        """NAME, NAME/TASK, NAME_by_noise/σ and NAME_by_noise/TASK/σ; means over tokens."""
        names, seed = self._experiment.tasks.names, self._experiment.config.seed
        drawn = [np.full_like(levels, np.nan) for levels in self._dealt]
        sums: dict[str, np.ndarray] | None = None
        for found in self._found(params, jax.random.key(seed + 1), drawn):
            sums = add_sums(sums, found)
        assert sums is not None  # log.held_out_batches is positive
        values = task_means(sums, self.name, names)
        values[self.name] = float(sums["task_loss"].sum() / sums["task_tokens"].sum())
        found = self._found(params, jax.random.key(0), self._dealt)
        by_noise = level_means(found, self._dealt, self._tasks, self._experiment.layout, names)
        return values | {f"{self.name}_by_noise/{key}": v for key, v in by_noise.items()}

    def _found(self, params: Any, key: jax.Array, levels: Sequence[np.ndarray]) -> list[dict]:
        found = []
        for number, (batch, sigma) in enumerate(zip(self._batches, levels, strict=True)):
            sums = self._step(params, batch, jax.random.fold_in(key, number), sigma)
            found.append(jax.device_get(sums))
        return found


def _everywhere(array: jax.Array, whole: NamedSharding) -> np.ndarray:
    """The whole of an array that processes hold parts of."""
    if not array.is_fully_addressable:
        array = jax.jit(lambda a: a, out_shardings=whole)(array)
    return np.asarray(array)


def deal_levels(tasks: Sequence[np.ndarray], layout: RowLayout) -> list[np.ndarray]:
    """σ of every frame, (rows, frames) float32 per batch; `tasks` are (rows, slots) numbers.

    The first frame of a task's nth bundle has level n mod 8. The others of the bundle are shifted
    by an amount that changes every eight bundles, so that all levels meet all others.
    """
    count: dict[int, int] = {}
    dealt = []
    place = np.array([f - _first(layout, s) for f, s in enumerate(layout.frame_slot)])
    for of_slot in tasks:
        bundle = np.zeros(of_slot.shape, int)
        for row, slot in np.ndindex(of_slot.shape):
            task = int(of_slot[row, slot])
            bundle[row, slot] = count.get(task, 0)
            count[task] = count.get(task, 0) + 1
        number = bundle[:, layout.frame_slot]
        level = (number + place * (3 + 2 * (number // len(LEVELS)))) % len(LEVELS)
        dealt.append(_LEVELS[level])
    return dealt


def _first(layout: RowLayout, slot: int) -> int:
    """The number of a slot's first frame."""
    return int(np.argmax(np.asarray(layout.frame_slot) == slot))


def level_means(
    found: Sequence[dict[str, np.ndarray]],
    levels: Sequence[np.ndarray],
    tasks: Sequence[np.ndarray],
    layout: RowLayout,
    names: Sequence[str],
) -> dict[str, float]:
    """Mean loss per "σ" over all tasks, and per "TASK/σ"; where no token had it there is none."""
    loss = np.zeros((len(names), len(LEVELS)))
    tokens = np.zeros_like(loss)
    for sums, sigma, of_slot in zip(found, levels, tasks, strict=True):
        where = of_slot[:, layout.frame_slot], np.searchsorted(_LEVELS, sigma)
        np.add.at(loss, where, np.asarray(sums["frame_loss"], np.float64))
        np.add.at(tokens, where, np.asarray(sums["frame_tokens"], np.float64))
    means = {}
    for place, sigma in enumerate(LEVELS):
        if tokens[:, place].any():
            means[f"{sigma:.4f}"] = float(loss[:, place].sum() / tokens[:, place].sum())
    for task, place in zip(*np.nonzero(tokens), strict=True):
        key = f"{names[task]}/{LEVELS[place]:.4f}"
        means[key] = float(loss[task, place] / tokens[task, place])
    return means
