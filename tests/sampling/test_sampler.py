"""Sampling in rows: packing, and results that depend on the request alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.layout import Slot
from onediff_jax.flow.sampler import denoise
from onediff_jax.sampling.request import request_of_example
from onediff_jax.sampling.sampler import Sampler, pack
from tests.experiments import experiment, random_params

STEPS, GUIDANCE = 3, 2.0


@functools.cache
def sampler() -> Sampler:
    return Sampler(experiment(), rows=2, steps=STEPS, guidance=GUIDANCE)


def example(task: str, frames: int, generate: tuple, seed: int, side: int = 4) -> tuple:
    """A bundle of random latents, and which of its frames are generated."""
    rng = np.random.default_rng(100 + seed)
    latents = tuple(rng.normal(size=(side, 4, 16)).astype(np.float16) for _ in range(frames))
    return Encoded(task, f"[[{task}]] a red cube number {seed}", latents), generate


EXAMPLES = (
    example("text2image", 1, (True,), 0),
    example("depth2image", 2, (True, False), 1),
    example("depth2image", 2, (False, True), 2),
    example("faceid", 3, (True, False, False), 3),
    example("multiview", 4, (False, False, True, False), 4),
    example("text2image", 1, (True,), 5, side=2),  # smaller than the slot
)
BUNDLES = [bundle for bundle, _ in EXAMPLES]
REQUESTS = [
    request_of_example(bundle.task, bundle, generate, seed)
    for seed, (bundle, generate) in enumerate(EXAMPLES)
]


@functools.cache
def generated() -> list:
    return sampler()(random_params(), REQUESTS)


@pytest.mark.parametrize("index", [0, 1, 3, 5])
def test_equals_denoise(index):
    """A request in a row gives what the plain sampler gives for the bundle alone."""
    bundle, generate = EXAMPLES[index]
    frames = np.stack(bundle.frames)[None].astype(np.float32)
    rng = np.random.default_rng(index)
    noise = np.stack([rng.standard_normal(f.shape, np.float32) for f in bundle.frames])[None]
    text = experiment().text_encoder([bundle.prompt])
    null = experiment().text_encoder([""])
    model = nnx.merge(experiment().graphdef, random_params())
    options = {"num_steps": STEPS, "guidance": GUIDANCE}

    @jax.jit
    def alone(noise, frames):
        return denoise(model, noise, frames, generate, *text, *null, **options)

    want = alone(noise, frames)
    np.testing.assert_allclose(np.stack(generated()[index]), want[0], atol=1e-4)
    assert np.abs(want[0] - noise[0])[np.array(generate)].max() > 0.1  # it did something


def test_given_frames_come_back():
    for (bundle, generate), frames in zip(EXAMPLES, generated(), strict=True):
        for frame, given, wanted in zip(frames, bundle.frames, generate, strict=True):
            assert frame.shape == given.shape and np.isfinite(frame).all()
            if not wanted:
                np.testing.assert_array_equal(frame, given)


def test_neighbours_do_not_matter():
    """Alone, in another order, repeated: the same numbers."""
    alone = sampler()(random_params(), [REQUESTS[3]])
    np.testing.assert_allclose(alone[0], generated()[3], atol=1e-5)
    backwards = sampler()(random_params(), REQUESTS[::-1])
    for found, want in zip(backwards[::-1], generated(), strict=True):
        np.testing.assert_allclose(found, want, atol=1e-5)


def test_watching_changes_nothing_and_shows_what_is_coming():
    seen = []
    watched = sampler()(
        random_params(), REQUESTS[:1], watch=lambda *told: seen.append(told), watch_every=2
    )
    np.testing.assert_allclose(watched[0][0], generated()[0][0], atol=1e-4)
    assert [step for step, _ in seen] == [2, STEPS]
    np.testing.assert_array_equal(seen[-1][1][0][0], watched[0][0])
    early = seen[0][1][0][0]
    noise = np.random.default_rng(0).standard_normal(early.shape, np.float32)
    assert np.abs(early - watched[0][0]).max() < np.abs(noise - watched[0][0]).max()


def test_seed_matters():
    other = dataclasses.replace(REQUESTS[0], seed=9)
    found = sampler()(random_params(), [other])[0][0]
    assert np.abs(found - generated()[0][0]).max() > 0.1


SLOTS = (Slot("t2i", 1, 4), Slot("i2i", 2, 4), Slot("i2i", 2, 4), Slot("multiview", 4, 4))


def test_packing():
    """Every request once, each in a slot that holds it; largest first."""
    rows = pack(BUNDLES, SLOTS)
    placed = [(index, slot) for row in rows for slot, index in enumerate(row) if index is not None]
    assert sorted(index for index, _ in placed) == list(range(len(REQUESTS)))
    for index, slot in placed:
        frames = BUNDLES[index].frames
        assert len(frames) <= SLOTS[slot].frames
    assert rows[0][3] == 4  # the four-frame bundle
    assert all(len(row) == len(SLOTS) for row in rows)


def test_packing_is_tight():
    many = [BUNDLES[0]] * 8
    assert len(pack(many, SLOTS)) == 2  # a single frame fits every slot
    assert pack([], SLOTS) == []


def test_what_fits_nowhere():
    with pytest.raises(ValueError, match="faceid bundle of 5 frames × 4 tokens fits no slot"):
        pack([example("faceid", 5, (True,) + (False,) * 4, 0)[0]], SLOTS)
    with pytest.raises(ValueError, match="text2image bundle of 1 frames × 8 tokens fits no slot"):
        pack([example("text2image", 1, (True,), 0, side=8)[0]], SLOTS)


@pytest.mark.parametrize("rows, steps", [(0, 3), (2, -1)])
def test_bad_sizes(rows, steps):
    with pytest.raises(ValueError, match=f"rows={rows} and steps={steps} must be positive"):
        Sampler(experiment(), rows=rows, steps=steps)


def test_latents_are_float32():
    assert {frame.dtype for frames in generated() for frame in frames} == {jnp.dtype("float32")}
