"""Attention on NVIDIA GPUs of compute capability 8.0 and newer: one Pallas kernel for Triton.

FlashAttention-2 (arXiv 2307.08691) with grouped heads, a mask of keys and the soft cap, forward and
backward, for GPUs on which no library's kernel has the cap in its gradient (A100, L4, L40S, RTX).
Products take the arrays' dtype and sum in float32; logits, softmax and sums are float32.

The tiles are safe choices: they fit the shared memory of every such GPU (99 KiB on 8.6 and 8.9).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float

from onediff_jax.models.attention.plain import mean_where_no_key

QUERIES, KEYS = 64, 64  # of a tile
_MASKED = -1e30


def triton(
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
    models/remat.py. `interpret` runs the kernel step by step where there is no GPU, for tests.
    """
    tokens = q.shape[1]
    q, mask = mean_where_no_key(q, mask)
    there = jnp.ones(k.shape[:2], bool) if mask is None else mask
    bias = jnp.where(_whole_tiles(there, KEYS), 0.0, _MASKED)  # padding is masked too
    q, k, v = _whole_tiles(q, QUERIES), _whole_tiles(k, KEYS), _whole_tiles(v, KEYS)
    out: Any = _attend(q, k, v, bias, softcap, name, interpret)
    return out[:, :tokens]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attend(q, k, v, bias, softcap, name, interpret) -> Any:
    return _forward(q, k, v, bias, softcap, interpret)[0]


def _attend_forward(q, k, v, bias, softcap, name, interpret):
    out, norm = (checkpoint_name(x, name) for x in _forward(q, k, v, bias, softcap, interpret))
    return out, (q, k, v, bias, out, norm)


def _attend_backward(softcap, name, interpret, kept, gradient):
    q, k, v, bias, out, norm = kept
    product = gradient.astype(jnp.float32) * out.astype(jnp.float32)
    arrays = (q, k, v, bias, gradient, norm, product.sum(-1).swapaxes(1, 2))
    of_q = _backward_queries(*arrays, softcap, interpret)
    return of_q, *_backward_keys(*arrays, softcap, interpret), None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(q, k, v, bias, softcap, interpret):
    """The result (b, t, n, h) and log Σ exp of every query's logits (b, n, t)."""
    b, t, n, h = q.shape
    groups = n // k.shape[2]

    def kernel(q_ref, k_ref, v_ref, bias_ref, out_ref, norm_ref):
        columns = jnp.arange(q_ref.shape[-1])[None] < h
        queries = _load(q_ref, columns)

        def body(i, carry):
            total, peak, result = carry
            part = pl.ds(i * KEYS, KEYS)
            keys, values = _load(k_ref.at[part], columns), _load(v_ref.at[part], columns)
            logits, _ = _logits(queries, keys, h, softcap)
            logits += bias_ref[part][None]
            higher = jnp.maximum(peak, logits.max(1))
            weights, scale = jnp.exp(logits - higher[:, None]), jnp.exp(peak - higher)
            result = result * scale[:, None] + _dot(weights.astype(values.dtype), values)
            return total * scale + weights.sum(1), higher, result

        start = (
            jnp.zeros(QUERIES, jnp.float32),
            jnp.full(QUERIES, 2 * _MASKED, jnp.float32),
            jnp.zeros(queries.shape, jnp.float32),
        )
        total, peak, result = jax.lax.fori_loop(0, k_ref.shape[0] // KEYS, body, start)
        _store(out_ref, result / total[:, None], columns)
        norm_ref[...] = peak + jnp.log(total)

    return pl.pallas_call(
        kernel,
        grid=(t // QUERIES, b, n),
        in_specs=[
            _queries_of_tile(h),
            _all_keys(k.shape[1], h, groups),
            _all_keys(k.shape[1], h, groups),
            pl.BlockSpec((None, k.shape[1]), lambda i, b, n: (b, 0)),
        ],
        out_specs=[_queries_of_tile(h), _numbers_of_tile()],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((b, n, t), jnp.float32),
        ],
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="attention_forward",
    )(q, k, v, bias)


def _backward_queries(q, k, v, bias, gradient, norm, product, softcap, interpret):
    """The gradient for the queries, a tile of them at a time."""
    b, t, n, h = q.shape
    groups = n // k.shape[2]

    def kernel(q_ref, k_ref, v_ref, bias_ref, gradient_ref, norm_ref, product_ref, of_q_ref):
        columns = jnp.arange(q_ref.shape[-1])[None] < h
        queries, of_out = _load(q_ref, columns), _load(gradient_ref, columns)
        norms, products = norm_ref[...], product_ref[...]

        def body(i, of_q):
            part = pl.ds(i * KEYS, KEYS)
            keys, values = _load(k_ref.at[part], columns), _load(v_ref.at[part], columns)
            logits, slope = _logits(queries, keys, h, softcap)
            weights = jnp.exp(logits + bias_ref[part][None] - norms[:, None])
            of_logits = weights * (_dot(of_out, values.T) - products[:, None]) * slope
            return of_q + _dot(of_logits.astype(keys.dtype), keys)

        zero = jnp.zeros(queries.shape, jnp.float32)
        of_q = jax.lax.fori_loop(0, k_ref.shape[0] // KEYS, body, zero)
        _store(of_q_ref, of_q * h**-0.5, columns)

    return pl.pallas_call(
        kernel,
        grid=(t // QUERIES, b, n),
        in_specs=[
            _queries_of_tile(h),
            _all_keys(k.shape[1], h, groups),
            _all_keys(k.shape[1], h, groups),
            pl.BlockSpec((None, k.shape[1]), lambda i, b, n: (b, 0)),
            _queries_of_tile(h),
            _numbers_of_tile(),
            _numbers_of_tile(),
        ],
        out_specs=_queries_of_tile(h),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="attention_backward_queries",
    )(q, k, v, bias, gradient, norm, product)


def _backward_keys(q, k, v, bias, gradient, norm, product, softcap, interpret):
    """The gradients for keys and values, a tile of them at a time, over all heads that read it."""
    b, t, n, h = q.shape
    groups, tiles = n // k.shape[2], t // QUERIES

    def kernel(q_ref, k_ref, v_ref, bias_ref, gradient_ref, norm_ref, product_ref, *of_refs):
        columns = jnp.arange(k_ref.shape[-1])[None] < h
        keys, values, masked = _load(k_ref, columns), _load(v_ref, columns), bias_ref[...]

        def body(i, carry):
            of_k, of_v = carry
            head = jax.lax.div(i, tiles)
            part = pl.ds((i - head * tiles) * QUERIES, QUERIES)
            queries = _load(q_ref.at[part, head], columns)
            of_out = _load(gradient_ref.at[part, head], columns)
            norms, products = norm_ref[head, part], product_ref[head, part]
            logits, slope = _logits(queries, keys, h, softcap)
            weights = jnp.exp(logits + masked[None] - norms[:, None])
            of_v += _dot(weights.astype(of_out.dtype).T, of_out)
            of_logits = weights * (_dot(of_out, values.T) - products[:, None]) * slope
            return of_k + _dot(of_logits.astype(queries.dtype).T, queries), of_v

        zero = jnp.zeros(keys.shape, jnp.float32)
        of_k, of_v = jax.lax.fori_loop(0, groups * tiles, body, (zero, zero))
        _store(of_refs[0], of_k * h**-0.5, columns)
        _store(of_refs[1], of_v, columns)

    padded = pl.next_power_of_2(h)
    of_tile = pl.BlockSpec((None, KEYS, None, padded), lambda i, b, n: (b, i, n, 0))
    of_heads = pl.BlockSpec((None, t, groups, padded), lambda i, b, n: (b, 0, n, 0))
    numbers = pl.BlockSpec((None, groups, t), lambda i, b, n: (b, n, 0))
    return pl.pallas_call(
        kernel,
        grid=(k.shape[1] // KEYS, b, k.shape[2]),
        in_specs=[
            *(of_heads, of_tile, of_tile),
            pl.BlockSpec((None, KEYS), lambda i, b, n: (b, i)),
            *(of_heads, numbers, numbers),
        ],
        out_specs=[of_tile, of_tile],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)],
        compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=1),
        interpret=interpret,
        name="attention_backward_keys",
    )(q, k, v, bias, gradient, norm, product)


def _logits(queries, keys, h: int, softcap: float | None):
    """Logits of a tile, float32, and their derivative by what the cap was put on."""
    logits = _dot(queries, keys.T) * h**-0.5
    if softcap is None:
        return logits, 1.0
    bent = jnp.tanh(logits / softcap)
    return softcap * bent, 1.0 - bent * bent


def _dot(a, b):
    """Matrix product with float32 sums; float32 arrays in full precision."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=precision)


def _load(ref, columns):
    """A tile; heads are padded to a power of two, whose end is not there."""
    return plgpu.load(ref, mask=jnp.broadcast_to(columns, ref.shape), other=0.0)


def _store(ref, value, columns) -> None:
    plgpu.store(ref, value.astype(ref.dtype), mask=jnp.broadcast_to(columns, value.shape))


def _queries_of_tile(h: int) -> pl.BlockSpec:
    padded = pl.next_power_of_2(h)
    return pl.BlockSpec((None, QUERIES, None, padded), lambda i, b, n: (b, i, n, 0))


def _numbers_of_tile() -> pl.BlockSpec:
    return pl.BlockSpec((None, None, QUERIES), lambda i, b, n: (b, n, i))


def _all_keys(s: int, h: int, groups: int) -> pl.BlockSpec:
    padded = pl.next_power_of_2(h)
    return pl.BlockSpec((None, s, None, padded), lambda i, b, n: (b, 0, n // groups, 0))


def _whole_tiles(x: Array, tile: int) -> Array:
    """Zeros, or False, at the end of axis 1."""
    missing = -x.shape[1] % tile
    return jnp.pad(x, [(0, missing if axis == 1 else 0) for axis in range(x.ndim)])
