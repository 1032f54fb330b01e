"""The shipped config, shrunken until a step takes milliseconds."""

import functools
import itertools
import runpy
from pathlib import Path

import jax
from ml_collections import ConfigDict

from onediff_jax.experiment.build import Experiment, make_experiment

CONFIGS = Path(__file__).parents[1] / "configs"
TASKS = ("text2image", "depth2image", "image_inpainting", "faceid", "multiview")
# Two shapes of slots, hence two attention programs to compile; shorter bundles leave padding.
ROWS = (("t2i", 1, 2, 4), ("i2i", 2, 2, 4), ("identity", 1, 4, 4), ("multiview", 1, 4, 4))
# Of the command line and of a config alike.
SHRUNKEN = {
    "model.hidden_size": 48,
    "model.depth": 2,
    "model.num_kv_heads": 2,
    "model.multiple_of": 16,
    "model.caption_channels": 16,
    "model.unroll": 1,
    "text.max_length": 16,
    "rows": ROWS,
    "data.scenes": 64,
    "train.steps": 8,
    "train.batch_rows": 2,
    "train.products": "dtype",  # the same numbers on every CPU, however its work is split
    "optim.name": "adamw",  # compiles in a fraction of muon's time
    "optim.learning_rate": 2e-3,
    "optim.warmup_steps": 2,
    "checkpoint.every_steps": 3,
    "log.every_steps": 1,
    "log.held_out_at": (),
    "log.held_out_batches": 1,
    "log.sample_every": 0,
}


def get_config(preset: str = "tiny", file: str = "t2i_multitask.py") -> ConfigDict:
    """A shipped config, as the command line reads it."""
    return runpy.run_path(str(CONFIGS / file))["get_config"](preset)


def shrunken(**changes) -> ConfigDict:
    """The tiny preset with SHRUNKEN and then `changes` (dots as __), and TASKS only."""
    config = get_config()
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    tasks = {f"data.tasks.{name}": float(name in TASKS) for name in config.data.tasks}
    config.update_from_flattened_dict(tasks | SHRUNKEN | changes)
    return config


@functools.cache
def experiment() -> Experiment:
    """The experiment of `shrunken()`, shared by tests that do not change it."""
    return make_experiment(shrunken())


@functools.cache
def random_params(seed: int = 0) -> dict:
    """Parameters of `experiment()` of which none is zero, so that every term shows."""
    params = jax.jit(experiment().init_params)()
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, noisy)


@functools.cache
def batches(count: int = 1) -> tuple[dict, ...]:
    """The first training batches of `experiment()`."""
    stream = experiment().batches()
    found = tuple(itertools.islice(stream, count))
    stream.close()
    return found
