"""Cropping and resizing: colours that mean something stay, cameras follow the pixels."""

import dataclasses

import numpy as np
import pytest

from onediff_jax.data.prepared.fit import MAKERS, Fitting, centre_crop, crop_cameras, resize
from onediff_jax.data.sources.base import RawExample
from onediff_jax.tasks import conditions, degrade
from onediff_jax.tasks.cameras import orbit_cameras
from tests.data.prepared.fake import FakeSource

SOURCE = FakeSource()


@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (333, 1000), (16, 16), (1, 999)])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (272, 208)])
def test_crop_has_the_aspect_and_fills_a_side(shape, size):
    left, top, right, bottom = centre_crop(shape, size)
    assert left >= 0 and top >= 0 and right <= shape[1] and bottom <= shape[0]
    assert (right - left) / (bottom - top) == pytest.approx(size[1] / size[0])
    assert left == pytest.approx(shape[1] - right) and top == pytest.approx(shape[0] - bottom)
    assert left == pytest.approx(0) or top == pytest.approx(0)


def test_a_picture_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    np.testing.assert_array_equal(resize(image, (0, 0, 64, 48), (48, 64)), image)


def test_records_have_bucket_sizes_and_keep_what_they_carry():
    fitting = Fitting((), ("1:1", "4:3", "3:4"), 12)
    (record,) = fitting(SOURCE.example("k", "semanticmap2image"))
    assert [frame.shape for frame in record.frames] == [(48, 64, 3)] * 2
    assert record.regions == (("red", "cat"),) and record.captions == (("a cat",), ())
    (tall,) = fitting(FakeSource(size=(70, 49)).example("k", "text2image"))
    assert tall.frames[0].shape == (64, 48, 3)
    with_depth = dataclasses.replace(
        SOURCE.example("k", "text2image"), depth_norm={"near": 1.0, "far": 2.0}, extras={"a": 1}
    )
    (record,) = fitting(with_depth)
    assert record.extras == {"a": 1, "depth_norm": {"near": 1.0, "far": 2.0}}


def test_label_colours_are_not_mixed():
    example = SOURCE.example("k", "semanticmap2image")
    (record,) = Fitting((), ("1:1",), 9)(example)

    def colours(image):
        return {tuple(c) for c in image.reshape(-1, 3).tolist()}

    assert colours(record.frames[1]) <= colours(example.images[1])
    assert not colours(record.frames[0]) <= colours(example.images[0])


def test_cameras_follow_the_crop():
    """A point seen at a pixel before is seen where that pixel went."""
    cameras = orbit_cameras([0, 25], [10, 20], 1.7)
    cameras = dataclasses.replace(cameras, principal=np.array([[0.1, -0.05], [0.0, 0.02]]))
    shapes, size = [(90, 160), (200, 100)], (64, 48)
    boxes = [centre_crop(shape, size) for shape in shapes]
    cropped = crop_cameras(cameras, shapes, boxes, size)
    points = np.random.default_rng(1).uniform(-0.3, 0.3, (20, 3)) + np.array([0, 0, 1.7])
    for index, (shape, box) in enumerate(zip(shapes, boxes, strict=True)):

        def pixels(cams, shape, index=index):
            local = points @ cams.R[index] + cams.T[index]
            ndc = cams.focal[index] * local[:, :2] / local[:, 2:] + cams.principal[index]
            return np.array(shape)[::-1] / 2 - ndc * min(shape) / 2

        left, top, right, bottom = box
        scale = np.array([size[1] / (right - left), size[0] / (bottom - top)])
        expected = (pixels(cameras, shape) - [left, top]) * scale
        np.testing.assert_allclose(pixels(cropped, size), expected, atol=1e-9)
    np.testing.assert_array_equal(cropped.R, cameras.R)


def test_plain_pictures_give_every_wanted_condition():
    tasks = ("text2image", *MAKERS)
    records = Fitting(tasks, ("4:3",), 48)(SOURCE.example("k", "text2image"))
    assert [record.task for record in records] == list(tasks)
    for record in records[1:]:
        np.testing.assert_array_equal(record.frames[0], records[0].frames[0])
        assert record.frames[1].shape == record.frames[0].shape
        assert record.captions == (*records[0].captions, ())
        assert (record.frames[1] != record.frames[0]).any()
    again = Fitting(tasks, ("4:3",), 48)(SOURCE.example("k", "text2image"))
    for one, other in zip(records, again, strict=True):
        np.testing.assert_array_equal(one.frames[-1], other.frames[-1])


def condition(task, key="k"):
    """(picture, its condition), the same picture for every key."""
    example = dataclasses.replace(SOURCE.example("k", "text2image"), key=key)
    (record,) = Fitting((task,), ("4:3",), 192)(example)
    return record.frames


def test_draws_depend_on_the_key():
    image, edges = condition("hed2img")
    np.testing.assert_array_equal(edges, conditions.soft_edges(image))
    for task, different in (("canny2image", 4), ("image_inpainting", 7), ("deblurring", 7)):
        assert len({condition(task, f"k{n}")[1].tobytes() for n in range(8)}) >= different
    sizes = {condition("super_resolution", f"k{n}")[1].tobytes() for n in range(8)}
    assert sizes == {degrade.downscale(image, factor).tobytes() for factor in degrade.FACTORS}


def test_the_hole_is_black_and_the_rest_untouched():
    image, masked = condition("image_inpainting")
    hole = (masked == 0).all(-1) & (image != 0).any(-1)
    assert 0.05 < hole.mean() < 0.6
    np.testing.assert_array_equal(masked[~hole], image[~hole])


def test_what_the_source_gives_is_not_derived():
    fitting = Fitting(("text2image", "hed2img"), ("1:1",), 4, given=("hed2img",))
    plain = SOURCE.example("k", "text2image")
    assert [record.task for record in fitting(plain)] == ["text2image"]
    edges = RawExample("k", "hed2img", plain.images * 2, ((), ()))
    assert [record.task for record in fitting(edges)] == ["hed2img"]


def test_only_wanted_tasks():
    fitting = Fitting(("canny2image",), ("1:1",), 4)
    assert [r.task for r in fitting(SOURCE.example("k", "text2image"))] == ["canny2image"]
    assert fitting(SOURCE.example("k", "faceid")) == []


@pytest.mark.parametrize(
    "args, message",
    [
        ((("nonsense",), ("1:1",), 4), "unknown task"),
        (((), ("5:1",), 4), "5:1"),
        (((), (), 4), "aspects"),
        (((), ("1:1",), 0), "tokens"),
    ],
)
def test_bad_settings(args, message):
    with pytest.raises(ValueError, match=message):
        Fitting(*args)
