"""The training loop: one straight line from a config to a trained workdir."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from onediff_jax.data.pipeline import BatchIterator, stream_hash
from onediff_jax.experiment.build import Experiment, make_experiment, param_count
from onediff_jax.experiment.checks import upgrade_stream
from onediff_jax.experiment.own_tasks import with_own_tasks
from onediff_jax.experiment.slot_use import padding_lines, slot_use
from onediff_jax.interop.pretrained import load_params
from onediff_jax.models.lora import join
from onediff_jax.parallel.memory import check_memory
from onediff_jax.parallel.mesh import batch_sharding, check_batch, make_mesh, row_shardings
from onediff_jax.parallel.processes import (
    Stop,
    check_same,
    local_rows,
    many,
    place_rows,
    together,
)
from onediff_jax.parallel.program import Program
from onediff_jax.run.adapters import initial_adapters
from onediff_jax.run.checkpoint import (
    CHECKPOINTS,
    CheckpointError,
    complete_steps,
)
from onediff_jax.run.incidents import (
    Incident,
    LossWatch,
    SpikeError,
    describe,
    described,
    write_incident,
)
from onediff_jax.run.metrics import (
    Reporter,
    Results,
    console_line,
    memory_peak_gib,
    step_means,
)
from onediff_jax.run.observe import Observer, own_prompts
from onediff_jax.run.optimizer import describe_longer, make_optimizer
from onediff_jax.run.saves import Saves
from onediff_jax.run.state import TrainState, new_state
from onediff_jax.run.surroundings import changes, surroundings
from onediff_jax.run.trackers import call_webhook, check_trackers, check_webhook
from onediff_jax.run.train_step import (
    on_device,
    operands_name,
    product_operands,
    sharded_train_step,
)
from onediff_jax.run.watch import Clock, Compiles, ProfileWindow, Work, device_memory
from onediff_jax.run.watchdog import Watchdog
from onediff_jax.run.workdir import Workdir, await_claim, differences, fingerprint
from onediff_jax.scaling.flops import model_flops
from onediff_jax.scaling.peaks import peak_flops

_BACK = 3  # times that a run goes back to the same step
_LIMITS_EVERY = 50  # steps between new limits of losses


class _GoBack(Exception):
    """(step, names): the run goes back, and leaves those examples out."""


class NotFiniteError(RuntimeError):
    """Too many steps in a row had a gradient that is not finite."""


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    strict: bool = False,
    accept_changes: bool = False,
    extend: bool = False,
) -> TrainState:
    """Trains until `train.steps`, from the newest checkpoint of the workdir if there is one.

    Args:
      config: of the run.
      workdir: of the run.
      strict: raise for a damaged checkpoint instead of going on from the one before.
      accept_changes: go on although code, versions, weights or data are others than at the last
        start; `checkpoint.accept_changes` says so once for all.
      extend: train.steps may be more than at the last start although the learning rate of every
        step depends on it; it follows the new curve from here on.

    SIGTERM or Ctrl-C, to any of the processes, saves a checkpoint and returns; a second one ends
    the process at once. Raises ValueError (and its
    subclasses CheckpointError, WorkdirError) before anything is compiled or written when something
    does not fit; RecompileError when the step is compiled again, unless `log.allow_recompile`.
    """
    config = with_own_tasks(config)
    check_same(fingerprint(config, workdir) | {"products": operands_name(config)})
    with contextlib.ExitStack() as opened:
        try:
            return _Run(config, workdir, opened, strict, accept_changes, extend).loop()
        except BaseException:
            if many():
                opened.pop_all()  # closing a checkpoint waits for the others, who may be gone
            raise


class _Run:
    """What the loop holds: parts made once, and the state that changes.

    `opened` releases what was opened, also when the start itself fails.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: str | Path,
        opened: contextlib.ExitStack,
        strict: bool,
        accept_changes: bool,
        extend: bool,
    ):
        self.config, log, self.strict = config, config.log, strict
        self.is_writer = jax.process_index() == 0
        with together():
            check_trackers(log.trackers)
            check_webhook(log.webhook)
            self.experiment: Experiment = make_experiment(config)
            self.mesh = make_mesh(config.mesh)
            weighted = self.experiment.packer.weighted
            self.row_shardings = row_shardings(self.mesh, weighted=weighted)
            check_batch(self.mesh, config.train.batch_rows, self.experiment.layout.chunks)
            self.tx, schedule = make_optimizer(config.optim, config.train.steps)
            check_memory(self.experiment, param_count(self.experiment.shapes), self.mesh)
            prompts = own_prompts(self.experiment)
            self.first_start = time.time()
            if self.is_writer:
                accept = accept_changes or config.checkpoint.accept_changes
                claimed = Workdir(workdir, config, write=False, extend=extend, accept=accept)
                opened.callback(claimed.release)
                self.path, self.first_start = claimed.path, claimed.first_start
                starts = not complete_steps(self.path / CHECKPOINTS)
                found = surroundings(self.experiment, starts=starts)
                claimed.check_surroundings(found, changes)
        with together():
            if not self.is_writer:
                self.path = await_claim(workdir)
            if not complete_steps(self.path / CHECKPOINTS):
                self.initial_adapters  # noqa: B018 — read before anything long, and kept
            self.profile = ProfileWindow(
                self.path / "profile",
                first=log.profile_at if self.is_writer else 0,
                steps=log.profile_steps,
            )
            opened.callback(self.profile.close)
        self.saves = Saves(self.path, config, self.first_start, opened)
        self.reporter = Reporter(
            self.path,
            is_writer=self.is_writer,
            trackers=log.trackers,
            config=json.loads(config.to_json_best_effort()),
        )
        opened.callback(self.reporter.close)
        self.watchdog = Watchdog(log.on_hang)
        opened.callback(self.watchdog.close)
        self.compiles = Compiles()
        opened.callback(self.compiles.close)
        for note in claimed.notes if self.is_writer else ():
            self.reporter.say(f"workdir: {note}")
        self.reporter.say(f"workdir {self.path}")
        for line in padding_lines(slot_use(self.experiment)):
            self.reporter.say(line)
        for line in self.experiment.prepared.left_out_lines() if self.experiment.prepared else ():
            self.reporter.say(line)
        self.fields = self.experiment.stream_fields()
        self.clock = Clock(self.first_start)
        self.work = self._work()
        step, self.shardings, frozen = sharded_train_step(
            self.experiment, self.tx, schedule, self.mesh
        )
        self.step = Program(step, "the train step", allow_recompile=log.allow_recompile)
        self.ema_shardings = on_device(self.shardings.ema)
        self.frozen = self._load_frozen(frozen)
        if self.experiment.online_text:
            self.experiment.online_text.place(self.mesh)
        self.batches = self._stream(config.train.batch_rows * config.train.accumulate)
        opened.callback(self.batches.close)
        self.results = Results()
        self.left_out: dict[str, int] = {}  # example → the first batch without it
        self.goings_back: dict[int, int] = {}  # step → how often the run went back to it
        self.state = self._restore() or self._start()
        if self.is_writer and claimed.steps_before is not None:
            steps = claimed.steps_before, config.train.steps, int(self.state.step)
            self.reporter.say(describe_longer(config.optim, *steps))
        self.observer = Observer(
            self.experiment,
            self.mesh,
            held_out=self._held_out_batches(),
            shardings=join(self.ema_shardings, frozen),
            prompts=prompts,
            reporter=self.reporter,
            workdir=self.path,
            is_writer=self.is_writer,
        )
        if self.is_writer:
            claimed.begin()

    def _work(self) -> Work:
        kind, train = self.mesh.devices.flat[0].device_kind, self.config.train
        peak = peak_flops(kind)
        if peak is None:
            self.reporter.say(f"the peak of a {kind!r} is not known: no MFU")
        if (rounded := product_operands(self.config)) is not None:
            name = jax.numpy.dtype(rounded).name
            self.reporter.say(f"operands of products with weights are rounded to {name}")
        tokens = train.batch_rows * train.accumulate * self.experiment.layout.tokens
        return Work(tokens, model_flops(self.config).total, self.mesh.size, peak)

    def _new_state(self, params: Any = None) -> TrainState:
        return new_state(self.experiment.init_params() if params is None else params, self.tx)

    def _restore(self) -> TrainState | None:
        """The state of the newest checkpoint; None where there is none."""
        abstract = jax.eval_shape(self._new_state, self.experiment.shapes)
        wanted = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
            abstract,
            self.shardings._replace(ema=self.ema_shardings),
        )
        found = self.saves.newest(wanted, strict=self.strict, say=self.reporter.say)
        if found is None:
            overview = parameter_overview.get_parameter_overview(
                abstract.params, include_stats=False, max_lines=80
            )
            self.reporter.text(0, "parameters", f"```\n{overview}\n```")
            count = param_count(abstract.params)
            self.reporter.say(f"{count:,} parameters; starting at step 0")
            return None
        where, step, state, data = found
        named = [
            f"{name}: {old!r} in the checkpoint, {new!r} now"
            for name, old, new in differences(upgrade_stream(data["stream"]), self.fields)
        ]
        if named:
            raise CheckpointError(
                f"checkpoint {step} was trained on another data stream:\n  " + "\n  ".join(named)
            )
        self.batches.seek(data["batches"])
        self.losses = self._loss_watch(data.get("losses"))
        for entry in data.get("left_out", ()):
            name, batch = (entry, 0) if isinstance(entry, str) else entry  # names of older runs
            self._leave_out({name: batch})
        self.batches.leave_out(self.left_out)
        self.clock = Clock(self.first_start, data.get("productive_seconds", 0.0))
        self.reporter.say(f"continuing from the {where} of step {step}")
        return state._replace(ema=jax.device_put(state.ema, self.shardings.ema))

    def _start(self) -> TrainState:
        """The state of step 0: initial values, or those of init_from."""
        self.losses = self._loss_watch()
        self.batches.seek(0)
        self.batches.leave_out(self.left_out)
        folder = self.config.init_from
        if not folder or self.experiment.lora:
            lora = self.experiment.lora
            if lora and self.initial_adapters:
                self.reporter.say(f"adapters go on from {lora.init_adapter}")
            new_state = jax.jit(self._new_state, out_shardings=self.shardings)
            return new_state(self.initial_adapters)
        shapes = self.experiment.shapes
        params = load_params(folder, self.experiment.model_config, shapes, self.shardings.params)
        self.reporter.say(f"weights and EMA start from {folder}")
        return jax.jit(self._new_state, out_shardings=self.shardings)(params)

    @functools.cached_property
    def initial_adapters(self) -> Any:
        """The parameters of lora.init_adapter; None where it names none."""
        return initial_adapters(self.experiment)

    def _loss_watch(self, state: dict[str, Any] | None = None) -> LossWatch:
        return LossWatch(self.config.train.spike_factor, state, self.experiment.tasks.names)

    def _load_frozen(self, shardings: Any) -> Any:
        """Weights that are used and not trained; None where all are."""
        shapes, folder = self.experiment.frozen_shapes, self.config.init_from
        if shapes is None:
            return None
        params = load_params(folder, self.experiment.model_config, shapes, shardings)
        self.reporter.say(f"adapters of {self.experiment.lora} on the frozen weights of {folder}")
        return params

    def _stream(self, rows: int, **options: Any) -> BatchIterator:
        """Batches of so many rows, of which this process reads those on its devices."""
        places = local_rows(batch_sharding(self.mesh), rows)
        return self.experiment.batches(batch_size=rows, places=places, **options)

    def _held_out_batches(self) -> list[dict[str, jax.Array]]:
        rows, count = self.config.train.batch_rows, self.config.log.held_out_batches
        stream = self._stream(rows, held_out=True, workers=0, threads=1, prefetch=1)
        found = [self.to_devices(next(stream), rows) for _ in range(count)]
        stream.close()
        return found

    def to_devices(self, batch: dict[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
        """This process's rows as part of the global batch of `rows`."""
        places = local_rows(batch_sharding(self.mesh), rows)
        if self.experiment.online_pictures:
            batch = self.experiment.online_pictures.encode(batch)
        placed = place_rows(batch, self.row_shardings, places, rows)
        online = self.experiment.online_text
        return online.embed(placed) if online else placed

    def _save(self, step: int, save: Callable[[int, TrainState, dict[str, Any]], None]) -> None:
        """Starts a save of everything the run needs to go on."""
        with self.watchdog.waiting_for("a step"):
            self._collect(step)  # nothing is saved that came of a loss that goes wrong
        began = time.perf_counter()
        with self.watchdog.waiting_for("a save"):
            save(step, self.state, self._data(step))
        self.clock.pause(time.perf_counter() - began)

    def _leave_out(self, names: Mapping[str, int]) -> None:
        for name, batch in names.items():
            self.left_out[name] = min(batch, self.left_out.get(name, batch))

    def _data(self, step: int) -> dict[str, Any]:
        """What a save holds beside the arrays, JSON values."""
        return {
            "batches": step,  # of each step one; the next one is read already
            "stream_hash": stream_hash(self.fields),
            "stream": self.fields,
            "productive_seconds": self.clock.productive,
            "losses": self.losses.state(),
            "left_out": [list(entry) for entry in sorted(self.left_out.items())],
        }

    def loop(self) -> TrainState:
        """Trains until the last step or a signal; goes back where train.on_spike says so."""
        self._tell("start", step=int(self.state.step))
        try:
            with Stop() as stop:
                while True:
                    try:
                        state = self._train(stop)
                        break
                    except _GoBack as back:
                        self._go_back(back)
        except Exception as error:
            self._tell("failure", error=f"{type(error).__name__}: {error}"[:1000])
            raise
        self._tell("end", step=int(state.step), of=self.config.train.steps)
        return state

    def _tell(self, event: str, **values: Any) -> None:
        if self.is_writer:
            call_webhook(self.config.log.webhook, event, self.path.name, **values)

    def _go_back(self, back: "_GoBack") -> None:
        """To the newest checkpoint, or the start, without the examples behind an incident."""
        step, names = back.args
        self.results = Results()
        self.saves.forget_local()
        # Of that batch on, not of the checkpoint's: which one is newest depends on the clock.
        self._leave_out({str(name): int(step) - 1 for name in names})
        del self.state  # two of them might not fit
        self.state = self._restore() or self._start()
        again = self.goings_back[int(self.state.step)] = (
            self.goings_back.get(int(self.state.step), 0) + 1
        )
        if again > _BACK or not names:
            raise SpikeError(
                f"step {step}: the loss goes wrong again, {again} times after going back to step "
                f"{int(self.state.step)}: the examples in incidents.jsonl are not the cause. Lower "
                "optim.learning_rate, or set train.on_spike to another of report, skip, stop"
            )
        self.reporter.say(f"went back to step {int(self.state.step)}; left out: {sorted(names)}")

    def _train(self, stop: Stop) -> TrainState:
        """Until the last step or a signal: save, step, log, next batch, evaluate.

        Everything that the devices need is given to them before anything is fetched from them: a
        step is dispatched, and while it runs the one before is reported and the next batch is read
        and placed. At most two steps are in flight, so memory stays flat.
        """
        total = self.config.train.steps
        step = int(self.state.step)
        self.logged_step = step
        self.saves.begin(step)
        self.unlogged, self.seen_skipped = [], int(self.state.skipped)
        if step == 0:  # a run that goes on was observed where it was saved
            self._observe(step)
        try:
            batch = self._read(step)
            while batch is not None and not stop(step):
                if save := self.saves.due(step):
                    self._save(step, save)
                if self.profile(step, self.results.newest):
                    self.reporter.say(f"profile of steps up to {step} in {self.path}/profile")
                self._set_limits(step)
                self._advance(step, batch)
                step += 1
                batch = self._read(step)
                with self.watchdog.waiting_for("a step"):
                    self.results.settle(ahead=1)
                self._observe(step)
        except _GoBack:
            raise
        except BaseException:
            with contextlib.suppress(Exception):
                self._log(step)  # what is done is told, whatever came after it
            raise
        self._log(step)
        self._save(step, self.saves.save)  # also sees what was not seen before
        with self.watchdog.waiting_for("a save"):
            self.saves.finish()
        done = (
            "finished"
            if step == total
            else f"stopped by {stop.reason or 'SIGTERM'}, checkpoint saved"
        )
        peak = memory_peak_gib()
        self.reporter.say(f"{done} at step {step}; peak memory {peak:.2f} GiB; {self.path}")
        return self.state

    def _read(self, step: int) -> dict[str, jax.Array] | None:
        """The batch of the step after `step`, on its way to the devices; None after the last."""
        train = self.config.train
        if step >= train.steps:
            return None
        began = time.perf_counter()
        with self.watchdog.waiting_for("the next batch"):
            batch = next(self.batches)
        if self.results.idle:  # otherwise the devices were busy meanwhile: nothing was lost
            self.clock.wait(time.perf_counter() - began)
        return self.to_devices(batch, train.batch_rows * train.accumulate)

    def _advance(self, step: int, batch: dict[str, jax.Array]) -> None:
        """Dispatches one step; reports those before it, when due, while it runs."""
        compiled = self.step.compiled
        annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
        with annotation, self.watchdog.waiting_for("the start of a step"):
            self.state, metrics = self.step(self.state, batch, self.frozen, *self.limits)
        self.results.add(step + 1, metrics)
        self._log(step)
        self.clock.tick()
        if self.step.compiled > compiled:
            self.results.settle()
            self.clock.restart()  # compilation is not part of the rate

    def _collect(self, step: int) -> None:
        """Fetches the metrics of the steps up to `step`, and looks at their losses."""
        with self.watchdog.waiting_for("a step"):
            fetched = list(self.results.fetch(step))
        for number, metrics in fetched:
            self.unlogged.append(metrics)
            incident = self.losses.see(number, metrics, self.seen_skipped)
            self.seen_skipped = int(metrics["skipped"])
            if incident is not None:
                self._handle(incident)

    def _handle(self, incident: Incident) -> None:
        """Writes an incident down and does what train.on_spike says."""
        action = self.config.train.on_spike
        found = [
            self.batches.source.references(incident.step - 1, row)[slot]
            for row, slot, _ in incident.slots
        ]
        names = frozenset(reference.name for reference in found)
        back = action == "rewind" and names
        stop = action == "stop" and incident.kind != "not finite"
        done = "goes back" if back else "stops" if stop else ""
        done = done or ("left the step out" if incident.left_out else "goes on")
        if self.is_writer:
            examples = [described(reference) for reference in found]
            write_incident(self.path / "incidents.jsonl", incident, examples, done)
            self.reporter.say(f"{describe(incident, examples)}; {done}")
        if stop:
            raise SpikeError(
                f"step {incident.step}: {incident.kind}, train.on_spike='stop'; incidents.jsonl "
                f"names the examples behind it; the last checkpoints are {self.saves.steps()}"
            )
        if back:
            raise _GoBack(incident.step, names)

    def _set_limits(self, step: int) -> None:
        """With train.on_spike="skip", from time to time: what the steps from here on allow.

        At steps that no other setting moves, so that the result depends on none.
        """
        if self.config.train.on_spike != "skip":
            self.limits: tuple = ()
            return
        if step % _LIMITS_EVERY == 0 and step:
            with self.watchdog.waiting_for("a step"):
                self._collect(step)
            self.losses.set_limits()
        self.limits = (self.losses.limits,)

    def _log(self, step: int) -> None:
        """Reports the steps since the last report, when one is due at this step."""
        train, log = self.config.train, self.config.log
        if step <= self.logged_step or (step % log.every_steps and step != train.steps):
            return
        self.logged_step = step
        self._collect(step)
        results, self.unlogged = self.unlogged, []
        if not results:
            return
        rates = self.clock.report()  # empty where the only step so far was compiled
        last = results[-1]
        values = {
            **step_means(results, self.experiment.tasks.names),
            **{k: float(last[k]) for k in ("grad_norm", "learning_rate", "ema_decay", "skipped")},
            **rates,
            **(self.work.rates(rates["steps_per_second"]) if rates else {}),
            **device_memory(),
            "compiles": self.compiles.count,
        }
        self.reporter.scalars(step, values)
        self.reporter.say(console_line(step, train.steps, values))
        in_a_row = max(int(found["skipped_in_a_row"]) for found in results)
        if in_a_row >= train.max_skipped:
            raise NotFiniteError(
                f"{in_a_row} steps in a row had a gradient that is not finite, up to step {step}; "
                f"the last checkpoints are {self.saves.steps()}. "
                "Lower optim.learning_rate or look at the data."
            )

    def _observe(self, step: int) -> None:
        """Held-out losses, samples and an evaluation of the averaged weights, when due."""
        due = self.observer.due(step)
        if not due:
            return
        self._log(step)
        with self.watchdog.waiting_for("a step"):
            self.results.settle()
        began = time.perf_counter()
        with self.watchdog.waiting_for("evaluation"):
            params = join(jax.device_put(self.state.ema, self.ema_shardings), self.frozen)
            self.observer(step, params, due)
        self.clock.pause(time.perf_counter() - began)
