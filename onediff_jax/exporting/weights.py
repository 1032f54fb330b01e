"""Where an export's transformer comes from: a checkpoint or a folder, with adapters added."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from onediff_jax.data.prepared.plan import weights_hash
from onediff_jax.experiment.build import Experiment, param_count
from onediff_jax.exporting.place import ExportError
from onediff_jax.files import read_object
from onediff_jax.interop.config import PretrainedError, read_config, transformer_folder
from onediff_jax.interop.lora import read_adapter
from onediff_jax.interop.model import param_shapes
from onediff_jax.interop.pretrained import RUN_FILE, check_hashes, export_config, find_folder
from onediff_jax.interop.weights import open_weights
from onediff_jax.models.nextdit import NextDiTConfig
from onediff_jax.sampling.saved_run import SavedRun
from onediff_jax.sampling.source import exported_experiment


@dataclasses.dataclass
class Weights:
    """A transformer to export.

    Attributes:
      network, shapes, leaf: its shape, its parameters' shapes, and what reads one by its path.
      experiment: of the run; None for a folder that no run of ours wrote.
      run: the checkpoint; None for a folder.
      released: fields of the config.json of a folder.
      record: what a folder of ours says of its run.
      base: hash of the weights that adapters are for; "" where it is not known.
      says: one line.
    """

    network: NextDiTConfig
    shapes: dict[str, Any]
    leaf: Callable[[tuple[str, ...]], Any]
    says: str
    experiment: Experiment | None = None
    run: SavedRun | None = None
    released: dict[str, Any] = dataclasses.field(default_factory=dict)
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    base: str = ""

    def add_adapters(self, wanted: list[str]) -> list[dict[str, Any]]:
        """Adds adapters, FILE or FILE:WEIGHT each; returns what the record says of them.

        Raises ValueError (ExportError, PretrainedError) for what cannot be read, does not fit, or
        was trained on other weights.
        """
        added = []
        for name, weight in map(parse_adapter, wanted):
            adapter = read_adapter(name, self.shapes)
            try:
                adapter.check_base(self.base)
            except PretrainedError as error:
                raise ExportError(str(error)) from error
            added.append((adapter, weight))
        plain = self.leaf

        def leaf(path):
            kernel = base = plain(path)
            for adapter, weight in added:
                kernel = adapter.add_to(path, kernel, weight, base)
            return jnp.asarray(kernel)

        if added:
            self.leaf = leaf
        return [{"file": adapter.file.name, "weight": weight} for adapter, weight in added]


def open_source(source: Path, *, step: int | None, ema: bool, with_data: bool) -> Weights:
    """The weights of a workdir, or of a folder of the released layout.

    Raises ValueErrors of what it reads.
    """
    if (source / "model_index.json").is_file():
        if step is not None:
            raise ExportError(f"{step=} was asked of {source}, a folder with one set of weights")
        return _of_folder(source)
    run = SavedRun(source, step, ema=ema, with_data=with_data)
    experiment, base = run.experiment, ""
    if experiment.lora:
        base = weights_hash(transformer_folder(find_folder(experiment.config.init_from)))
    says = f"{source}: step {run.step:,}, {'EMA' if ema else 'raw'} weights"
    says = f"{says}, {param_count(run.shapes):,} parameters"
    network = experiment.model_config
    return Weights(network, run.shapes, run.leaf, says, experiment, run, base=base)


def parse_adapter(text: str) -> tuple[str, float]:
    """FILE or FILE:WEIGHT; the weight is 1 where it is not given.

    Raises ValueError for a weight that is not finite.
    """
    name, colon, number = text.rpartition(":")
    try:
        weight = float(number) if colon else 1.0
    except ValueError:
        return text, 1.0
    if not np.isfinite(weight):
        raise ValueError(f"adapter={text!r}: the weight must be a finite number")
    return (name, weight) if colon else (text, 1.0)


def _of_folder(folder: Path) -> Weights:
    check_hashes(folder)
    inside = transformer_folder(folder)
    network, released = read_config(inside)
    shapes = param_shapes(network)
    weights = Weights(
        network,
        shapes,
        open_weights(inside, shapes),
        f"{folder}: {param_count(shapes):,} parameters",
        released=released,
        base=weights_hash(inside),
    )
    if (folder / RUN_FILE).is_file():
        weights.record = read_object(folder / RUN_FILE)
        weights.experiment = exported_experiment(export_config(folder), weights.record)
    return weights
