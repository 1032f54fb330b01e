"""The straight path between data and noise (arXiv 2411.16318, section 3.1; arXiv 2209.03003)."""

from jaxtyping import Array, Float


def add_noise(
    data: Float[Array, "*s"], noise: Float[Array, "*s"], sigma: Float[Array, "..."]
) -> Float[Array, "*s"]:
    """x_σ = (1 − σ)·x + σ·ε; sigma broadcasts against the data."""
    return (1.0 - sigma) * data + sigma * noise


def velocity(data: Float[Array, "*s"], noise: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The regression target dx_σ/dσ = ε − x."""
    return noise - data
