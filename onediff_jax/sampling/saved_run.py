"""The weights of a run's checkpoint, read as they are asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from onediff_jax.experiment.build import Experiment, make_experiment
from onediff_jax.interop.model import param_shapes as model_shapes
from onediff_jax.interop.pretrained import checked_transformer
from onediff_jax.interop.weights import open_weights
from onediff_jax.models.lora import merged
from onediff_jax.run.checkpoint import SavedState
from onediff_jax.run.workdir import load_config

_GROUP_BYTES = 2**29  # arrays read together: a read costs a quarter of a second, however small
_LeafPath = tuple[str, ...]


class SavedRun:
    """One checkpoint of a workdir, which may be in use. Nothing of the optimizer is read.

    Args:
      workdir: of the run.
      step: of the checkpoint; None for the newest.
      ema: the moving average rather than the raw weights.
      with_data: as in `make_experiment`.

    Attributes:
      experiment, step: what it is.
      shapes: nested dict of the network's own parameters (without adapters).
      adapters: nested dict of the trained adapters of a LoRA run; None for others.
      base: path → a parameter of the weights that they are for; None for others.

    Raises ValueError (WorkdirError, CheckpointError, PretrainedError) for what cannot be read.
    """

    def __init__(
        self,
        workdir: str | Path,
        step: int | None = None,
        *,
        ema: bool = True,
        with_data: bool = True,
    ):
        config = load_config(workdir)
        self.experiment: Experiment = make_experiment(config, with_data=with_data)
        self._saved, self._tree = SavedState(workdir, step), "ema" if ema else "params"
        self.step = self._saved.step
        self._trained: dict[_LeafPath, Any] = traverse_util.flatten_dict(self.experiment.shapes)
        self._group: dict[_LeafPath, jax.Array] = {}
        self.adapters: dict[str, Any] | None = None
        self.base: Callable[[_LeafPath], Any] | None = None
        self.shapes = traverse_util.unflatten_dict(self._trained)
        if self.experiment.lora:
            self.adapters = traverse_util.unflatten_dict(self._read(list(self._trained)))
            self.shapes = model_shapes(self.experiment.model_config)
            folder = checked_transformer(self.experiment.config.init_from)
            self.base = open_weights(folder, self.shapes)

    def leaf(self, path: tuple[str, ...]) -> jax.Array:
        """One of the network's own parameters (of all layers), its adapter merged into it.

        Asked for in the order of `shapes`, they are read in small groups, and one is held.
        """
        if self.adapters is None or self.base is None or self.experiment.lora is None:
            if path not in self._group:
                self._group = {}
                self._group = self._read(self._next(path))
            return self._group.pop(path)
        adapters: dict[_LeafPath, Any] = traverse_util.flatten_dict(self.adapters)
        kernel, a = self.base(path), adapters.get((*path[:-1], "lora_a"))
        if path[-1] != "kernel" or a is None:
            return kernel
        b, m = adapters[(*path[:-1], "lora_b")], adapters.get((*path[:-1], "lora_m"))
        return merged(kernel, a, b, self.experiment.lora.scale_of(path), m)

    def _next(self, path: _LeafPath) -> list[_LeafPath]:
        """This path and those after it, as long as they are small together."""
        paths = list(self._trained)
        group, size = [], 0
        for name in paths[paths.index(path) :]:
            size += self._trained[name].size * self._trained[name].dtype.itemsize
            if group and size > _GROUP_BYTES:
                break
            group.append(name)
        return group

    def _read(self, paths: list[_LeafPath]) -> dict[_LeafPath, jax.Array]:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = {
            path: jax.ShapeDtypeStruct(
                self._trained[path].shape, self._trained[path].dtype, sharding=here
            )
            for path in paths
        }
        part = {self._tree: traverse_util.unflatten_dict(wanted)}
        found: dict[_LeafPath, Any] = traverse_util.flatten_dict(self._saved.read(part)[self._tree])
        return found
