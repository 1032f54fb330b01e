"""One entry for attention. Everything that attends goes through `attention`."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_MASKED = -1e30  # finite: a row whose keys are all masked gives numbers, not NaN


def attention(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    *,
    mask: Bool[Array, "b s"] | None = None,
    softcap: float | None = None,
    heads: Literal["repeat", "tile"] = "repeat",
) -> Float[Array, "b t n h"]:
    """Grouped-query attention, softmax in float32.

    Args:
      q, k, v: projections; n query heads share k key heads.
      mask: which keys may be attended; None means all.
      softcap: logits become cap·tanh(logits/cap).
      heads: "repeat": query head i reads key head i // (n/k); "tile": it reads i % k. The released
        weights use the first for self-attention and the second for text.

    Raises ValueError when k does not divide n, or `heads` is unknown.
    """
    b, t, n, h = q.shape
    kv_heads = k.shape[2]
    if n % kv_heads:
        raise ValueError(f"{n} query heads must be a multiple of {kv_heads} key heads")
    groups = n // kv_heads
    if heads == "repeat":
        q = q.reshape(b, t, kv_heads, groups, h)
    elif heads == "tile":
        q = q.reshape(b, t, groups, kv_heads, h).swapaxes(2, 3)
    else:
        raise ValueError(f"{heads=} must be 'repeat' or 'tile'")
    logits = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32)
    logits = logits * h**-0.5
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    if mask is not None:
        logits = jnp.where(mask[:, None, None, None, :], logits, _MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v)
    if heads == "tile":
        out = out.swapaxes(2, 3)
    return out.reshape(b, t, n, h)
