"""The field's benchmarks in their official layouts: what they hold, and how files are scored."""

from onediff_jax.evaluation.benchmarks.registry import BENCHMARKS, open_benchmark

__all__ = ["BENCHMARKS", "open_benchmark"]
