"""From a config to the parts of an experiment: `make_experiment`."""

from onediff_jax.experiment.build import Experiment, make_experiment

__all__ = ["Experiment", "make_experiment"]
