"""Noise levels for training, drawn independently for every frame."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

DISTRIBUTIONS = ("logit_normal", "uniform")


@dataclasses.dataclass(frozen=True)
class TimeSampling:
    """How σ is drawn: logit-normal(mean, std) or uniform, then shifted towards noise.

    The paper's choice (section 4.1) is logit-normal(0, 1) with shift 3. Ray maps can have a choice
    of their own: six numbers fill a whole map, so even a noisy one gives itself away, and what the
    pictures tell is needed only near σ = 1. With `ray_shift` their σ is uniform and then shifted by
    it, which spends half of the time there and some everywhere; None: drawn as pictures' are.
    """

    distribution: str = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 3.0
    ray_shift: float | None = None

    def __post_init__(self):
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"flow.distribution={self.distribution!r} must be one of {DISTRIBUTIONS}"
            )
        if self.std <= 0 or self.shift <= 0:
            raise ValueError(f"flow.std={self.std} and flow.shift={self.shift} must be positive")
        if self.ray_shift is not None and not self.ray_shift > 0:
            raise ValueError(f"flow.ray_shift={self.ray_shift} must be positive, or None")


def shift_sigmas(sigma: Float[Array, "*s"], shift: float) -> Float[Array, "*s"]:
    """σ' = s·σ / (1 + (s − 1)·σ): more of the time near noise for s > 1 (arXiv 2403.03206)."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def sample_sigmas(
    key: jax.Array,
    shape: tuple[int, ...],
    sampling: TimeSampling,
    rays: Bool[np.ndarray, " f"] | None = None,
) -> Float[Array, "*s"]:
    """Independent σ in 0..1, float32, of the given shape; `rays`: ray maps along its last axis."""
    normal = jax.random.normal(key, shape)
    uniform = jax.scipy.stats.norm.cdf(normal)
    if sampling.distribution == "uniform":
        sigma = uniform
    else:
        sigma = jax.nn.sigmoid(sampling.mean + sampling.std * normal)
    sigma = shift_sigmas(sigma, sampling.shift)
    if rays is None or sampling.ray_shift is None:
        return sigma
    return jnp.where(rays, shift_sigmas(uniform, sampling.ray_shift), sigma)
