"""The colour detector is right about true pictures: what it says of others means something."""

import numpy as np
import pytest

from onediff_jax.data.codec import LightCodec, to_uint8
from onediff_jax.data.world import World
from onediff_jax.evaluation.scores.measures import jaccard
from onediff_jax.evaluation.scores.shown_colors import named


def test_named_colours_of_a_prompt():
    prompt = "[[text2image]] a shiny red cube, and a person in a White shirt on a brown floor"
    assert named(prompt) == {"red", "white"}
    assert named("a pink floor under a sunset sky") == set()


@pytest.fixture(scope="module")
def held_out():
    world = World(seed=0, level="simple")
    found = []
    for i in range(2**30, 2**30 + 100):
        scene = world.scene(i)
        caption = world.caption(scene, np.random.default_rng(i))
        found.append((named(caption), world.render(scene, 64, 64).image))
    return found


def test_true_pictures_show_what_captions_name(detector, held_out):
    scores = [jaccard(words, detector(image)) for words, image in held_out]
    assert np.mean(scores) >= 0.9


def test_the_codec_does_not_change_what_is_shown(detector, held_out):
    codec = LightCodec()
    again = [to_uint8(codec.decode(codec.encode(image))) for _, image in held_out]
    scores = [jaccard(w, detector(a)) for (w, _), a in zip(held_out, again, strict=True)]
    assert np.mean(scores) >= 0.85


def test_other_pictures_do_not(detector, held_out):
    shown = [detector(image) for _, image in held_out]
    scores = [jaccard(held_out[i][0], shown[i - 1]) for i in range(len(shown))]
    assert np.mean(scores) <= 0.25


def test_pictures_without_objects_show_little(detector):
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert detector(grey) == set()
    assert sum(detector.shares(grey).values()) == 0
