"""What checks at every call, in the tests alone, the shapes and dtypes that signatures promise.

Numpy's arrays are arrays, as for jax's own functions, and ints are floats (PEP 484).
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import jax
import jaxtyping
import numpy as np
import pytest
from beartype import BeartypeConf, beartype

PACKAGES = ["onediff_jax.flow", "onediff_jax.models"]
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """For what the package itself says of arguments that do not fit."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def refused(message: str) -> AbstractContextManager:
    """A ValueError with this message, where the checks here would speak first."""
    both = contextlib.ExitStack()
    both.enter_context(unchecked())
    both.enter_context(pytest.raises(ValueError, match=message))
    return both


def install() -> None:
    """Before any of these is imported."""
    jaxtyping.Array = jax.Array | np.ndarray | np.generic
    jaxtyping.install_import_hook(PACKAGES, f"{__name__}.checked")
