"""The former name of run/state.py, kept for tools that import it."""

from onediff_jax.run.state import *  # noqa: F403
