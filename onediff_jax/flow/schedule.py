"""The Euler schedule with a shift that depends on the resolution."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def euler_schedule(
    image_seq_len: float,
    num_steps: int,
    *,
    base_seq_len: int = 256,
    max_seq_len: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> tuple[Float[Array, " {num_steps}+1"], Float[Array, " {num_steps}"]]:
    """σ and timesteps of a denoising loop, as FlowMatchEulerDiscreteScheduler computes them.

    σ = linspace(1, 1/n, n); μ is linear in `image_seq_len` through (base_seq_len, base_shift) and
    (max_seq_len, max_shift); σ' = e^μ / (e^μ + 1/σ − 1); then 0 (arXiv 2403.03206, section 5.3.2).

    Args:
      image_seq_len: tokens of the generated frames only (times the noise scale, when not 1).
      num_steps: n, Euler steps.

    Returns:
      sigmas (n + 1,), from 1 to 0, and timesteps (n,) = 1000·sigmas[:-1]; float32.

    Raises ValueError when num_steps or image_seq_len is not positive.
    """
    if num_steps < 1 or image_seq_len <= 0:
        raise ValueError(f"{num_steps=} and {image_seq_len=} must be positive")
    slope = (max_shift - base_shift) / (max_seq_len - base_seq_len)
    mu = base_shift + slope * (image_seq_len - base_seq_len)
    sigma = np.linspace(1.0, 1.0 / num_steps, num_steps)
    sigma = math.exp(mu) / (math.exp(mu) + 1.0 / sigma - 1.0)
    sigmas = jnp.asarray(np.append(sigma, 0.0), jnp.float32)
    return sigmas, 1000.0 * sigmas[:-1]
