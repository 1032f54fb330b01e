"""The small parts of Next-DiT: norms, feed-forward, adaLN, timestep and text embeddings."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

xavier = nnx.initializers.xavier_uniform()
_FREQUENCIES = 128  # cosines and as many sines in the timestep embedding


@jax.custom_vjp
def product(x: Float[Array, "*b d"], weight: Float[Array, "d o"]) -> Float[Array, "*b o"]:
    """x · weight, whose gradient for the weight is written as xᵀ · g.

    jax would write (gᵀ · x)ᵀ, for which XLA transposes g in memory on CPUs: a train step of 14 M
    parameters takes 1.16× the time with it.
    """
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (0,)), ((), ())))


def _product_forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, weight), (x, weight)


def _product_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, weight = kept
    rows = tuple(range(x.ndim - 1))
    of_x = jax.lax.dot_general(g, weight, (((g.ndim - 1,), (1,)), ((), ())))
    return of_x, jax.lax.dot_general(x, g, ((rows, rows), ((), ())))


product.defvjp(_product_forward, _product_backward)


class Matrix(nnx.Linear):
    """A projection without bias."""

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
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

    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs, dtype: jnp.dtype):
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
        dtype: jnp.dtype,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
    ):
        self.linear = nnx.Linear(
            dim, out, kernel_init=xavier, bias_init=bias_init, rngs=rngs, dtype=dtype
        )

    def __call__(self, cond: Float[Array, "*b d"]) -> Float[Array, "*b o"]:
        return self.linear(jax.nn.silu(cond))


def open_gates(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
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
