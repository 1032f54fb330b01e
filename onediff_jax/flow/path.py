"""The straight path between data and noise (arXiv 2411.16318, section 3.1; arXiv 2209.03003)."""

import numpy as np
from jaxtyping import Array, Float

Arrays = Array | np.ndarray


def add_noise(
    data: Float[Arrays, "*s"], noise: Float[Arrays, "*s"], sigma: Float[Arrays, "..."] | float
) -> Float[Arrays, "*s"]:
    """x_σ = (1 − σ)·x + σ·ε; sigma broadcasts against the data."""
    return (1.0 - sigma) * data + sigma * noise


def velocity(data: Float[Arrays, "*s"], noise: Float[Arrays, "*s"]) -> Float[Arrays, "*s"]:
    """The regression target dx_σ/dσ = ε − x."""
    return noise - data
