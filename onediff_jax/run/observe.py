"""What a run looks at besides its steps: held-out losses, samples, own prompts, an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from onediff_jax.evaluation.in_training import SmallEvaluation
from onediff_jax.evaluation.own_prompts import FOLDER, OwnPrompts
from onediff_jax.evaluation.preview import Preview
from onediff_jax.experiment.build import Experiment
from onediff_jax.run.held_out import HeldOutLoss
from onediff_jax.run.metrics import Reporter
from onediff_jax.sampling.sampler import Sampler


def own_prompts(experiment: Experiment) -> OwnPrompts | None:
    """The requests of log.prompts, checked; None where there are none. Raises ValueError."""
    log = experiment.config.log
    if not log.prompts:
        return None
    if not log.sample_every:
        raise ValueError(
            f"log.prompts={log.prompts!r} is sampled with the samples: log.sample_every must be "
            "positive"
        )
    return OwnPrompts(experiment, log.prompts)


class Observer:
    """Everything that is measured and drawn of the averaged weights, when it is due.

    Args:
      experiment, mesh: of the run.
      held_out: batches of held-out examples, on the devices.
      shardings: of all parameters.
      prompts: of `own_prompts`.
      reporter: where it goes.
      workdir: of the run. is_writer: whether this process writes there.
    """

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        *,
        held_out: Sequence[dict[str, jax.Array]],
        shardings: Any,
        prompts: OwnPrompts | None,
        reporter: Reporter,
        workdir: Path,
        is_writer: bool,
    ):
        config, log = experiment.config, experiment.config.log
        self._log, self._total, self._reporter = log, config.train.steps, reporter
        self._workdir, self._is_writer = workdir, is_writer
        self._loss = HeldOutLoss(experiment, mesh, shardings, held_out)
        self._prompts, self._preview, self._evaluation = prompts, None, None
        if log.sample_every or log.evaluate_every:
            self._sampler = Sampler(
                experiment,
                rows=log.sample_rows,
                steps=log.sample_steps,
                guidance=log.guidance,
                mesh=mesh,
            )
        if log.sample_every:
            self._preview = Preview(experiment, self._sampler)
        if log.evaluate_every:
            self._evaluation = SmallEvaluation(experiment, self._sampler, workdir)

    def due(self, step: int) -> list[str]:
        """What is to be looked at after that many steps."""
        log, last = self._log, step == self._total

        def at(every: int) -> bool:
            return bool(every) and step > 0 and (last or step % every == 0)

        found = {
            "loss": step in log.held_out_at or at(log.held_out_every),
            "samples": at(log.sample_every),
            "prompts": self._prompts is not None and (step == 0 or at(log.sample_every)),
            "evaluation": at(log.evaluate_every),
        }
        return [name for name, wanted in found.items() if wanted]

    def __call__(self, step: int, params: Any, due: Sequence[str]) -> None:
        """Looks at what is due, with the averaged weights."""
        reporter = self._reporter
        if "loss" in due:
            values, name = self._loss(params), self._loss.name
            reporter.scalars(step, values)
            what = {"held_out": "held-out loss"}.get(name, "loss on training examples")
            reporter.say(f"step {step}/{self._total}  {what} {values[name]:.4f}")
        if "samples" in due and self._preview:
            reporter.image(step, "samples", self._preview(params, step))
        if "prompts" in due and self._prompts:
            options = {"workdir": self._workdir, "write": self._is_writer}
            sheet = self._prompts(self._sampler, params, step, **options)
            reporter.image(step, FOLDER, sheet)
        if "evaluation" in due and self._evaluation:
            values = self._evaluation(params, step)
            reporter.scalars(step, values)
            reporter.say(f"step {step}/{self._total}  evaluation: {len(values)} numbers")
