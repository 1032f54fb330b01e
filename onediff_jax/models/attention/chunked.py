"""Attention in plain XLA, some queries at a time, recomputed in the backward pass."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from onediff_jax.models.attention.plain import reference

CHUNK = 512  # queries whose logits exist at once


def chunked(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    mask: Bool[Array, "b s"] | None,
    *,
    softcap: float | None,
    chunk: int = CHUNK,
) -> Float[Array, "b t n h"]:
    """The reference, `chunk` queries after another; memory is chunk × s logits per head."""
    b, t, n, h = q.shape
    if t <= chunk:
        return reference(q, k, v, mask, softcap=softcap)
    padded = jnp.pad(q, ((0, 0), (0, -t % chunk), (0, 0), (0, 0)))
    parts = padded.reshape(b, -1, chunk, n, h).swapaxes(0, 1)
    attend = jax.checkpoint(functools.partial(reference, softcap=softcap))
    out = jax.lax.map(lambda part: attend(part, k, v, mask), parts)
    return out.swapaxes(0, 1).reshape(b, -1, n, h)[:, :t]
