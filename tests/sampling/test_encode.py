"""Requests as latents: sizes, conditions made of pictures, what is kept, cameras."""

import dataclasses
import types

import numpy as np
import pytest

from onediff_jax.data.codec import LightCodec
from onediff_jax.sampling.encode import derived, encode, kept_pixels, trained_size
from onediff_jax.sampling.request import Request, derivable, make_plan
from onediff_jax.tasks.cameras import orbit_cameras
from onediff_jax.tasks.definitions import get_task


def test_sizes_are_the_trained_ones():
    experiment = types.SimpleNamespace(sizes={"t2i": ((64, 64),), "i2i": ((64, 64), (48, 80))})
    task = get_task("depth2image")
    for height, width, expected in ((90, 100, (64, 64)), (90, 160, (48, 80)), (90, 20, (64, 64))):
        assert trained_size(experiment, task, [np.zeros((height, width, 3))]) == expected
    assert trained_size(experiment, task, []) == (64, 64)


@pytest.mark.parametrize("name", derivable())
def test_conditions_are_made_from_ordinary_pictures(name):
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[:, 45:] = 255
    hole = None
    if name == "image_inpainting":
        hole = np.zeros((60, 90), bool)
        hole[:, 60:] = True
    request = Request(name, images=(picture,), from_image=True, mask=hole)
    (made,) = derived(request, make_plan(request).task, (64, 64))
    assert made.shape == (64, 64, 3) and made.dtype == np.uint8
    middle = made[32, :, 0].astype(int)
    if name in ("canny2image", "hed2img"):  # an edge where the step is, and only there
        assert middle[28:36].max() > 200 and max(middle[:24].max(), middle[40:].max()) < 30
    elif name == "image_inpainting":  # white is left between the black half and the hole
        assert middle[34:46].min() > 250 and middle[50:].max() == 0
    else:
        assert 20 < middle[28:36].mean() < 235 and np.ptp(middle) > 200
        assert len(np.unique(middle)) > 4


def test_inpainting_keeps_what_is_given():
    """From a mask, and from a picture whose hole is black already."""
    picture = np.full((60, 90, 3), 90, np.uint8)
    hole = np.zeros((60, 90), bool)
    hole[:, 60:] = True
    asked = Request("image_inpainting", images=(picture,), from_image=True, mask=hole)
    black = np.where(hole[..., None], np.uint8(0), picture)
    for request in (asked, Request("image_inpainting", images=(black,))):
        kept, painted = kept_pixels(request, make_plan(request), (64, 64))
        assert (kept[~painted] == 90).all()  # nothing that the hole was mixed into
        assert not painted[:, :44].any() and painted[:, 54:].all()  # cropped to 15 … 75
        plain = dataclasses.replace(request, keep_given=False)
        assert kept_pixels(plain, make_plan(plain), (64, 64)) is None
    other = Request("deblurring", images=(picture,))
    assert kept_pixels(other, make_plan(other), (64, 64)) is None


def test_cameras_are_cropped_with_their_pictures():
    """The rays of a wide picture's middle, whatever is cropped away beside it."""
    cameras = orbit_cameras([0, 30], 20, 1.7, focal=1.0)
    experiment = types.SimpleNamespace(codec=LightCodec(), sizes={})
    request = Request("text2multiview", "x", cameras=cameras, size=(64, 64))
    plain = encode(request, make_plan(request), experiment)
    wide = dataclasses.replace(request, camera_size=(300, 400))
    same = encode(wide, make_plan(wide), experiment)
    np.testing.assert_allclose(same.frames[1], plain.frames[1], atol=1e-5)
    tall = dataclasses.replace(request, size=(64, 32), camera_size=(300, 300))
    narrow = encode(tall, make_plan(tall), experiment)
    np.testing.assert_allclose(narrow.frames[1][:, 0], plain.frames[1][:, 2], atol=1e-5)
