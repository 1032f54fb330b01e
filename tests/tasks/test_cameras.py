"""Cameras and rays: golden parity with the released model, round trips, errors."""

import pathlib

import numpy as np
import pytest

from onediff_jax.tasks import cameras

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "rays.npz"
ORBITS = ("a0_default", "a1_inference_example")
SCENES = ("b0_square", "b1_wide")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def make_cameras(golden, case, **kwargs):
    if case in ORBITS:
        return cameras.orbit_cameras(
            golden[f"{case}__azimuth"],
            golden[f"{case}__elevation"],
            golden[f"{case}__distance"],
            focal=float(golden[f"{case}__focal"]),
            **kwargs,
        )
    return cameras.cameras_from_transforms(
        golden[f"{case}__c2w_raw"],
        height=int(golden[f"{case}__h"]),
        width=int(golden[f"{case}__w"]),
        fl_x=float(golden[f"{case}__fl_x"]),
        fl_y=float(golden[f"{case}__fl_y"]),
        **kwargs,
    )


@pytest.mark.parametrize("case", ORBITS + SCENES)
def test_golden_cameras_and_rays(golden, case):
    result = make_cameras(golden, case)
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(result.R, golden[f"{case}__p3d_R"], **close)
    np.testing.assert_allclose(result.T, golden[f"{case}__p3d_T"], **close)
    np.testing.assert_allclose(result.focal, golden[f"{case}__p3d_focal"], **close)
    np.testing.assert_allclose(result.principal, golden[f"{case}__p3d_principal"], **close)
    rays = cameras.rays_from_cameras(result, 8)
    assert rays.shape == (len(result), 8, 8, 6) and rays.dtype == np.float32
    expected = golden[f"{case}__rays"].reshape(-1, 8, 8, 6)
    np.testing.assert_allclose(rays, expected, **close)
    frames = cameras.ray_frames(rays)
    expected = golden[f"{case}__frame16"].transpose(0, 2, 3, 1)
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames, expected, **close)


@pytest.mark.parametrize("case", SCENES)
@pytest.mark.parametrize("rays,recovered", [("rays", "rec"), ("noisy_rays", "noisy_rec")])
def test_golden_recovery(golden, case, rays, recovered):
    rays = golden[f"{case}__{rays}"].reshape(-1, 8, 8, 6)
    result = cameras.cameras_from_rays(rays, make_cameras(golden, case))
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(result.R, golden[f"{case}__{recovered}_R"], **close)
    np.testing.assert_allclose(result.T, golden[f"{case}__{recovered}_T"], **close)
    np.testing.assert_allclose(result.centres, golden[f"{case}__{recovered}_center"], **close)


def test_scene_distance_is_normalised_or_kept(golden):
    kept = make_cameras(golden, "b0_square", normalize_scale=None)
    scaled = make_cameras(golden, "b0_square")
    factor = 1.7 / float(golden["b0_square__first_camera_distance"])
    np.testing.assert_allclose(scaled.T, kept.T * factor, atol=1e-6)
    np.testing.assert_array_equal(scaled.R, kept.R)


def test_odd_image_sides_move_the_principal_point():
    c2w = np.tile(np.eye(4), (2, 1, 1))
    result = cameras.cameras_from_transforms(
        c2w, height=101, width=205, fl_x=50.5, fl_y=101, normalize_scale=None
    )
    np.testing.assert_allclose(result.focal, [[1, 2]] * 2)
    # cx = 102, the image centre is 102.5; x points left, so the offset is positive.
    np.testing.assert_allclose(result.principal, [[0.5 / 50.5, 0.5 / 50.5]] * 2)


def test_orbit_world():
    """Azimuth from +x to +y, elevation up, all looking at the origin with z up in the image."""
    world = cameras.orbit_cameras([0, 90, 0, 30], [0, 0, 90, 20], 2.0, first_is_origin=False)
    np.testing.assert_allclose(world.centres[0], [2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(world.centres[1], [0, 2, 0], atol=1e-12)
    np.testing.assert_allclose(world.centres[2], [0, 0, 2], atol=1e-12)
    np.testing.assert_allclose(world.T, [[0, 0, 2]] * 4, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(world.R), 1)
    above = np.array([0, 0, 0.1]) @ world.R + world.T
    assert (above[[0, 1, 3], 1] > 0).all()  # y up
    # From +x, a point towards +y appears on the right: x, which points left, is negative.
    assert (np.array([0, 0.1, 0]) @ world.R[0] + world.T[0])[0] < 0
    np.testing.assert_allclose(world.focal, 2 * 1.3887)


def test_rays_pass_through_the_points_their_pixels_show():
    views = cameras.orbit_cameras([10, 80], [5, 40], [1.7, 2.5], first_is_origin=False)
    size = 16
    rays = cameras.rays_from_cameras(views, size)
    for n, row, column in [(0, 3, 12), (1, 15, 0), (1, 8, 7)]:
        direction, moment = np.split(rays[n, row, column].astype(np.float64), 2)
        np.testing.assert_allclose(np.linalg.norm(direction), 1, atol=1e-6)
        point = np.cross(direction, moment) + 3 * direction
        x, y, z = point @ views.R[n] + views.T[n]
        # pixel offset from the centre = focal * side * X / Z, x to the left, y up
        assert z > 0
        assert size / 2 - 1.3887 * size * x / z == pytest.approx(column + 0.5, abs=1e-4)
        assert size / 2 - 1.3887 * size * y / z == pytest.approx(row + 0.5, abs=1e-4)


def test_wide_grid_extends_the_square_one():
    views = cameras.orbit_cameras([0, 45], 10, 1.7)
    wide = cameras.rays_from_cameras(views, (8, 12))
    assert wide.shape == (2, 8, 12, 6)
    np.testing.assert_allclose(wide[:, :, 2:10], cameras.rays_from_cameras(views, 8), atol=1e-7)
    recovered = cameras.cameras_from_rays(wide, views)
    np.testing.assert_allclose(recovered.R, views.R, atol=1e-5)
    np.testing.assert_allclose(recovered.centres, views.centres, atol=1e-5)


def test_rebase_keeps_relative_poses():
    world = cameras.orbit_cameras([10, 50, 200], [0, 30, -20], 1.7, first_is_origin=False)
    based = cameras.rebase(world)
    np.testing.assert_allclose(based.R[0], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(based.T[0], 0, atol=1e-12)
    # A world point seen by camera 0 at `local` is seen alike by the others.
    local = np.array([0.1, -0.2, 1.5])
    point = (local - world.T[0]) @ world.R[0].T
    np.testing.assert_allclose(point @ world.R[2] + world.T[2], local @ based.R[2] + based.T[2])
    angles, centres = cameras.pose_errors(based, world)
    np.testing.assert_allclose(angles, 0, atol=1e-6)
    np.testing.assert_allclose(centres, 0, atol=1e-12)


def test_pose_errors_measure_angle_and_distance():
    truth = cameras.orbit_cameras([0, 30, 60], 0, 1.7)
    predicted = cameras.orbit_cameras([0, 40, 60], 0, 1.7)
    angles, centres = cameras.pose_errors(predicted, truth)
    np.testing.assert_allclose(angles, [10, 0], atol=1e-6)
    np.testing.assert_allclose(centres, [2 * 1.7 * np.sin(np.deg2rad(5)), 0], atol=1e-9)
    with pytest.raises(ValueError, match="got 3 and 2"):
        cameras.pose_errors(truth, truth[:2])


def test_frames_round_trip_and_average():
    rays = cameras.rays_from_cameras(cameras.orbit_cameras([0, 45], 0, 1.7), 4)
    np.testing.assert_allclose(cameras.rays_from_frames(cameras.ray_frames(rays)), rays, atol=1e-6)
    for channel, copies in ((0, 3), (3, 3), (4, 2)):
        frames = np.zeros((1, 1, 16))
        frames[..., channel] = 1.658
        assert cameras.rays_from_frames(frames)[0, 0, channel] == pytest.approx(1 / copies)


def test_recovery_accepts_intrinsics_and_noise():
    truth = cameras.orbit_cameras([0, 40, 90], [0, 20, 10], 1.7)
    rays = cameras.rays_from_cameras(truth, 16)
    noisy = rays + np.random.default_rng(0).normal(0, 0.02, rays.shape)
    recovered = cameras.cameras_from_rays(noisy, ([2 * 1.3887] * 2, [0, 0]))
    np.testing.assert_allclose(np.linalg.det(recovered.R), 1)
    angles, centres = cameras.pose_errors(recovered, truth)
    assert angles.max() < 1.0 and centres.max() < 0.05


def test_indexing():
    views = cameras.orbit_cameras([0, 40, 90], 0, 1.7)
    assert len(views[1]) == 1 and len(views[1:]) == 2
    np.testing.assert_array_equal(views[-1].R[0], views.R[2])


@pytest.mark.parametrize(
    "args,match",
    [
        (([0, 1], [0, 1, 2], 1.7), "azimuths has 2 values where 1 or 3"),
        (([0, 1], 0, -1.0), "distances must be positive"),
        (([], 0, 1.7), "azimuths has 0 values"),
    ],
)
def test_orbit_errors(args, match):
    with pytest.raises(ValueError, match=match):
        cameras.orbit_cameras(*args)


def test_transforms_errors(golden):
    good = golden["b0_square__c2w_raw"].astype(np.float64)
    sizes = {"height": 8, "width": 8, "fl_x": 8.0, "fl_y": 8.0}

    def broken(change):
        c2w = good.copy()
        change(c2w)
        return c2w

    cases = [
        (good[0], r"\(N, 4, 4\)"),
        (broken(lambda m: m[1].__setitem__((slice(3), 2), 0)), r"c2w\[1\] is not rigid"),
        (broken(lambda m: m[2, :3, 0].__imul__(-1)), r"c2w\[2\] is not rigid"),
        (broken(lambda m: m.__setitem__((0, 0, 3), np.nan)), "not finite"),
        (good[:1], "parallel"),
    ]
    for c2w, match in cases:
        with pytest.raises(ValueError, match=match):
            cameras.cameras_from_transforms(c2w, **sizes)
    with pytest.raises(ValueError, match="fl_x must be positive"):
        cameras.cameras_from_transforms(good, **{**sizes, "fl_x": 0})


def test_ray_errors():
    views = cameras.orbit_cameras([0, 40], 0, 1.7)
    rays = cameras.rays_from_cameras(views, 4)
    with pytest.raises(ValueError, match="6 channels"):
        cameras.ray_frames(rays[..., :5])
    with pytest.raises(ValueError, match="16 channels"):
        cameras.rays_from_frames(rays)
    with pytest.raises(ValueError, match=r"\(N, h, w, 6\)"):
        cameras.cameras_from_rays(rays[0], views)
    with pytest.raises(ValueError, match="for 1 ray maps"):
        cameras.cameras_from_rays(rays[:1], cameras.orbit_cameras([0, 1, 2], 0, 1.7))
    with pytest.raises(ValueError, match="finite"):
        cameras.cameras_from_rays(np.zeros_like(rays), views)
    with pytest.raises(ValueError, match="size"):
        cameras.rays_from_cameras(views, 0)
    with pytest.raises(ValueError, match=r"T must have shape \(2, 3\)"):
        cameras.Cameras(views.R, views.T[:1], views.focal, views.principal)


def test_no_scale_from_one_place_nor_from_parallel_axes():
    def poses(centres, backs):
        found = []
        for centre, back in zip(centres, backs, strict=True):
            back = back / np.linalg.norm(back)
            right = np.cross([0, 0, 1.0], back)
            right /= np.linalg.norm(right)
            pose = np.eye(4)
            pose[:3, :3] = np.stack([right, np.cross(back, right), back], 1)
            pose[:3, 3] = centre
            found.append(pose)
        return np.stack(found)

    size = {"height": 60, "width": 80, "fl_x": 70, "fl_y": 70}
    around = np.array([[np.cos(a), np.sin(a), 0.2] for a in range(6)])
    place = np.array([12.3, -4.5, 1.7])
    noise = np.random.default_rng(0).normal(size=(6, 3))
    for jitter in (0.0, 1e-15, 1e-6):  # as computed, and as a text file rounds it
        with pytest.raises(ValueError, match="one place"):
            cameras.cameras_from_transforms(poses(place + jitter * noise, around), **size)
    along = np.array([[0.3 * i, 0, 0] for i in range(6)])
    ahead = np.array([0, 1.0, 0]) + 1e-5 * noise
    with pytest.raises(ValueError, match=r"parallel|meet"):
        cameras.cameras_from_transforms(poses(along, ahead), **size)
    # The same circle is as good a scene at any place and in any unit above rounding.
    for unit in (1e-2, 1.0, 1e4):
        posed = cameras.cameras_from_transforms(poses(unit * (place + around), around), **size)
        small = cameras.cameras_from_transforms(poses(around, around), **size)
        np.testing.assert_allclose(posed.T, small.T, atol=1e-6)
