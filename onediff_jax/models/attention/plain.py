"""Attention in plain XLA: what every kernel must agree with."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_MASKED = -1e30  # finite: a row whose keys are all masked gives numbers, not NaN
_SAFE = 60.0  # logits up to it need no maximum taken off: sums of their exponentials stay finite


def reference(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    mask: Bool[Array, "b s"] | None,
    *,
    softcap: float | None,
    heads: str = "repeat",
) -> Float[Array, "b t n h"]:
    """Attention in plain XLA: logits of all queries and keys at once."""
    b, t, n, h = q.shape
    kv_heads = k.shape[2]
    groups = n // kv_heads
    q, mask = mean_where_no_key(q, mask)
    if heads == "repeat":
        q = q.reshape(b, t, kv_heads, groups, h).transpose(0, 2, 3, 1, 4)
    else:
        q = q.reshape(b, t, groups, kv_heads, h).transpose(0, 3, 2, 1, 4)
    # Small arrays are transposed here, so that on CPUs XLA does not transpose the logits: m are the
    # queries of all heads that share a key.
    q = q.reshape(b, kv_heads, groups * t, h)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    logits = jnp.einsum("bkmh,bksh->bkms", q, k, preferred_element_type=jnp.float32)
    logits = logits * h**-0.5
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, _MASKED)
    if softcap is None or softcap > _SAFE:
        logits -= jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    # The sum divides the result, not the weights: one pass less over the largest array, forward,
    # and no sum over it backward.
    weights = jnp.exp(logits)
    out = jnp.einsum(
        "bkms,bksh->bkmh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    out = (out / weights.sum(-1, keepdims=True)).astype(v.dtype)
    out = out.reshape(b, kv_heads, groups, t, h)
    order = (0, 3, 1, 2, 4) if heads == "repeat" else (0, 3, 2, 1, 4)
    return out.transpose(order).reshape(b, t, n, h)


def mean_where_no_key(
    q: Float[Array, "b t n h"], mask: Bool[Array, "b s"] | None
) -> tuple[Float[Array, "b t n h"], Bool[Array, "b s"] | None]:
    """For kernels: sequences without a key attend to all, with queries of zero, so to all alike."""
    if mask is None:
        return q, None
    some = mask.any(-1, keepdims=True)
    return q * some[..., None, None].astype(q.dtype), mask | ~some
