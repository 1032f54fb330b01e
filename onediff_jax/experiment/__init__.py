"""From a config to the parts of an experiment: `make_experiment`.

Importing this package is cheap: jax loads with the first name that is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onediff_jax.experiment.build import Experiment, make_experiment

__all__ = ["Experiment", "make_experiment"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from onediff_jax.experiment import build

    return getattr(build, name)
