"""Where weights come from: the workdir of a run, or an exported folder."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from onediff_jax.checkpoint import CHECKPOINTS, CheckpointError, Checkpoints
from onediff_jax.experiment import Experiment, make_experiment
from onediff_jax.interop.pretrained import load_export, load_params
from onediff_jax.models.lora import join
from onediff_jax.optim import make_optimizer
from onediff_jax.state import new_state
from onediff_jax.workdir import load_config


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained model, ready to be used.

    Attributes:
      experiment: what its config describes, without the folders of its training data.
      params: nested dict of float32 arrays on the default device.
      step: optimizer steps done; None for an exported folder.
      path: where it came from.
    """

    experiment: Experiment
    params: Any
    step: int | None
    path: Path


def load_source(path: str | Path, *, ema: bool = True, step: int | None = None) -> Source:
    """Restores the weights of a workdir or an exported folder.

    Args:
      path: folder with config.json and checkpoints, or with model_index.json.
      ema: the moving average rather than the raw weights; an export holds one of them.
      step: of the checkpoint; None for the newest.

    Raises ValueError (WorkdirError, CheckpointError) when the folder is neither, or holds no such
    checkpoint, or one that does not fit its config.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"source {path} is no folder")
    if (path / "model_index.json").exists():
        return _load_export(path, step)
    experiment = make_experiment(load_config(path), with_data=False)
    if not (path / CHECKPOINTS).is_dir():
        raise CheckpointError(f"source {path} holds no checkpoints yet")
    tx, _ = make_optimizer(experiment.config.optim, experiment.config.train.steps)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        jax.eval_shape(lambda: new_state(experiment.init_params(), tx)),
    )
    checkpoints = Checkpoints(path)
    try:
        found, state, _ = checkpoints.restore(abstract, step)
    finally:
        checkpoints.close()
    return Source(
        experiment, _complete(experiment, state.ema if ema else state.params), found, path
    )


def _complete(experiment: Experiment, trained: Any) -> Any:
    """All parameters: a run of adapters keeps the frozen ones where it started from."""
    if experiment.frozen_shapes is None:
        return trained
    folder = experiment.config.init_from
    return join(trained, load_params(folder, experiment.model_config, experiment.frozen_shapes))


def _load_export(path: Path, step: int | None) -> Source:
    if step is not None:
        raise ValueError(f"{step=} was asked of {path}, an export, which holds one set of weights")
    config, params = load_export(path)
    return Source(make_experiment(config, with_data=False), params, None, path)
