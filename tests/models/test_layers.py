"""Products without bias: the same numbers and gradients as jax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from onediff_jax.models.layers import Matrix, operands, product


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_product_is_a_matrix_product(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x, g = (jax.random.normal(k, (2, 3, 4, n), dtype) for k, n in zip(keys, (6, 5), strict=False))
    weight = jax.random.normal(keys[2], (6, 5), dtype)
    found, of_found = jax.vjp(product, x, weight)
    want, of_want = jax.vjp(lambda x, w: x @ w, x, weight)
    rounding = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 0.02}
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(want, np.float32))
    for a, b in zip(of_found(g), of_want(g), strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        scale = float(jnp.abs(b).max())
        pair = (np.asarray(v, np.float32) / scale for v in (a, b))
        np.testing.assert_allclose(*pair, **rounding | {"atol": rounding["rtol"]})


def test_operands_are_rounded_and_sums_are_not():
    """Both factors, forward and backward, as if they had been bfloat16 from the start."""
    keys = jax.random.split(jax.random.key(1), 3)
    x, g = (jax.random.normal(k, (64, n)) for k, n in zip(keys, (96, 32), strict=False))
    weight = jax.random.normal(keys[2], (96, 32))
    with operands(jnp.bfloat16):
        found, of_found = jax.vjp(product, x, weight)
    rounded = [np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (x, weight, g)]
    wanted = rounded[0] @ rounded[1], rounded[2] @ rounded[1].T, rounded[0].T @ rounded[2]
    for a, b in zip((found, *of_found(g)), wanted, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(product(x, weight), x @ weight, rtol=1e-6)  # none outside


def test_matrix_computes_in_its_dtype_and_keeps_float32():
    matrix = Matrix(6, 5, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    assert matrix.kernel[...].dtype == jnp.float32 and matrix.bias is None
    assert matrix(jnp.ones((2, 6))).dtype == jnp.bfloat16
    gradient = nnx.grad(lambda m: m(jnp.ones((2, 6))).sum())(matrix)
    assert gradient.kernel[...].dtype == jnp.float32
