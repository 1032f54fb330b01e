"""The checks of the tests themselves: what signatures promise holds at every call."""

import jax.numpy as jnp
import jaxtyping
import pytest

from onediff_jax.models.layers import product
from tests.typed import unchecked


def test_shapes_of_signatures_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="weight"):
        product(jnp.ones((2, 3)), jnp.ones((4, 5)))
    with unchecked(), pytest.raises(TypeError, match="contracting dimensions"):
        product(jnp.ones((2, 3)), jnp.ones((4, 5)))
