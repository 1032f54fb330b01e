"""Attention on NVIDIA GPUs by libraries' kernels: tokamax's for Hopper, and cuDNN's.

Of the two only tokamax has a soft cap, and of its kernels only "mosaic" has one in the backward
pass. It compiles for compute capability 9.0 alone: for 10.0 its tiles of our sizes are larger than
the shared memory, for 12.0 it has none. Both compute in 16 bits. Elsewhere triton.py has the cap.
"""

import importlib.util
import logging

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.backend import get_default_device
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from onediff_jax.models.attention.plain import mean_where_no_key

_AMPERE, _HOPPER = 8, 9  # major compute capability
_TILE = 8  # tokamax's kernel takes multiples of so many queries and keys


def best(dtype: DTypeLike, *, softcap: float | None) -> str | None:
    """The kernel for such arrays on jax's default GPU; None where no kernel can do it."""
    if dtype not in (jnp.bfloat16, jnp.float16):
        return None
    if softcap is None:
        return "cudnn"
    capability = getattr(get_default_device(), "compute_capability", None)
    major = int(float(capability or 0))
    if major == _HOPPER and importlib.util.find_spec("tokamax"):
        return "tokamax"
    return "triton" if major >= _AMPERE else None


def tokamax(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    mask: Bool[Array, "b s"] | None,
    *,
    softcap: float | None,
    name: str,
) -> Float[Array, "b t n h"]:
    """Attention of one device's sequences by tokamax, heads in "repeat" order."""
    from absl import flags
    from tokamax import dot_product_attention  # pyright: ignore[reportMissingImports]

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # tokamax would look for its flags among those of the program
    logging.getLogger("absl").addFilter(_not_tuned)
    q, mask = mean_where_no_key(q, mask)
    tokens = q.shape[1]
    if -k.shape[1] % _TILE and mask is None:
        mask = jnp.ones(k.shape[:2], bool)
    if mask is not None:
        mask = _whole_tiles(mask)[:, None, None, :]
    out = dot_product_attention(
        _whole_tiles(q),
        _whole_tiles(k),
        _whole_tiles(v),
        mask=mask,
        logits_soft_cap=softcap,
        implementation="mosaic",
    )
    return checkpoint_name(out[:, :tokens], name)


def _not_tuned(record: logging.LogRecord) -> bool:
    """Drops what tokamax says, at length, of every shape that it has no measured tiles for."""
    return not str(record.msg).startswith("Autotuning cache miss")


def _whole_tiles(x: Array) -> Array:
    """Zeros, or False, at the end of axis 1."""
    missing = -x.shape[1] % _TILE
    return jnp.pad(x, [(0, missing if axis == 1 else 0) for axis in range(x.ndim)])


def cudnn(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    mask: Bool[Array, "b s"] | None,
    *,
    name: str,
) -> Float[Array, "b t n h"]:
    """Attention of one device's sequences by cuDNN, heads in "repeat" order."""
    q, mask = mean_where_no_key(q, mask)
    if mask is not None:  # cuDNN wants the queries' dimension written out
        mask = jnp.broadcast_to(mask[:, None, None, :], (len(q), 1, q.shape[1], k.shape[1]))
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
    return checkpoint_name(out, name)
