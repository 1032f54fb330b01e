"""Adapters: nothing at first, low rank after, and apart from the network's own parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from onediff_jax.models.lora import LoRA, LoRALinear, add_lora, join, merged, split_lora
from onediff_jax.models.nextdit import NextDiT, NextDiTConfig

CONFIG = NextDiTConfig(48, 2, 2, 1, 16, caption_channels=8)
LORA = LoRA(3, 6.0, ("wq", "wv_y", "w2"))


def network(lora=None, dtype=jnp.float32):
    module = NextDiT(CONFIG, rngs=nnx.Rngs(0), dtype=dtype)
    if lora:
        add_lora(module.layers, lora, rngs=nnx.Rngs(1))
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
    np.testing.assert_array_equal(call(plain, params), call(adapted, join(adapters, params)))


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


def test_merged_is_what_the_adapters_do():
    plain, own = network()
    adapted, with_lora = network(LORA)
    adapters, own = noisy(split_lora(with_lora)[0]), noisy(own, 1)
    found = call(adapted, join(adapters, own))
    for module, name in (("attention", "wq"), ("attention", "wv_y"), ("feed_forward", "w2")):
        leaf = own["layers"][module][name]
        a, b = (adapters["layers"][module][name][key] for key in ("lora_a", "lora_b"))
        leaf["kernel"] = merged(leaf["kernel"], a, b, LORA.scale)
    np.testing.assert_allclose(found, call(plain, own), atol=2e-5, rtol=0)
    assert LORA.scale == 2.0


def test_a_linear_map_in_its_compute_dtype():
    linear = nnx.Linear(6, 4, use_bias=False, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    adapted = LoRALinear(linear, LORA, rngs=nnx.Rngs(1))
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
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LoRA(*options)
