"""Wrong conditions are wrong in one way only."""

import numpy as np
import pytest

from onediff_jax.data.bundle import encode_bundle
from onediff_jax.data.codec import LightCodec
from onediff_jax.data.world_bundles import WorldBundles
from onediff_jax.evaluation.scores.case import partners
from onediff_jax.evaluation.scores.wrong_given import WRONG_TURN, wrong_given
from onediff_jax.tasks.cameras import cameras_from_rays, rays_from_frames


def two(task, frames=4):
    source = WorldBundles(
        task, ((64, 64),), seed=0, level="simple", first=0, count=2, max_frames=frames
    )
    both = [source[i] for i in range(2)]
    return both, [encode_bundle(b, LightCodec()) for b in both]


@pytest.mark.parametrize("task, frames", [("depth2image", 2), ("faceid", 2), ("subject_driven", 2)])
def test_the_condition_is_another_scenes(task, frames):
    (bundle, _), (own, other) = two(task, frames)
    wrong = wrong_given(task, bundle, own, other)
    assert wrong.prompt == own.prompt
    assert wrong.frames[0] is own.frames[0] and wrong.frames[1] is other.frames[1]


def test_the_instruction_is_anothers():
    (bundle, _), (own, other) = two("image_editing")
    wrong = wrong_given("image_editing", bundle, own, other)
    assert wrong.prompt == other.prompt != own.prompt and wrong.frames is own.frames


@pytest.mark.parametrize("direction", ["text2image", "image2depth", "deblurring", "image2camera"])
def test_some_directions_have_none(direction):
    (bundle, _), (own, other) = two("depth2image")
    assert wrong_given(direction, bundle, own, other) is None


def test_the_ray_is_of_a_camera_turned_about_the_scene():
    (bundle, _), (own, other) = two("multiview")
    wrong = wrong_given("multiview", bundle, own, other)
    assert [w is o for w, o in zip(wrong.frames, own.frames, strict=True)] == [1, 0, 1, 0]
    known = bundle.truth["cameras"]
    right, turned = (
        cameras_from_rays(rays_from_frames(np.stack(e.frames[1::2]).astype(np.float64)), known)
        for e in (own, wrong)
    )
    np.testing.assert_allclose(turned.centres[0], right.centres[0], atol=5e-3)
    # Both stand on a circle about the axis: the chord of 120 degrees.
    orbit = bundle.truth["orbit"][1]
    radius = orbit.distance * np.cos(np.radians(orbit.elevation_deg))
    chord = 2 * radius * np.sin(np.radians(WRONG_TURN / 2))
    assert np.linalg.norm(turned.centres[1] - right.centres[1]) == pytest.approx(chord, rel=0.01)


def test_partners_share_the_key_and_are_others():
    assert partners(["a", "b", "a", "c", "a", "b"]) == [2, 5, 4, None, 0, 1]
