"""The former name of run/optimizer.py, kept for tools that import it."""

from onediff_jax.run.optimizer import *  # noqa: F403
