"""The small parts of Next-DiT: norms, feed-forward, adaLN, timestep and text embeddings."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

xavier = nnx.initializers.xavier_uniform()
_FREQUENCIES = 128  # cosines and as many sines in the timestep embedding


_OPERANDS: contextvars.ContextVar[DTypeLike | None] = contextvars.ContextVar(
    "operands", default=None
)


@contextlib.contextmanager
def operands(dtype: DTypeLike | None) -> Iterator[None]:
    """Products with weights that are traced inside round their operands to `dtype`.

    Sums and results keep the dtype of the activations; None rounds nothing.
    """
    token = _OPERANDS.set(dtype)
    try:
        yield
    finally:
        _OPERANDS.reset(token)


def product(x: Float[Array, "*b d"], weight: Float[Array, "d o"]) -> Float[Array, "*b o"]:
    """x · weight, both of one dtype; see `operands` for what they are rounded to.

    Its gradient for the weight is written as xᵀ · g. jax would write (gᵀ · x)ᵀ, for which XLA
    transposes g in memory on CPUs: a train step of 14 M parameters takes 1.16× the time with it.
    """
    return _product(x, weight, _OPERANDS.get() or x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, weight: Array, dtype: DTypeLike) -> Array:
    return _product_forward(x, weight, dtype)[0]


def _product_forward(
    x: Array, weight: Array, dtype: DTypeLike
) -> tuple[Array, tuple[Array, Array]]:
    kept = x.astype(dtype), weight.astype(dtype)
    return _dot(*kept, (x.ndim - 1,), (0,), x.dtype), kept


def _product_backward(dtype: DTypeLike, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, weight = kept
    result, g = g.dtype, g.astype(dtype)
    rows = tuple(range(x.ndim - 1))
    return _dot(g, weight, (g.ndim - 1,), (1,), result), _dot(x, g, rows, rows, result)


def _dot(
    a: Array, b: Array, of_a: tuple[int, ...], of_b: tuple[int, ...], result: DTypeLike
) -> Array:
    """The product over the named axes of both."""
    return jax.lax.dot_general(a, b, ((of_a, of_b), ((), ())), preferred_element_type=result)


_product.defvjp(_product_forward, _product_backward)


class Matrix(nnx.Linear):
    """A projection without bias."""

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        kernel_init: nnx.Initializer = xavier,
    ):
        super().__init__(
            *(dim, out), use_bias=False, rngs=rngs, dtype=dtype, kernel_init=kernel_init
        )

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b o"]:
        return product(x.astype(self.dtype), self.kernel[...].astype(self.dtype))


class RMSNorm(nnx.Module):
    """x / rms(x) in float32, cast back, times weight."""

    def __init__(self, dim: int, *, eps: float):
        self.eps = eps
        self.weight = nnx.Param(jnp.ones((dim,)))

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * self.weight[...].astype(x.dtype)


class FeedForward(nnx.Module):
    """w2(silu(w1·x) · w3·x); w2 starts at zero."""

    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        matrix = functools.partial(Matrix, rngs=rngs, dtype=dtype)
        self.w1 = matrix(dim, hidden)
        self.w3 = matrix(dim, hidden)
        self.w2 = matrix(hidden, dim, kernel_init=nnx.initializers.zeros)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return self.w2(jax.nn.silu(self.w1(x)) * self.w3(x))


class AdaLN(nnx.Module):
    """SiLU, then a projection to the modulation of one layer; `bias_init` sets where it starts."""

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
    ):
        self.linear = nnx.Linear(
            dim, out, kernel_init=xavier, bias_init=bias_init, rngs=rngs, dtype=dtype
        )

    def __call__(self, cond: Float[Array, "*b d"]) -> Float[Array, "*b o"]:
        return self.linear(jax.nn.silu(cond))


def open_gates(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Bias of (scale, gate, scale, gate): both gates start half open, tanh(0.5).

    Shut gates leave a fresh block almost without gradient; after 150 steps of the tiny preset the
    held-out loss is 6 % lower with them open.
    """
    width = shape[-1] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(0.5).at[3 * width :].set(0.5)


class TimestepEmbedding(nnx.Module):
    """[cos, sin] of t·10000^(−i/128), Linear, SiLU, Linear; t in 0..1000; float32 throughout."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.linear1 = nnx.Linear(2 * _FREQUENCIES, dim, kernel_init=init, rngs=rngs)
        self.linear2 = nnx.Linear(dim, dim, kernel_init=init, rngs=rngs)

    def __call__(self, timesteps: Float[Array, "*b"]) -> Float[Array, "*b d"]:
        powers = jnp.arange(_FREQUENCIES, dtype=jnp.float32) / _FREQUENCIES
        angles = timesteps.astype(jnp.float32)[..., None] * jnp.exp(-math.log(10000.0) * powers)
        embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return self.linear2(jax.nn.silu(self.linear1(embedding)))


class TextPool(nnx.Module):
    """Mean of the caption's tokens, LayerNorm, Linear; float32."""

    def __init__(self, channels: int, dim: int, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(channels, epsilon=1e-6, rngs=rngs)
        self.linear = nnx.Linear(channels, dim, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(
        self, text: Float[Array, "*b l d"], mask: Bool[Array, "*b l"]
    ) -> Float[Array, "*b o"]:
        weights = mask.astype(jnp.float32)[..., None]
        pooled = (text.astype(jnp.float32) * weights).sum(-2) / (weights.sum(-2) + 1e-8)
        return self.linear(self.norm(pooled))
