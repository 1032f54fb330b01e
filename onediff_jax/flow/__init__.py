"""Rectified flow with one noise level per frame: times, path, loss, schedule, sampler.

The time convention, stated once: σ in 0..1, σ = 0 is data, σ = 1 is noise, x_σ = (1 − σ)·x + σ·ε,
the network predicts ε − x, and its timestep is t = 1000·σ. (The paper writes the reverse; the
released weights and diffusers use this one.)
"""

from onediff_jax.flow.path import add_noise, velocity
from onediff_jax.flow.sampler import denoise, euler
from onediff_jax.flow.schedule import euler_schedule
from onediff_jax.flow.times import TimeSampling, sample_sigmas

__all__ = [
    "TimeSampling",
    "add_noise",
    "denoise",
    "euler",
    "euler_schedule",
    "sample_sigmas",
    "velocity",
]
