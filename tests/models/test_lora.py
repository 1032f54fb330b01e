"""Adapters: nothing at first, low rank after, and apart from the network's own parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from onediff_jax.models.lora import TARGETS, LoRA, LoRALinear, add_lora, join, merged, split_lora
from onediff_jax.models.nextdit import NextDiT, NextDiTConfig
from tests.typed import refused

CONFIG = NextDiTConfig(48, 2, 2, 1, 16, caption_channels=8)
LORA = LoRA(3, 6.0, ("wq", "wv_y", "w2"))
WIDE = LoRA(3, 6.0, ("wq", "w2", "y_embedder"), {"wq": 5}, dora=True)


def network(lora=None, dtype=jnp.float32):
    module = NextDiT(CONFIG, rngs=nnx.Rngs(0), dtype=dtype)
    if lora:
        add_lora(module, lora, rngs=nnx.Rngs(1))
    graphdef, state = nnx.split(module)
    return graphdef, nnx.to_pure_dict(state)


def noisy(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape, np.float32), params)


def call(graphdef, params):
    rng = np.random.default_rng(5)
    arrays = ((1, 2, 4, 6, 16), (1, 2), (1, 3, 8))
    latents, timesteps, text = (jnp.asarray(rng.random(s, np.float32)) for s in arrays)

    @jax.jit
    def run(params):
        mask = jnp.ones((1, 3), bool)
        return nnx.merge(graphdef, params)(latents, 1000 * timesteps, text, mask)

    return run(params)


def test_nothing_changes_at_first():
    plain, params = network()
    adapted, with_lora = network(LORA)
    adapters, own = split_lora(with_lora)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, params)
    params = noisy(params)
    found, want = call(adapted, join(adapters, params)), call(plain, params)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)  # two programs: rounding differs


def test_adapters_have_the_shapes_of_their_matrices():
    adapters, _ = split_lora(network(LORA)[1])
    assert jax.tree.map(jnp.shape, adapters) == {
        "layers": {
            "attention": {
                "wq": {"lora_a": (2, 48, 3), "lora_b": (2, 3, 48)},
                "wv_y": {"lora_a": (2, 8, 3), "lora_b": (2, 3, 24)},
            },
            "feed_forward": {"w2": {"lora_a": (2, 128, 3), "lora_b": (2, 3, 48)}},
        }
    }
    a = adapters["layers"]["attention"]["wq"]["lora_a"]
    assert 0.8 / 48**0.5 < jnp.abs(a).max() <= 1 / 48**0.5
    assert not jnp.array_equal(a[0], a[1])
    assert not adapters["layers"]["feed_forward"]["w2"]["lora_b"].any()


@pytest.mark.parametrize("lora", [LORA, WIDE])
def test_merged_is_what_the_adapters_do(lora):
    plain, own = network()
    adapted, with_lora = network(lora)
    adapters, own = noisy(split_lora(with_lora)[0]), noisy(own, 1)
    found = call(adapted, join(adapters, own))
    for target in lora.targets:
        leaf, adapter = own, adapters
        for key in TARGETS[target]:
            leaf, adapter = leaf[key], adapter[key]
        scale = lora.scale_of(TARGETS[target])
        leaf["kernel"] = merged(
            leaf["kernel"], adapter["lora_a"], adapter["lora_b"], scale, adapter.get("lora_m")
        )
    np.testing.assert_allclose(found, call(plain, own), atol=2e-5, rtol=0)


def test_ranks_by_pattern_and_scales():
    assert LORA.scale_of(TARGETS["wq"]) == 2.0
    assert WIDE.scale_of((*TARGETS["wq"], "kernel")) == 6.0 / 5
    adapters, _ = split_lora(network(WIDE)[1])
    assert jax.tree.map(jnp.shape, adapters["layers"]["attention"]["wq"]) == {
        **{"lora_a": (2, 48, 5), "lora_b": (2, 5, 48), "lora_m": (2, 48)}
    }
    assert jax.tree.map(jnp.shape, adapters["y_embedder"]["linear"]) == {
        **{"lora_a": (8, 3), "lora_b": (3, 48), "lora_m": (48,)}
    }


def test_columns_of_dora_have_the_length_they_are_told():
    rng = np.random.default_rng(0)
    kernel, a, b = (rng.standard_normal(s).astype(np.float32) for s in ((6, 4), (6, 2), (2, 4)))
    m = np.array([1, 2, 0.5, 0], np.float32)
    found = merged(kernel, a, b, 0.7, m)
    lengths = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), m * lengths, rtol=1e-5)
    plain = merged(kernel, a, b, 0.7)
    np.testing.assert_allclose(found[:, 1] / plain[:, 1], (found[:, 1] / plain[:, 1])[0], rtol=1e-4)


def test_a_linear_map_in_its_compute_dtype():
    linear = nnx.Linear(6, 4, use_bias=False, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    adapted = LoRALinear(linear, LORA, "wq", rngs=nnx.Rngs(1))
    x = jnp.asarray(np.random.default_rng(0).random((5, 6), np.float32))
    assert adapted(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(adapted(x), linear(x))


def test_join_is_the_inverse_of_split():
    _, params = network(LORA)
    adapters, own = split_lora(params)
    assert jax.tree.structure(join(adapters, own)) == jax.tree.structure(params)
    assert join(own, None) == own
    assert split_lora(own) == ({}, own)


@pytest.mark.parametrize(
    "options, message",
    [
        ((0, 1.0, ("wq",)), "lora.rank=0 must be positive"),
        ((1, -1.0, ("wq",)), "lora.alpha=-1.0 must be positive"),
        ((1, 1.0, ("wz",)), r"lora.targets=\('wz',\) must be some of \['wq', 'wk'"),
        ((1, 1.0, ()), r"lora.targets=\(\) must be"),
        ((1, 1.0, ("wq",), {"wk": 2}), r"lora.rank_pattern.wk=2: it must name one of lora.targets"),
        ((1, 1.0, ("wq",), {"wq": 2.5}), r"lora.rank_pattern.wq=2.5 must be a positive integer"),
    ],
)
def test_bad_options(options, message):
    with refused(message):
        LoRA(*options)
