"""The former name of run/train_step.py, kept for tools that import it."""

from onediff_jax.run.train_step import *  # noqa: F403
