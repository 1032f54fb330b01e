"""Rotary position embedding in three dimensions: frame, row, column."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

THETA = 10000.0


def rope_angles(
    positions: Int[Array, "*b t 3"],
    head_dim: int,
    *,
    scale: float = 1.0,
    watershed: float | Float[Array, ""] = 1.0,
    max_timestep: Float[Array, ""] | None = None,
) -> Float[Array, "*b t h2"]:
    """Angles of the head_dim/2 pairs, float32: a third each for frame, row and column.

    Frequencies are θ^(−j/d), j = 0, 6, 12, …, d = head_dim. For larger pictures than trained on,
    `scale` stretches them: below `watershed` (compared with the largest timestep, 0..1000)
    positions are divided by it, above it θ is multiplied by it (Next-DiT's time-aware scaled RoPE).

    Raises ValueError when head_dim is not a multiple of 6.
    """
    if head_dim % 6:
        raise ValueError(f"{head_dim=} must be a multiple of 6: pairs split in thirds")
    exponents = jnp.arange(0, head_dim, 6, dtype=jnp.float32) / head_dim
    frequencies = THETA**-exponents
    if scale != 1.0:
        if max_timestep is None:
            raise ValueError(f"rope {scale=} needs the timesteps")
        stretched = (THETA * scale) ** -exponents
        frequencies = jnp.where(max_timestep < watershed, frequencies / scale, stretched)
    angles = positions.astype(jnp.float32)[..., None] * frequencies  # (…, t, 3, head_dim/6)
    return angles.reshape(*angles.shape[:-2], head_dim // 2)


def apply_rope(
    x: Float[Array, "*b t n h"], cos: Float[Array, "*#b t h2"], sin: Float[Array, "*#b t h2"]
) -> Float[Array, "*b t n h"]:
    """Rotates adjacent pairs (2i, 2i+1) of every head, in float32; returned in x's dtype."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def grid_positions(frames: int, height: int, width: int) -> Int[Array, "t 3"]:
    """(frame, row, column) of every token, frame-major, then row, then column."""
    axes = jnp.meshgrid(jnp.arange(frames), jnp.arange(height), jnp.arange(width), indexing="ij")
    return jnp.stack(axes, axis=-1).reshape(-1, 3)


def cos_sin(angles: Float[Array, "*b h2"]) -> tuple[Array, Array]:
    """Cosine and sine of the angles, computed once per forward pass and shared by all layers."""
    return jax.lax.cos(angles), jax.lax.sin(angles)
