"""Analytic FLOPs: what a trace multiplies."""

import jax
import jax.numpy as jnp
import pytest

from onediff_jax.scaling.flops import Flops, matmul_flops, model_flops
from tests.experiments import get_config, shrunken


def test_scans_count_as_often_as_they_run():
    def chain(x, w):
        return jax.lax.scan(lambda x, _: (jax.nn.relu(x @ w), None), x, length=5)[0] @ w

    jaxpr = jax.make_jaxpr(jax.jit(chain))(jnp.zeros((3, 7)), jnp.zeros((7, 7)))
    assert matmul_flops(jaxpr) == Flops(dense=6 * 2 * 3 * 7 * 7, attention=0)


def test_products_of_activations_are_apart():
    def logits(x, w):
        return jnp.einsum("btd,bsd->bts", x @ w, x)

    found = matmul_flops(jax.make_jaxpr(logits)(jnp.zeros((2, 5, 3)), jnp.zeros((3, 3))))
    assert found == Flops(dense=2 * 2 * 5 * 3 * 3, attention=2 * 2 * 5 * 5 * 3)
    assert (found * 2).total == 2 * (180 + 300)


def test_released_shape():
    """TFLOP per sample of 1024 tokens and 300 words: by hand from the layers, three passes."""
    config = get_config("2b8")
    config.update(rows=(("t2i", 1, 1, 1024),))
    config.train.batch_rows = 1
    found = model_flops(config)
    width, kv, hidden, text, words, tokens = 3840, 960, 10240, 2048, 300, 1024
    layer = tokens * (2 * width * (width + kv) + 3 * width * hidden) + words * 2 * text * kv
    layer += 1024 * 4 * width  # adaLN, once per frame
    assert found.dense == pytest.approx(16 * 3 * 2 * layer, rel=1e-3)  # the rest is embedders
    assert found.attention == 16 * 3 * 2 * 2 * tokens * (tokens + words) * width


def test_accumulated_rows_count():
    one, two = (model_flops(shrunken(train__accumulate=n)) for n in (1, 2))
    assert two.total == pytest.approx(2 * one.total, rel=0.01)
