"""Where weights come from: the workdir of a run, or an exported folder."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from onediff_jax.experiment.build import Experiment, make_experiment
from onediff_jax.files import read_object
from onediff_jax.interop.pretrained import RUN_FILE, load_export
from onediff_jax.parallel.mesh import make_mesh
from onediff_jax.sampling.saved_run import SavedRun
from onediff_jax.tasks.depth import Normalisation


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained model, ready to be used.

    Attributes:
      experiment: what its config describes, without the folders of its training data.
      params: nested dict of float32 arrays on the default device.
      step: optimizer steps done; None for an exported folder.
      path: where it came from.
      mesh: of the devices that share the rows; None: the default one has all.
      steps: Euler steps of directions that need another number than the run's previews, as an
        evaluation found (export --evaluation).
    """

    experiment: Experiment
    params: Any
    step: int | None
    path: Path
    steps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    mesh: Mesh | None = None

    @property
    def rows(self) -> int:
        """Rows that are sampled together: log.sample_rows on every device."""
        return self.experiment.config.log.sample_rows * (self.mesh.size if self.mesh else 1)

    def on_all_devices(self) -> "Source":
        """The same with its parameters on each of this process's devices, which share the rows."""
        devices = jax.local_devices()
        if len(devices) == 1:
            return self
        axes = {"replica": len(devices), "fsdp": 1, "tensor": 1, "sequence": 1, "slices": 1}
        mesh = make_mesh(ConfigDict(axes), devices)
        params = jax.device_put(self.params, NamedSharding(mesh, P()))
        return dataclasses.replace(self, params=params, mesh=mesh)

    def steps_of(self, direction: str) -> int:
        """Euler steps of a direction where nobody says another number."""
        return self.steps.get(direction, self.experiment.config.log.sample_steps)


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
    run = SavedRun(path, step, ema=ema, with_data=False)
    leaves = {leaf: run.leaf(leaf) for leaf in traverse_util.flatten_dict(run.shapes)}
    experiment = run.experiment
    if run.adapters is not None:  # merged by now: the plain network is what is left
        config = experiment.config.copy_and_resolve_references().unlock()
        config.lora = None
        experiment = make_experiment(config, with_data=False)
    return Source(experiment, traverse_util.unflatten_dict(leaves), run.step, path)


def _load_export(path: Path, step: int | None) -> Source:
    if step is not None:
        raise ValueError(f"{step=} was asked of {path}, an export, which holds one set of weights")
    config, params = load_export(path)
    record = read_object(path / RUN_FILE)
    experiment = exported_experiment(config, record)
    return Source(experiment, params, None, path, record.get("steps", {}))


def exported_experiment(config: ConfigDict, record: Mapping[str, Any]) -> Experiment:
    """What an export's config describes, with the sizes and depth range that its record tells: the
    folders that it was trained on may be elsewhere."""
    experiment = make_experiment(config, with_data=False)
    pictures = record.get("pictures")  # not in older exports
    if pictures is None:
        return experiment
    sizes = {g: tuple(map(tuple, found)) for g, found in pictures["sizes"].items()}
    depth = pictures["depth"] and Normalisation(**pictures["depth"])
    return dataclasses.replace(experiment, sizes=sizes, depth=depth)
