"""Cropping and resizing: colours that mean something stay, cameras follow the pixels."""

import dataclasses

import numpy as np
import pytest

from onediff_jax.data.prepared.fit import Fitting, crop_cameras, derivable
from onediff_jax.data.sources.base import RawExample
from onediff_jax.tasks import degraded, edges
from onediff_jax.tasks.cameras import orbit_cameras
from onediff_jax.tasks.definitions import TASKS
from onediff_jax.tasks.pictures import centre_crop
from tests.data.prepared.fake import FakeSource

SOURCE = FakeSource()


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
    tasks = ("text2image", *(t.name for t in TASKS.values() if derivable(t)))
    assert len(tasks) == 6
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
    image, soft = condition("hed2img")
    np.testing.assert_array_equal(soft, edges.soft_edges(image))
    for task, different in (("canny2image", 4), ("image_inpainting", 7), ("deblurring", 7)):
        assert len({condition(task, f"k{n}")[1].tobytes() for n in range(8)}) >= different
    sizes = {condition("super_resolution", f"k{n}")[1].tobytes() for n in range(8)}
    assert sizes == {degraded.downscale(image, factor).tobytes() for factor in degraded.FACTORS}


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
