"""The training loop: one straight line from a config to a trained workdir."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from onediff_jax.checkpoint import CheckpointError, Checkpoints
from onediff_jax.data.pipeline import stream_hash
from onediff_jax.evaluation.preview import Preview
from onediff_jax.experiment import Experiment, make_experiment, param_count, param_shapes
from onediff_jax.interop.pretrained import load_params
from onediff_jax.metrics import (
    Clock,
    Reporter,
    add_sums,
    memory_peak_gib,
    task_means,
    time_left,
)
from onediff_jax.models.lora import join
from onediff_jax.optim import make_optimizer
from onediff_jax.parallel.memory import check_memory
from onediff_jax.parallel.mesh import batch_devices, batch_sharding, make_mesh
from onediff_jax.parallel.sharding import state_shardings
from onediff_jax.state import TrainState, new_state
from onediff_jax.train_step import make_eval_step, make_train_step
from onediff_jax.workdir import Workdir, differences


class NotFiniteError(RuntimeError):
    """Too many steps in a row had a gradient that is not finite."""


def train(config: ConfigDict, workdir: str | Path) -> TrainState:
    """Trains until `train.steps`, from the newest checkpoint of the workdir if there is one.

    SIGTERM saves a checkpoint and returns. Raises ValueError (and its subclasses CheckpointError,
    WorkdirError) before anything is compiled or written when something does not fit.
    """
    with contextlib.ExitStack() as opened:
        return _Run(config, workdir, opened).loop()


class _Run:
    """What the loop holds: parts made once, and the state that changes.

    `opened` releases what was opened, also when the start itself fails.
    """

    def __init__(self, config: ConfigDict, workdir: str | Path, opened: contextlib.ExitStack):
        self.config = config
        self.experiment: Experiment = make_experiment(config)
        self.mesh = make_mesh(config.mesh)
        devices = batch_devices(self.mesh)
        if config.train.batch_rows % devices:
            raise ValueError(
                f"train.batch_rows={config.train.batch_rows} must be a multiple of the {devices} "
                "devices that share a batch (mesh.replica × mesh.fsdp)"
            )
        self.tx, schedule = make_optimizer(config.optim, config.train.steps)
        shapes = param_shapes(self.experiment)
        check_memory(self.experiment, param_count(shapes), self.mesh)
        self.workdir = Workdir(workdir, config)
        opened.callback(self.workdir.release)
        self.checkpoints = Checkpoints(
            self.workdir.path,
            keep_last=config.checkpoint.keep_last,
            keep_every=config.checkpoint.keep_every,
        )
        opened.callback(self.checkpoints.close)
        self.is_writer = jax.process_index() == 0
        self.reporter = Reporter(self.workdir.path, is_writer=self.is_writer)
        opened.callback(self.reporter.close)
        self.reporter.say(f"workdir {self.workdir.path}")
        self.fields = self.experiment.stream_fields()

        def init() -> TrainState:
            return new_state(self.experiment.init_params(), self.tx)

        abstract = jax.eval_shape(init)
        self.shardings = state_shardings(abstract, self.mesh)
        rows = batch_sharding(self.mesh)
        self.frozen, frozen_shardings = self._load_frozen()
        if self.experiment.online_text:
            self.experiment.online_text.place(self.mesh)
        step = make_train_step(self.experiment, self.tx, schedule)
        self.step = jax.jit(
            step,
            in_shardings=(self.shardings, rows, frozen_shardings),
            out_shardings=(self.shardings, None),
            donate_argnums=0,
        )
        evaluate = make_eval_step(self.experiment)
        used = join(self.shardings.params, frozen_shardings)
        self.evaluate = jax.jit(evaluate, in_shardings=(used, rows, None))
        self.batches = self.experiment.batches(
            process_index=jax.process_index(), process_count=jax.process_count()
        )
        opened.callback(self.batches.close)
        self.state = self._restore(abstract) or self._start(init, abstract)
        self.held_out = self._held_out_batches()
        self.preview = Preview(self.experiment) if config.log.sample_every else None
        self.stopping = False
        self.clock = Clock()

    def _restore(self, abstract: TrainState) -> TrainState | None:
        if not self.checkpoints.steps():
            overview = parameter_overview.get_parameter_overview(
                abstract.params, include_stats=False, max_lines=80
            )
            self.reporter.text(0, "parameters", f"```\n{overview}\n```")
            count = param_count(abstract.params)
            self.reporter.say(f"{count:,} parameters; starting at step 0")
            return None
        wanted = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
            abstract,
            self.shardings,
        )
        step, state, data = self.checkpoints.restore(wanted)
        if data["stream_hash"] != stream_hash(self.fields):
            named = [
                f"{name}: {old!r} in the checkpoint, {new!r} now"
                for name, old, new in differences(data["stream"], self.fields)
            ]
            raise CheckpointError(
                f"checkpoint {step} was trained on another data stream:\n  " + "\n  ".join(named)
            )
        self.batches.seek(data["batches"])
        self.reporter.say(f"continuing from the checkpoint of step {step}")
        return state

    def _start(self, init: Callable[[], TrainState], abstract: TrainState) -> TrainState:
        """The state of step 0: initial values, or those of init_from."""
        folder = self.config.get("init_from")
        if not folder or self.experiment.lora:
            return jax.jit(init, out_shardings=self.shardings)()
        params = load_params(
            folder, self.experiment.model_config, abstract.params, self.shardings.params
        )
        self.reporter.say(f"weights and EMA start from {folder}")
        return jax.jit(lambda p: new_state(p, self.tx), out_shardings=self.shardings)(params)

    def _load_frozen(self) -> tuple[Any, Any]:
        """Weights that are used and not trained, and their shardings; None where all are."""
        shapes, folder = self.experiment.frozen_shapes, self.config.get("init_from")
        if shapes is None:
            return None, None
        shardings = state_shardings(shapes, self.mesh)
        params = load_params(folder, self.experiment.model_config, shapes, shardings)
        self.reporter.say(f"adapters of {self.experiment.lora} on the frozen weights of {folder}")
        return params, shardings

    def _held_out_batches(self) -> list[dict[str, jax.Array]]:
        stream = self.experiment.batches(
            held_out=True,
            batch_size=self.config.train.batch_rows,
            threads=1,
            prefetch=1,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        found = [self.to_devices(next(stream)) for _ in range(self.config.log.held_out_batches)]
        stream.close()
        return found

    def to_devices(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows as part of the global batch."""
        sharding = batch_sharding(self.mesh)
        rows = {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
        online = self.experiment.online_text
        return online.embed(rows) if online else rows

    def save(self, step: int) -> None:
        """Starts a checkpoint of everything the run needs to go on."""
        began = time.perf_counter()
        data = {
            "batches": self.batches.batches,
            "stream_hash": stream_hash(self.fields),
            "stream": self.fields,
        }
        self.checkpoints.save(step, self.state, data)
        self.clock.pause(time.perf_counter() - began)

    def loop(self) -> TrainState:
        """Save, next batch, step, log, evaluate; until the last step or SIGTERM."""
        config = self.config
        previous = signal.signal(signal.SIGTERM, self._stop)
        first = step = int(self.state.step)
        saved_at, last_save = time.monotonic(), step
        total, running, metrics = config.train.steps, None, None
        if step == first:
            self._observe(step)
        try:
            while step < total and not self.stopping:
                minutes = (time.monotonic() - saved_at) / 60
                due = step % config.checkpoint.every_steps == 0
                if step > last_save and (due or minutes >= config.checkpoint.every_minutes):
                    self.save(step)
                    saved_at, last_save = time.monotonic(), step
                began = time.perf_counter()
                batch = next(self.batches)
                if step > first:
                    self.clock.wait(time.perf_counter() - began)
                if metrics is not None:  # at most one step in flight: memory stays flat
                    jax.block_until_ready(metrics["loss"])
                    running = add_sums(running, jax.device_get(metrics))
                self.state, metrics = self.step(self.state, self.to_devices(batch), self.frozen)
                step += 1
                self.clock.tick()
                if step == first + 1:
                    jax.block_until_ready(metrics["loss"])
                    self.clock = Clock()  # compilation is not part of the rate
                if step % config.log.every_steps == 0 or step == total:
                    running = add_sums(running, jax.device_get(metrics))
                    self._log(step, running, metrics)
                    running, metrics = None, None
                self._observe(step)
            self.save(step)
            self.checkpoints.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
        done = "finished" if step == total else "stopped by SIGTERM, checkpoint saved"
        peak = memory_peak_gib()
        self.reporter.say(f"{done} at step {step}; peak memory {peak:.2f} GiB; {self.workdir.path}")
        return self.state

    def _stop(self, signum: int, frame: Any) -> None:
        self.stopping = True

    def _log(self, step: int, sums: dict[str, np.ndarray], last: dict[str, Any]) -> None:
        rates = self.clock.report()  # empty where the only step so far was compiled
        tokens = max(sums["task_tokens"].sum(), 1.0)
        values = {
            "loss": float(sums["task_loss"].sum() / tokens),
            **task_means(sums),
            "padding": float(1 - sums["valid_tokens"] / sums["all_tokens"]),
            **{k: float(last[k]) for k in ("grad_norm", "learning_rate", "ema_decay", "skipped")},
            **rates,
        }
        self.reporter.scalars(step, values)
        total = self.config.train.steps
        speed = ""
        if rates:
            rate = rates["steps_per_second"]
            left = time_left(total - step, rate)
            speed = f"{rate:.2f} steps/s  left {left}  wait {rates['data_wait']:.1%}  "
        per_task = " ".join(
            f"{k.removeprefix('loss/')} {v:.3f}" for k, v in values.items() if k[:5] == "loss/"
        )
        self.reporter.say(f"step {step}/{total}  {speed}loss {values['loss']:.4f}  | {per_task}")
        in_a_row = int(last["skipped_in_a_row"])
        if in_a_row >= self.config.train.max_skipped:
            raise NotFiniteError(
                f"{in_a_row} steps in a row had a gradient that is not finite, up to step {step}; "
                f"the last checkpoints are {self.checkpoints.steps()}. "
                "Lower optim.learning_rate or look at the data."
            )

    def _observe(self, step: int) -> None:
        """Held-out loss and sample grids, when due."""
        log, total = self.config.log, self.config.train.steps
        began = time.perf_counter()
        if step in log.held_out_at or step == total or (step and step % log.held_out_every == 0):
            key = jax.random.key(self.config.seed + 1)
            sums, params = None, join(self.state.ema, self.frozen)
            for number, batch in enumerate(self.held_out):
                found = self.evaluate(params, batch, jax.random.fold_in(key, number))
                sums = add_sums(sums, jax.device_get(found))
            values = task_means(sums, "held_out")
            values["held_out"] = float(sums["task_loss"].sum() / sums["task_tokens"].sum())
            self.reporter.scalars(step, values)
            self.reporter.say(f"step {step}/{total}  held-out loss {values['held_out']:.4f}")
        if self.preview and step and (step % log.sample_every == 0 or step == total):
            self.reporter.image(step, "samples", self.preview(join(self.state.ema, self.frozen)))
        self.clock.pause(time.perf_counter() - began)
