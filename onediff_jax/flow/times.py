"""Noise levels for training, drawn independently for every frame."""

import dataclasses

import jax
from jaxtyping import Array, Float

DISTRIBUTIONS = ("logit_normal", "uniform")


@dataclasses.dataclass(frozen=True)
class TimeSampling:
    """How σ is drawn: logit-normal(mean, std) or uniform, then shifted towards noise.

    The paper's choice (section 4.1) is logit-normal(0, 1) with shift 3.
    """

    distribution: str = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 3.0

    def __post_init__(self):
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"flow.distribution={self.distribution!r} must be one of {DISTRIBUTIONS}"
            )
        if self.std <= 0 or self.shift <= 0:
            raise ValueError(f"flow.std={self.std} and flow.shift={self.shift} must be positive")


def shift_sigmas(sigma: Float[Array, "*s"], shift: float) -> Float[Array, "*s"]:
    """σ' = s·σ / (1 + (s − 1)·σ): more of the time near noise for s > 1 (arXiv 2403.03206)."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def sample_sigmas(
    key: jax.Array, shape: tuple[int, ...], sampling: TimeSampling
) -> Float[Array, "*s"]:
    """Independent σ in (0, 1), float32, of the given shape."""
    if sampling.distribution == "uniform":
        sigma = jax.random.uniform(key, shape)
    else:
        sigma = jax.nn.sigmoid(sampling.mean + sampling.std * jax.random.normal(key, shape))
    return shift_sigmas(sigma, sampling.shift)
