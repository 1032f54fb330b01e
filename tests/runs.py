"""Workdirs with a checkpoint, without training."""

import jax
import numpy as np
from ml_collections import ConfigDict

from onediff_jax.experiment.build import make_experiment
from onediff_jax.run.checkpoint import Checkpoints
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.state import new_state
from onediff_jax.run.workdir import Workdir
from tests.experiments import shrunken


def noisy(shapes, seed: int):
    """Parameters of which none is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), shapes)


def save_run(workdir, config: ConfigDict, *, steps=(3, 7)) -> dict:
    """A workdir with checkpoints of these steps; returns {step: (params, ema)}."""
    experiment = make_experiment(config)
    tx, _ = make_optimizer(config.optim, config.train.steps)
    Workdir(workdir, config).release()
    checkpoints, found = Checkpoints(workdir), {}
    for step in steps:
        params, ema = (
            jax.tree.map(jax.numpy.asarray, noisy(jax.eval_shape(experiment.init_params), seed))
            for seed in (step, 100 + step)
        )
        found[step] = (params, ema)
        state = new_state(params, tx)._replace(step=jax.numpy.int32(step), ema=ema)
        checkpoints.save(step, state, {"batches": step})
    checkpoints.close()
    return found


def lora_config(init_from, lora=None, **changes) -> ConfigDict:
    """`shrunken` as a LoRA run from a folder; `lora` are more fields of config.lora."""
    config = shrunken(**changes).unlock()
    config.init_from = str(init_from)
    config.lora = ConfigDict(
        {"rank": 4, "alpha": 8.0, "targets": ("wq", "wv", "w1", "w2"), "frozen_dtype": "float32"}
        | (lora or {})
    )
    return config
