"""The blocks of the KL autoencoder, channels last: axes b, y, x, c.

Attributes carry diffusers' names, so that a parameter's path is its name in the file.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from onediff_jax.models import loading

_EPS = 1e-6  # of every group norm
# Weights always come from a file. Zeros keep the shapes cheap to trace.
_INIT = nnx.initializers.zeros_init()
_QUERIES = 1024  # attention rows computed together: bounds the logits of a large image


class GroupNorm(nnx.GroupNorm):
    """Group norm in float32 whatever the compute dtype, with the exact (two-pass) variance."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
        super().__init__(
            channels, groups, epsilon=_EPS, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
        )


class Conv(nnx.Conv):
    """Square convolution with zero padding that keeps the size (times 1/stride)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        size: int,
        *,
        stride: int = 1,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        # A strided convolution pads below and right only, as the original does.
        pad = (0, 1) if stride == 2 else (size // 2, size // 2)
        super().__init__(
            c_in,
            c_out,
            (size, size),
            strides=stride,
            padding=(pad, pad),
            dtype=dtype,
            param_dtype=dtype,
            kernel_init=_INIT,
            precision=loading.matmul_precision(dtype),
            rngs=rngs,
        )


class Resnet(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))): (b, y, x, c_in) → (b, y, x, c_out) float32.

    The sums are float32 in bfloat16 too: a fifth less error, and the convolutions cast their input.
    """

    def __init__(self, c_in: int, c_out: int, groups: int, *, dtype, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(c_in, groups, rngs=rngs)
        self.conv1 = Conv(c_in, c_out, 3, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(c_out, groups, rngs=rngs)
        self.conv2 = Conv(c_out, c_out, 3, dtype=dtype, rngs=rngs)
        if c_in != c_out:
            self.conv_shortcut = Conv(c_in, c_out, 1, dtype=dtype, rngs=rngs)
        self.shortcut = c_in != c_out

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(nnx.silu(self.norm1(x)))
        y = self.conv2(nnx.silu(self.norm2(y)))
        x = self.conv_shortcut(x) if self.shortcut else x
        return x.astype(jnp.float32) + y


class Attention(nnx.Module):
    """One head over all positions, with its residual: (b, y, x, c) → (b, y, x, c)."""

    def __init__(self, channels: int, groups: int, *, dtype, rngs: nnx.Rngs):
        def linear():
            return nnx.Linear(
                channels,
                channels,
                dtype=dtype,
                param_dtype=dtype,
                kernel_init=_INIT,
                precision=loading.matmul_precision(dtype),
                rngs=rngs,
            )

        self.group_norm = GroupNorm(channels, groups, rngs=rngs)
        self.to_q, self.to_k, self.to_v = linear(), linear(), linear()
        self.to_out = nnx.List([linear()])
        self.precision = loading.matmul_precision(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        b, height, width, c = x.shape
        tokens = self.group_norm(x).reshape(b, height * width, c)
        q, k, v = self.to_q(tokens) * c**-0.5, self.to_k(tokens), self.to_v(tokens)

        def attend(q: jax.Array) -> jax.Array:  # one position of every image: (b, c) → (b, c)
            logits = jnp.einsum(
                "bc,bsc->bs", q, k, precision=self.precision, preferred_element_type=jnp.float32
            )
            weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
            return jnp.einsum("bs,bsc->bc", weights, v, precision=self.precision)

        q = q.swapaxes(0, 1)
        out = (
            jax.vmap(attend)(q)
            if len(q) <= _QUERIES
            else jax.lax.map(attend, q, batch_size=_QUERIES)
        )
        return x + self.to_out[0](out.swapaxes(0, 1)).reshape(x.shape)


class Sampler(nnx.Module):
    """Half (strided convolution) or twice (nearest, then convolution) the size."""

    def __init__(self, channels: int, *, up: bool, dtype, rngs: nnx.Rngs):
        self.up = up
        self.conv = Conv(channels, channels, 3, stride=1 if up else 2, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x.repeat(2, axis=1).repeat(2, axis=2) if self.up else x)


class Level(nnx.Module):
    """`layers` residual blocks at one resolution, then a change of resolution unless it is last."""

    def __init__(
        self, c_in: int, c_out: int, layers: int, groups: int, *, up, last, dtype, rngs: nnx.Rngs
    ):
        self.resnets = nnx.List(
            [
                Resnet(c_in if i == 0 else c_out, c_out, groups, dtype=dtype, rngs=rngs)
                for i in range(layers)
            ]
        )
        samplers = [] if last else [Sampler(c_out, up=up, dtype=dtype, rngs=rngs)]
        self.up = up
        if up:
            self.upsamplers = nnx.List(samplers)
        else:
            self.downsamplers = nnx.List(samplers)

    def __call__(self, x: jax.Array) -> jax.Array:
        for resnet in self.resnets:
            x = resnet(x)
        for sampler in self.upsamplers if self.up else self.downsamplers:
            x = sampler(x)
        return x


class Middle(nnx.Module):
    """Residual block, attention over the whole image (if asked), residual block."""

    def __init__(self, channels: int, groups: int, *, attention: bool, dtype, rngs: nnx.Rngs):
        self.resnets = nnx.List(
            [Resnet(channels, channels, groups, dtype=dtype, rngs=rngs) for _ in "01"]
        )
        self.attentions = nnx.List(
            [Attention(channels, groups, dtype=dtype, rngs=rngs)] if attention else []
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Coder(nnx.Module):
    """The encoder (levels, then the middle) or, with `up`, the decoder (middle, then levels)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        channels: tuple[int, ...],
        layers: int,
        groups: int,
        *,
        up: bool,
        attention: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        widths = [channels[0], *channels]
        self.up = up
        self.conv_in = Conv(c_in, widths[0], 3, **kw)
        levels = [
            Level(widths[i], widths[i + 1], layers, groups, up=up, last=i + 2 == len(widths), **kw)
            for i in range(len(channels))
        ]
        if up:
            self.up_blocks = nnx.List(levels)
        else:
            self.down_blocks = nnx.List(levels)
        middle = widths[0] if up else widths[-1]
        self.mid_block = Middle(middle, groups, attention=attention, **kw)
        self.conv_norm_out = GroupNorm(widths[-1], groups, rngs=rngs)
        self.conv_out = Conv(widths[-1], c_out, 3, **kw)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv_in(x)
        if self.up:
            x = self.mid_block(x)
        for level in self.up_blocks if self.up else self.down_blocks:
            x = level(x)
        if not self.up:
            x = self.mid_block(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(x)))
