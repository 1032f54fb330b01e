"""AdamW with warm-up, a choice of schedules, clipping, a weight-decay mask; the EMA's warm-up."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from onediff_jax.experiment.checks import check_section


def learning_rate(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup_steps`, then the named schedule down to `end_factor` × peak.

    "late_cosine" stays at the peak for the first half and follows a cosine in the second.
    Raises ValueError for a warm-up that is longer than the run.
    """
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
    else:
        hold = rest // 2
        fall = optax.cosine_decay_schedule(peak, max(rest - hold, 1), config.end_factor)
        main = optax.join_schedules([optax.constant_schedule(peak), fall], [hold])
    if not config.warmup_steps:
        return main
    warmup = optax.linear_schedule(peak / config.warmup_steps, peak, config.warmup_steps)
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def decay_mask(params) -> dict:
    """True for matrices (leaves called `kernel`); norms, biases and gates are not decayed."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(
    config: ConfigDict, total_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The update rule and its learning-rate schedule.

    Raises ValueError, naming the field, for values outside their range.
    """
    check_section("optim", config)
    schedule = learning_rate(config, total_steps)
    tx = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )
    return tx, schedule


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
