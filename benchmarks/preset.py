"""A preset of the main experiment as its training loop runs it: config, train step, one batch."""

import json
import runpy
import statistics
from pathlib import Path

import jax
from ml_collections import ConfigDict

from onediff_jax.data.bundle import Bundle
from onediff_jax.experiment.build import make_experiment
from onediff_jax.parallel.xla_flags import compiler_options
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.state import new_state
from onediff_jax.run.train_step import make_train_step
from onediff_jax.tasks.definitions import get_task

CONFIG = Path(__file__).parents[1] / "configs" / "t2i_multitask.py"
PRESETS = ("tiny", "base", "2b8")
# For --smoke: everything runs, nothing takes long, no number means anything.
_SMALL = {
    "model.hidden_size": 48,
    "model.depth": 2,
    "model.multiple_of": 16,
    "model.caption_channels": 16,
    "text.max_length": 16,
    "rows": (("i2i", 1, 2, 4),),
    "data.scenes": 16,
    "train.batch_rows": 1,
}


def load(preset: str, *, smoke: bool = False, **changes: object) -> ConfigDict:
    """The preset's config with changes (`__` for dots); `smoke` shrinks it."""
    config = runpy.run_path(str(CONFIG))["get_config"](preset)
    wanted = {name.replace("__", "."): value for name, value in changes.items()}
    if smoke:
        tasks = {f"data.tasks.{name}": float(name == "depth2image") for name in config.data.tasks}
        wanted = _SMALL | tasks | wanted
    config.update_from_flattened_dict(wanted)
    return config


def step_seconds(workdir: Path) -> float:
    """Seconds per step of a finished run, the median of its reports after the first."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return statistics.median([line["step_seconds"] for line in lines if "step_seconds" in line][1:])


class Training:
    """The train step of a config on one device, with its state; attributes experiment, step, state.

    The state is donated, as in training, and may be handed from one Training to another whose
    parameters have the same shapes.
    """

    def __init__(self, config: ConfigDict):
        self.experiment = make_experiment(config)
        self.tx, schedule = make_optimizer(config.optim, config.train.steps)
        self.step = jax.jit(
            make_train_step(self.experiment, self.tx, schedule),
            donate_argnums=0,
            compiler_options=compiler_options(jax.default_backend()),
        )

    def first_state(self):
        """The state before the first step."""
        return jax.jit(lambda: new_state(self.experiment.init_params(), self.tx))()

    def batch(self):
        """The first batch, on the device."""
        stream = self.experiment.batches(prefetch=1)
        found = jax.device_put(next(stream))
        stream.close()
        return found

    def bundles(self) -> list[Bundle]:
        """One per slot of a row, the tasks of a group by turns."""
        names = [name for name, weight in self.experiment.config.data.tasks.items() if weight]
        found = []
        for number, slot in enumerate(self.experiment.layout.slots):
            fitting = [name for name in names if get_task(name).group == slot.group]
            found.append(self.experiment.bundles(fitting[number % len(fitting)])[number])
        return found
