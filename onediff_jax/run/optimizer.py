"""The update rules and schedules, with clipping and a weight-decay mask; the EMA's warm-up."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from onediff_jax.experiment.checks import check_section, complete


def learning_rate(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup_steps`, then the named schedule down to `end_factor` × peak.

    "late_cosine" stays at the peak for the first half and follows a cosine in the second. "wsd"
    (warm-up, stable, decay) stays and falls linearly in the last `decay_share` of all steps.
    "rsqrt" is the peak × √(warm-up ÷ step); it has no end to go down to.
    Raises ValueError for a warm-up that is longer than the run.
    """
    config = ConfigDict(complete("optim", config.to_dict()))
    if not 0 <= config.warmup_steps < total_steps:
        raise ValueError(
            f"optim.warmup_steps={config.warmup_steps} must be in 0..{total_steps - 1}, below "
            "train.steps"
        )
    peak, end = config.learning_rate, config.learning_rate * config.end_factor
    rest = total_steps - config.warmup_steps
    if config.schedule == "constant":
        main = optax.constant_schedule(peak)
    elif config.schedule == "linear":
        main = optax.linear_schedule(peak, end, rest)
    elif config.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, rest, config.end_factor)
    elif config.schedule == "rsqrt":
        origin = max(config.warmup_steps, 1)
        return optax.join_schedules(
            [
                optax.linear_schedule(peak / origin, peak, origin),
                lambda step: peak * jnp.sqrt(origin / (origin + step)),
            ],
            [origin],
        )
    elif config.schedule == "wsd":
        fall = min(round(total_steps * config.decay_share), rest)
        main = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, end, max(fall, 1))],
            [rest - fall],
        )
    else:
        hold = rest // 2
        fall = optax.cosine_decay_schedule(peak, max(rest - hold, 1), config.end_factor)
        main = optax.join_schedules([optax.constant_schedule(peak), fall], [hold])
    if not config.warmup_steps:
        return main
    warmup = optax.linear_schedule(peak / config.warmup_steps, peak, config.warmup_steps)
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def describe_longer(config: ConfigDict, before: int, now: int, step: int) -> str:
    """What more steps mean for the learning rate of a run that goes on, in one line.

    Args:
      config: section optim.
      before, now: train.steps.
      step: at which it goes on.
    """
    old, new, end = (
        f"{np.asarray(learning_rate(config, total)(at)).item():.3g}"
        for total, at in ((before, step), (now, step), (now, now))
    )
    schedule = complete("optim", config.to_dict())["schedule"]
    here = f"stays {new}" if old == new else f"would be {old} and is {new}"
    return (
        f"train.steps grows from {before} to {now}: at step {step} the learning rate ({schedule}) "
        f"{here}; at step {now} it will be {end}"
    )


def decay_mask(params) -> dict:
    """True for matrices (leaves called `kernel`); norms, biases and gates are not decayed."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(
    config: ConfigDict, total_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The update rule of optim.name, after clipping, and its learning-rate schedule.

    Raises ValueError, naming the field, for values outside their range.
    """
    check_section("optim", config.to_dict())
    config = ConfigDict(complete("optim", config.to_dict()))
    schedule = learning_rate(config, total_steps)
    rule = _RULES[config.name](config, schedule)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule), schedule


def _adamw(
    config: ConfigDict, schedule: optax.Schedule, *, nesterov: bool = False
) -> optax.GradientTransformation:
    return optax.adamw(
        schedule,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        mu_dtype=_moments(config),
        weight_decay=config.weight_decay,
        mask=decay_mask,
        nesterov=nesterov,
    )


def _lion(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.lion(
        schedule,
        b1=config.b1,
        b2=config.b2,
        mu_dtype=_moments(config),
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )


def _muon(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon for the matrices of the layers (axes layer, in, out), AdamW for all else, of which it
    decays matrices alone; both with Nesterov's momentum.

    Updates are scaled to the size of AdamW's, so that one learning rate fits both (Liu et al. 2025,
    "Muon is scalable for LLM training", section 2.2).
    """
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    of_layers = optax.contrib.muon(
        schedule,
        beta=config.b1,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mu_dtype=_moments(config),
        muon_weight_dimension_numbers=lambda params: jax.tree.map(lambda _: matrix, params),
        consistent_rms=0.2,
    )
    # Not muon's own AdamW: that one would decay norms and biases too, or nothing.
    return optax.partition(
        {True: of_layers, False: _adamw(config, schedule, nesterov=True)}, _in_layers
    )


def _in_layers(params: Any) -> Any:
    """True for the matrices of the layers."""

    def one(path: tuple, leaf: Any) -> bool:
        return leaf.ndim == 3 and path[-1].key == "kernel"

    return jax.tree_util.tree_map_with_path(one, params)


def _adafactor(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Rows' and columns' means of squares in place of all of them; no mean of gradients."""
    return optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(schedule),
    )


def _sgd(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.trace(config.b1, accumulator_dtype=_moments(config)),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(schedule),
    )


_RULES = {"adamw": _adamw, "muon": _muon, "adafactor": _adafactor, "lion": _lion, "sgd": _sgd}


def _moments(config: ConfigDict) -> Any:
    """What optax calls the dtype of first moments; None: the parameters'."""
    return None if config.moments_dtype == "float32" else jnp.dtype(config.moments_dtype)


def at_step(opt_state: optax.OptState, step: jax.Array) -> optax.OptState:
    """The optimizer's state with its schedule at `step`.

    Optax counts the updates that were made; a step that was left out would hold the schedule back,
    and the rate in use would not be the one that is logged.
    """

    def scheduled(state: Any) -> bool:
        return isinstance(state, optax.ScaleByScheduleState)

    def one(state: Any) -> Any:
        return state._replace(count=step) if scheduled(state) else state

    return jax.tree.map(one, opt_state, is_leaf=scheduled)


def ema_decay(step: jax.Array, max_decay: float, power: float) -> jax.Array:
    """1 − (1 + step)^(−power), at most `max_decay`: a short memory early (reference: ⅔, 0.9999)."""
    return jnp.minimum(max_decay, 1.0 - (1.0 + step.astype(jnp.float32)) ** -power)
