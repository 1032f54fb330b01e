"""Every role has all its parts, and every task is made of roles that have them."""

import numpy as np
import pytest

from onediff_jax.data.world_bundles import WorldBundles
from onediff_jax.evaluation.scores.by_direction import MEASURES
from onediff_jax.tasks.cameras import Cameras, orbit_cameras
from onediff_jax.tasks.definitions import BUILT_IN
from onediff_jax.tasks.degraded import BLUR_SIGMA, FACTORS, blur, downscale
from onediff_jax.tasks.edges import CANNY_LOW, CANNY_RATIO, canny
from onediff_jax.tasks.roles import ROLES, get_role

USED = {role for task in BUILT_IN.values() for role in task.frames}
SIZES = ((64, 64), (128, 96), (512, 512))


def photo(height=64, width=64, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return coarse.repeat(height // 8, 0).repeat(width // 8, 1)


def bundle(task):
    options = {"seed": 0, "level": "simple", "first": 3, "count": 1, "max_frames": 6}
    return WorldBundles(task, ((64, 64),), **options)[0]


def test_every_role_is_used_and_every_used_role_is_defined():
    assert USED == set(ROLES)
    for name, role in ROLES.items():
        assert role.name == name and role.title
        assert role.measure in MEASURES and set(role.given_measures) <= set(MEASURES)


def test_a_role_that_is_not_known_is_a_plain_picture():
    role, image = get_role("normal"), photo()
    assert role.name == "normal" and role.measure == "picture"
    assert not role.derived and not role.rendered and role.derive(image) is None
    assert role.read(image, {}) is image and role.show(image) is image


@pytest.mark.parametrize("name", [n for n, role in ROLES.items() if role.derived])
def test_deriving_is_the_same_kind_at_every_size(name):
    role = get_role(name)
    for height, width in SIZES:
        image = photo(height, width)
        mask = np.zeros((height, width), bool)
        mask[: height // 2] = True
        alone = role.derive(image, mask=mask) if role.needs_mask else role.derive(image)
        drawn = role.derive(image, np.random.default_rng(0))
        for made in (alone, drawn, role.derive(image, np.random.default_rng(0))):
            assert made.shape == image.shape and made.dtype == np.uint8
            assert (made != image).any()
        np.testing.assert_array_equal(drawn, role.derive(image, np.random.default_rng(0)))


def test_what_is_derived_without_a_draw_lies_within_the_range_of_the_draws():
    image = photo(128, 128)
    np.testing.assert_array_equal(get_role("blurred").derive(image), blur(image, 0.08))
    assert BLUR_SIGMA[0] < 0.07 and 0.08 < BLUR_SIGMA[1]  # as pictures of 64 pixels need it
    np.testing.assert_array_equal(get_role("low_resolution").derive(image), downscale(image, 8))
    assert 8 in FACTORS
    np.testing.assert_array_equal(get_role("canny").derive(image), canny(image, 100, 200))
    assert CANNY_LOW[0] < 100 < CANNY_LOW[1] and CANNY_RATIO[0] < 2 < CANNY_RATIO[1]


@pytest.mark.parametrize("task", BUILT_IN)
def test_every_frame_of_every_task_is_made_shown_and_read(task):
    example = bundle(task)
    known = dict(example.truth)
    for role, frame in zip(BUILT_IN[task].roles(len(example.frames)), example.frames, strict=True):
        shown = get_role(role).show(frame)
        assert shown.shape == (64, 64, 3) and shown.dtype == np.uint8
        if role == "ray":
            known["intrinsics"] = known["cameras"][0]
        read = get_role(role).read(frame, known)
        if role == "depth":
            near = np.isfinite(known["depth"]) & (known["depth"] < 4)
            np.testing.assert_allclose(read[near], known["depth"][near], rtol=0.02)
        elif role == "semanticmap":
            for place, (_, label) in enumerate(known["regions"]):
                index = next(c for c, n in _labels(example).items() if n == label)
                np.testing.assert_array_equal(read == place, known["view"].classes == index)
        elif role == "boundingbox":
            assert {known["regions"][place][1] for place, _ in read} <= {
                label for label, _ in known["boxes"]
            }
            assert read
        elif role == "pose":
            truth = known["keypoints"][0]
            both = (truth[:, 2] > 0) & (read[:, 2] > 0)
            assert both.sum() >= 6 and not read[truth[:, 2] == 0].any()
            assert np.median(np.linalg.norm(read[both] - truth[both], axis=-1)) < 1.5
        elif role == "canny":
            assert read.dtype == bool and 0 < read.mean() < 0.5
        elif role == "hed":
            assert read.dtype == np.float32 and 0 < read.mean() < 0.5 and read.max() <= 1
        elif role == "masked":
            assert read[known["mask"]].all()
        elif role == "ray":
            assert isinstance(read, Cameras) and len(read) == 1
        else:
            assert read is frame


def _labels(example):
    from onediff_jax.data.world import CLASSES

    return dict(enumerate(CLASSES))


def test_cameras_are_read_from_rays():
    from onediff_jax.tasks.cameras import pose_errors, ray_frames, rays_from_cameras

    truth = orbit_cameras([0, 40, 90], [0, 20, 10], 1.7)
    read = get_role("ray").read(ray_frames(rays_from_cameras(truth, 8)), {"intrinsics": truth})
    assert max(np.max(error) for error in pose_errors(read, truth)) < 1e-4
    with pytest.raises(ValueError, match="ray map is read with intrinsics"):
        get_role("ray").read(np.zeros((8, 8, 16)), {})


@pytest.mark.parametrize("task", BUILT_IN)
def test_every_direction_has_measures(task):
    for direction in BUILT_IN[task].directions:
        found = BUILT_IN[task].measures(direction.name)
        assert found and {name for name, _ in found} <= set(MEASURES)
        mask = BUILT_IN[task].denoise_mask(direction.name, BUILT_IN[task].min_frames)
        assert all(mask[index] for _, index in found)


def test_measures():
    def of(direction):
        task, _ = BUILT_IN.find_direction(direction)
        return task.measures(direction)

    assert of("depth2image") == (("picture", 0),) and of("image2depth") == (("depth", 1),)
    assert of("canny2image") == (("picture", 0), ("edges", 0))
    assert of("deblurring") == (("restored", 0),) and of("image_inpainting") == (("hole", 0),)
    assert of("text2image") == (("colours", 0),) and of("faceid") == (("person", 0),)
    assert of("image2camera") == (("cameras", 1),) and of("multiview") == (("views", 2),)


def test_prompts_that_are_needed():
    needed = {d.name for t, d in BUILT_IN.directions() if t.needs_prompt(d.name)}
    assert needed == {"text2image", "text2multiview", "image_editing"}
