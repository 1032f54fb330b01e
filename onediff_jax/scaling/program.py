"""The train step of a config, lowered for given devices from shapes alone."""

import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.rows import Placed
from onediff_jax.experiment.build import DTYPES, Experiment, make_experiment
from onediff_jax.models.attention.dispatch import choose
from onediff_jax.parallel.mesh import check_batch, make_mesh
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.state import new_state
from onediff_jax.run.train_step import sharded_train_step
from onediff_jax.tasks.definitions import TASKS


@dataclasses.dataclass(frozen=True)
class Program:
    """A train step that is not compiled yet.

    Attributes:
      experiment: of the config, without data.
      mesh: of the devices it is for.
      state, batch: shapes of what the step takes.
      lowered: of jax.jit, as training runs it: state donated, shardings given.
    """

    experiment: Experiment
    mesh: jax.sharding.Mesh
    state: Any
    batch: Any
    lowered: jax.stages.Lowered


def shapes_only(config: ConfigDict) -> ConfigDict:
    """A copy that needs no data: neither encoders nor which tasks are drawn change a shape."""
    config = config.copy_and_resolve_references().unlock()
    config.text.kind = "hashed"
    config.data.tasks = dict.fromkeys(config.data.tasks, 0.0)
    if "encoder" in config.data:
        config.data.encoder = "light"
    if config.train.products == "auto":  # the processor here says nothing of devices elsewhere
        config.train.products = "dtype"
    return config.lock()


def lower_train_step(config: ConfigDict, devices: list) -> Program:
    """Traces and lowers the step of `config` for `devices`; nothing is allocated.

    Raises ValueError as training would: for the config, the mesh, or a batch that cannot be split.
    """
    experiment = make_experiment(shapes_only(config), with_data=False)
    mesh = make_mesh(config.mesh, devices)
    check_batch(mesh, config.train.batch_rows, experiment.layout.chunks)
    tx, schedule = make_optimizer(config.optim, config.train.steps)
    state = jax.eval_shape(lambda params: new_state(params, tx), experiment.shapes)
    batch = batch_shapes(experiment)
    step, _, _ = sharded_train_step(experiment, tx, schedule, mesh)
    limits = [jax.ShapeDtypeStruct((len(experiment.tasks.names),), np.float32)]
    limits = limits if config.train.on_spike == "skip" else []
    lowered = step.lower(state, batch, experiment.frozen_shapes, *limits)
    return Program(experiment, mesh, state, batch, lowered)


def batch_shapes(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch: those of one row as the packer makes it."""
    config, patch = experiment.config, experiment.model_config.patch_size
    frame = np.zeros((patch, patch, experiment.model_config.in_channels), np.float32)
    bundle = Encoded(task=next(iter(TASKS)), frames=(frame,), prompt="")
    first = Placed(bundle, generate=(True,), clean=False, prompt="")
    row = experiment.packer([first] + [None] * (len(experiment.layout.slots) - 1))
    rows = config.train.batch_rows * config.train.accumulate
    return {k: jax.ShapeDtypeStruct((rows, *v.shape), v.dtype) for k, v in row.items()}


def attention_choices(experiment: Experiment, platform: str) -> dict[str, str]:
    """Which implementation each attention of a row uses: "1024 × 1024" → "splash"."""
    config = experiment.config
    wanted = config.model.attention
    dtype, cap = DTYPES[config.model.dtype], config.model.attention_softcap
    found = {}
    for run in experiment.layout.runs:
        for keys, softcap in ((run.tokens, cap), (config.text.max_length, None)):
            chosen = wanted
            if wanted == "auto":
                chosen = choose(run.tokens, keys, dtype, softcap=softcap, platform=platform)
            found[f"{run.tokens} × {keys}"] = chosen
    return found
