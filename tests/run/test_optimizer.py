"""Learning-rate schedules, weight-decay mask, clipping, EMA: exact numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from onediff_jax.experiment.fields_training import MOMENTS, STATE_BYTES
from onediff_jax.run.optimizer import (
    at_step,
    decay_mask,
    describe_longer,
    ema_decay,
    learning_rate,
    make_optimizer,
)
from onediff_jax.run.state import new_state

PARAMS = {
    "linear": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.ones(2), "weight": jnp.ones(2)},
    "gate": jnp.ones(3),
}


def settings(**changes) -> ConfigDict:
    values = {
        "learning_rate": 0.1,
        "schedule": "constant",
        "warmup_steps": 10,
        "end_factor": 0.1,
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }
    return ConfigDict(values | changes)


def test_more_steps_in_words():
    cosine = settings(schedule="cosine", warmup_steps=0)
    said = describe_longer(cosine, 100, 200, 100)
    assert said == (
        "train.steps grows from 100 to 200: at step 100 the learning rate (cosine) would be 0.01 "
        "and is 0.055; at step 200 it will be 0.01"
    )
    said = describe_longer(settings(), 100, 200, 60)
    assert said.endswith("(constant) stays 0.1; at step 200 it will be 0.1")


def test_warmup_never_is_zero():
    schedule = learning_rate(settings(), 110)
    np.testing.assert_allclose(
        [schedule(i) for i in (0, 4, 9, 10)], [0.01, 0.046, 0.091, 0.1], rtol=1e-5
    )


@pytest.mark.parametrize(
    "name, quarter, half, last",
    [
        ("constant", 0.1, 0.1, 0.1),
        ("linear", 0.0775, 0.055, 0.01),
        ("cosine", 0.1 * (0.1 + 0.9 * 0.85355), 0.055, 0.01),
        ("late_cosine", 0.1, 0.1, 0.01),
        ("wsd", 0.1, 0.1, 0.01),
        ("rsqrt", 0.1 * (10 / 35) ** 0.5, 0.1 * (10 / 60) ** 0.5, 0.1 * (10 / 110) ** 0.5),
    ],
)
def test_schedules(name, quarter, half, last):
    """At 1/4, 1/2 and the end of the 100 steps after the warm-up."""
    schedule = learning_rate(settings(schedule=name), 110)
    found = [schedule(i) for i in (35, 60, 110)]
    np.testing.assert_allclose(found, [quarter, half, last], rtol=1e-4)


def test_late_cosine_is_half_way_down_at_three_quarters():
    schedule = learning_rate(settings(schedule="late_cosine", warmup_steps=0), 100)
    np.testing.assert_allclose([schedule(0), schedule(75)], [0.1, 0.055], rtol=1e-4)


def test_wsd_falls_at_the_end():
    """In the last fifth of all steps, linearly."""
    schedule = learning_rate(settings(schedule="wsd"), 110)
    np.testing.assert_allclose(
        [schedule(88), schedule(99), schedule(110)], [0.1, 0.055, 0.01], rtol=1e-4
    )


def layers(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    normal = {"layers": {"wq": {"kernel": rng.normal(size=(2, 6, 4))}, "gate": rng.normal(size=3)}}
    normal["x_embedder"] = {"kernel": rng.normal(size=(5, 4))}
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), normal)


@pytest.mark.parametrize("name", STATE_BYTES)
def test_state_takes_the_bytes_that_the_docs_say(name):
    params = {"layers": {"wq": {"kernel": jnp.zeros((2, 200, 300))}}}
    for dtype, want in zip(MOMENTS, STATE_BYTES[name], strict=True):
        tx, _ = make_optimizer(settings(name=name, moments_dtype=dtype), 100)
        leaves = jax.tree.leaves(jax.eval_shape(lambda tx=tx: new_state(params, tx)))
        found = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 120_000
        assert found == pytest.approx(want, rel=0.01)


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", STATE_BYTES)
def test_every_optimizer_goes_down(name, moments):
    """f = ½·|p|²: its gradient is p; clipped, with the schedule at the step that is told."""
    tx, schedule = make_optimizer(
        settings(name=name, moments_dtype=moments, warmup_steps=0, learning_rate=0.02), 100
    )
    params = layers(0)
    state = tx.init(params)
    wide = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert (jnp.bfloat16 in wide) == (moments == "bfloat16" and name != "adafactor")
    start = optax.tree.norm(params)
    update = jax.jit(tx.update)
    for step in range(30):
        updates, state = update(params, at_step(state, jnp.int32(step)), params)
        params = optax.apply_updates(params, updates)
    assert optax.tree.norm(params) < 0.9 * start
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_muon_makes_the_layers_matrices_orthogonal():
    """Its first update of a matrix has singular values that are alike; the rest has AdamW's."""
    tx, _ = make_optimizer(settings(name="muon", warmup_steps=0, clip_norm=1e9), 100)
    adamw, _ = make_optimizer(settings(warmup_steps=0, clip_norm=1e9), 100)
    params, gradient = layers(0), layers(1)
    found, _ = tx.update(gradient, tx.init(params), params)
    want, _ = adamw.update(gradient, adamw.init(params), params)
    for matrix in np.asarray(found["layers"]["wq"]["kernel"]):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() / values.min() < 2
        assert 0.3 < np.sqrt(np.square(matrix).mean()) / (0.2 * 0.1) < 1.7  # a fifth of the rate
    for one, other in (
        (found["x_embedder"]["kernel"], want["x_embedder"]["kernel"]),
        (found["layers"]["gate"], want["layers"]["gate"]),
    ):
        ratio = np.asarray(one / other)  # Nesterov's momentum makes the first step longer
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)
        assert 1 <= ratio.flat[0] < 2


def test_only_matrices_decay():
    tx, _ = make_optimizer(settings(weight_decay=0.5, warmup_steps=0), 100)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["linear"]["kernel"], -0.1 * 0.5)
    rest = updates | {"linear": {"bias": updates["linear"]["bias"]}}
    assert not any(leaf.any() for leaf in jax.tree.leaves(rest))
    assert decay_mask(PARAMS)["linear"] == {"kernel": True, "bias": False}


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "sgd", "adafactor"])
def test_every_matrix_decays_whoever_updates_it(name):
    tx, _ = make_optimizer(settings(name=name, weight_decay=0.5, warmup_steps=0), 100)
    params = jax.tree.map(jnp.ones_like, layers(0))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    moved = jax.tree_util.tree_map_with_path(lambda path, leaf: bool((leaf < 0).all()), updates)
    assert moved == {
        "layers": {"wq": {"kernel": True}, "gate": False},
        "x_embedder": {"kernel": True},
    }


def test_gradients_are_clipped():
    """AdamW's first step is lr · sign(g), whatever the size; the second shows the clipping."""
    tx, _ = make_optimizer(settings(warmup_steps=0, b1=0.0, b2=0.0, eps=1.0), 100)
    params = {"kernel": jnp.zeros(4)}
    gradient = {"kernel": jnp.array([30.0, 40.0, 0.0, 0.0])}
    updates, _ = tx.update(gradient, tx.init(params), params)
    clipped = np.array([0.6, 0.8, 0, 0])
    np.testing.assert_allclose(updates["kernel"], -0.1 * clipped / (clipped + 1), rtol=1e-5)


def test_the_step_sets_the_schedule():
    """Also where fewer updates were made than steps; all else of the state stays."""
    tx, schedule = make_optimizer(settings(schedule="linear", warmup_steps=0, b1=0.0, b2=0.0), 100)
    params = {"kernel": jnp.zeros(1)}
    state = tx.init(params)
    moved = at_step(state, jnp.int32(60))
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    updates, _ = tx.update({"kernel": jnp.ones(1)}, moved, params)
    np.testing.assert_allclose(updates["kernel"], -schedule(60), rtol=1e-5)
    assert schedule(60) < 0.5 * schedule(0)


def test_ema_decay_warms_up():
    """The reference: power 2/3, at most 0.9999."""
    steps = jnp.array([0, 7, 26, 10**9])
    np.testing.assert_allclose(ema_decay(steps, 0.9999, 2 / 3), [0, 0.75, 8 / 9, 0.9999], rtol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schedule": "step"}, "optim.schedule='step' must be one of .*late_cosine"),
        ({"warmup_steps": 100}, r"optim.warmup_steps=100 must be in 0\.\.99, below train.steps"),
        ({"warmup_steps": -1}, "optim.warmup_steps=-1"),
        ({"learning_rate": -0.1}, "optim.learning_rate=-0.1 must be positive"),
        ({"clip_norm": 0.0}, "optim.clip_norm=0.0 must be positive"),
        ({"b2": 1.0}, r"optim.b2=1.0 must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "optim.weight_decay=-1.0"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(settings(**changes), 100)
