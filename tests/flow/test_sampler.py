"""Whole denoising loops against the released pipeline, and their properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onediff_jax.flow.sampler import denoise, euler, euler_step, guided
from tests.models.golden import load_case, load_model
from tests.typed import refused

CASES = {"a_mask10": [1, 0], "c_mask100": [1, 0, 0], "d_t2i": [1]}


@functools.cache
def model():
    return load_model("nextdit_tiny")


def arguments(case: str) -> tuple:
    """The arguments of `denoise` for a golden case, and what should come out."""
    mask = CASES[case]
    arrays = load_case("sampler.npz", case)
    noise = arrays["init_latents"]
    conditions = np.full_like(noise, np.nan)  # generated frames' content is ignored
    if not all(mask):
        conditions[:, np.flatnonzero(np.equal(mask, 0))] = arrays["cond_latents"]
        noise = noise.copy()
        noise[:, np.flatnonzero(np.equal(mask, 0))] = np.nan  # and given frames have no noise
    text = [arrays[k] for k in ("cond_embeds", "cond_mask", "uncond_embeds", "uncond_mask")]
    text[1::2] = [mask.astype(bool) for mask in text[1::2]]
    return (noise, conditions, mask, *text), arrays


@pytest.mark.parametrize("case, atol", [("a_mask10", 1e-4), ("c_mask100", 1e-4), ("d_t2i", 5e-4)])
def test_agrees_with_the_released_pipeline(case, atol):
    (noise, conditions, mask, *text), arrays = arguments(case)
    network = model()
    run = jax.jit(lambda *a: denoise(network, a[0], a[1], mask, *a[2:], num_steps=8, guidance=3.0))
    found = run(noise, conditions, *text)
    np.testing.assert_allclose(found, arrays["final_latents"], atol=atol)
    given = np.flatnonzero(np.equal(mask, 0))
    np.testing.assert_array_equal(found[:, given], conditions[:, given])


def test_what_the_network_is_told():
    """Given frames get the last timestep of the schedule at every step, not 0."""
    (noise, conditions, mask, *text), arrays = arguments("c_mask100")
    told = []

    def velocity(latents, timesteps, text, mask):
        jax.debug.callback(lambda t: told.append(np.asarray(t)), timesteps, ordered=True)
        return jnp.zeros_like(latents)

    out = denoise(velocity, noise, conditions, mask, *text, num_steps=8, guidance=3.0)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(told) == 8
    np.testing.assert_allclose(told[0], arrays["model_timesteps_step0"], atol=1e-3)
    np.testing.assert_allclose(told[3], arrays["model_timesteps_step3"], atol=1e-3)


def test_progress_gives_the_same():
    args, arrays = arguments("a_mask10")
    seen = []

    def progress(steps):
        for step in steps:
            seen.append(step)
            yield step

    found = denoise(model(), *args, num_steps=8, guidance=3.0, progress=progress)
    assert seen == list(range(8))
    np.testing.assert_allclose(found, arrays["final_latents"], atol=1e-4)


def linear(latents, timesteps, text, mask):
    """A velocity that depends on the text: its mean, everywhere."""
    level = (text * mask[..., None]).sum((1, 2)) / mask.sum(1)
    return jnp.broadcast_to(level[:, None, None, None, None], latents.shape)


@pytest.mark.parametrize("guidance, want", [(1.0, 2.0), (0.0, 2.0), (3.0, 4.0)])
def test_guidance(guidance, want):
    """v0 + g (v1 − v0) with v0 = 1, v1 = 2; off at 1 and below."""
    one, mask = jnp.ones((1, 2, 1)), jnp.ones((1, 2))
    velocity = guided(linear, (2 * one, mask), (one, mask), guidance)
    out = velocity(jnp.zeros((1, 1, 2, 2, 4)), jnp.zeros((1, 1)))
    np.testing.assert_allclose(out, want)


def test_straight_paths_are_exact():
    """With the true velocity ε − x any number of steps ends at x; given frames stay."""
    data, noise = jax.random.normal(jax.random.key(0), (2, 1, 3, 4, 4, 16))
    generate = jnp.array([[True, False, True]])
    sigmas = jnp.array([1.0, 0.6, 0.1, 0.0])[:, None, None].repeat(3, 2)

    def expand(a):
        return a[:, :, None, None, None]

    start = jnp.where(expand(generate), noise, data)
    out = euler(
        euler_step(lambda x, t: noise - data, data, generate, sigmas[-2], expand), start, sigmas
    )
    np.testing.assert_allclose(out, data, atol=1e-5)
    np.testing.assert_array_equal(out[:, 1], data[:, 1])


@pytest.mark.parametrize(
    "mask, conditions, message",
    [
        ([1], (1, 2, 4, 4, 16), "denoise_mask of 1 must agree in frames"),
        ([1, 0], (1, 1, 4, 4, 16), "must agree in frames"),
        ([0, 0], (1, 2, 4, 4, 16), "selects no frame to generate"),
    ],
)
def test_errors(mask, conditions, message):
    text = [np.zeros((1, 3, 48)), np.ones((1, 3), bool)] * 2
    noise = np.zeros((1, 2, 4, 4, 16))
    with refused(message):
        denoise(linear, noise, np.zeros(conditions), mask, *text, num_steps=2, guidance=1.0)


@pytest.mark.parametrize("compiled", [True, False])
def test_progress_changes_nothing_and_traces_the_model_once(compiled):
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.standard_normal((16, 16)), jnp.float32)
    traces = []

    def network(weights, latents, timesteps, text, mask):
        traces.append(latents.shape)
        return jnp.tanh(latents @ weights) * timesteps[:, :, None, None, None] / 1000 + text.mean()

    model = functools.partial(jax.jit(network) if compiled else network, weights)
    noise, given = rng.standard_normal((2, 1, 2, 4, 4, 16)).astype(np.float32)
    text, mask = np.ones((1, 3, 8), np.float32), np.ones((1, 3), bool)
    inputs = (noise, given, [1, 0], text, mask, 0 * text, mask)
    seen = []

    def progress(steps):
        for step in steps:
            seen.append(step)
            yield step

    shown = denoise(model, *inputs, num_steps=5, guidance=3.0, progress=progress)
    assert seen == [0, 1, 2, 3, 4] and len(traces) == 1
    plain = denoise(model, *inputs, num_steps=5, guidance=3.0)
    np.testing.assert_allclose(shown, plain, atol=1e-5)
    np.testing.assert_array_equal(shown[:, 1], given[:, 1])
