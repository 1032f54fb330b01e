"""Train OneDiffusion: one transformer for every image task, in JAX. See README.md for the map."""

__version__ = "0.2.0"
