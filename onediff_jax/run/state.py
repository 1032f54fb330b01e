"""What a run is at one moment: plain arrays, nothing else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
      step: optimizer steps done (skipped ones count), int32.
      params, ema: nested dicts of float32 arrays, and their moving average.
      opt_state: optax's.
      skipped: steps whose gradient was not finite, and were left out; int32.
      skipped_in_a_row: the same, since the last good step; int32.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def new_state(params: Any, tx) -> TrainState:
    """The state before the first step; EMA starts at the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )
