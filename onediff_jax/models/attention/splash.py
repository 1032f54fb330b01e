"""Attention on TPUs: the splash kernel that ships with jax.

It reads whole blocks of 128 keys, so keys (and queries) are padded to that and left out as another
segment, like masked keys. Heads of 120 channels need no padding. Its backward pass is one kernel.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as lib
from jaxtyping import Array, Bool, Float

from onediff_jax.models.attention.plain import mean_where_no_key

_LANES = 128
_BLOCK = 1024  # queries or keys; 2048 overflow the vector memory


def splash(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    mask: Bool[Array, "b s"] | None,
    *,
    softcap: float | None,
    name: str = "attention",
    interpret: bool = False,
) -> Float[Array, "b t n h"]:
    """Attention of one device's sequences; arguments as in `attention`, heads "repeat".

    The result and its normalisation, which the backward pass needs, are called `name` for
    models/remat.py. `interpret` runs the kernel step by step where there is no TPU, for tests.
    """
    b, t, _, h = q.shape
    s = k.shape[1]
    q, mask = mean_where_no_key(q, mask)
    q = (q.astype(jnp.float32) * h**-0.5).astype(q.dtype)  # the kernel does not scale
    if mask is None and s % _LANES:
        mask = jnp.ones((b, s), bool)
    arrays: list[Any] = [_pad(x).swapaxes(1, 2) for x in (q, k, v)]
    heads, queries, keys = *arrays[0].shape[1:3], arrays[1].shape[2]
    kernel = _kernel(heads, queries, keys, softcap, name, interpret)
    if mask is not None:
        queries = jnp.ones((b, queries), jnp.int32)
        arrays.append(lib.SegmentIds(queries, _pad(mask.astype(jnp.int32))))
    return jax.vmap(lambda *x: kernel(*x))(*arrays).swapaxes(1, 2)[:, :t]


def _pad(x: Array) -> Array:
    """Zeros behind the second dimension, up to a multiple of the lanes."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % _LANES), *[(0, 0)] * (x.ndim - 2)))


def _block(length: int) -> int:
    """The largest multiple of the lanes up to _BLOCK that divides `length`."""
    return next(n for n in range(min(length, _BLOCK), 0, -_LANES) if length % n == 0)


def _kernel(
    heads: int, queries: int, keys: int, softcap: float | None, name: str, interpret: bool
) -> Any:
    """The kernel for one sequence; lengths are multiples of the lanes."""
    block_q, block_kv = _block(queries), _block(keys)
    sizes = lib.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_kv_compute=block_kv,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_kv_dkv_compute=block_kv,
        use_fused_bwd_kernel=True,
    )
    return lib.make_splash_mha_single_device(
        lib.MultiHeadMask([lib.FullMask((queries, keys))] * heads),
        block_sizes=sizes,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=name,
        interpret=interpret,
    )
