"""The depth pass against the solids' own equations, the floor, and the cameras of the tasks."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import minimum_filter

from onediff_jax.data.world import OrbitCamera, Scene, Thing, World
from onediff_jax.data.world.raycast import Rays, cast
from onediff_jax.data.world.shapes import KINDS, unit_shape
from onediff_jax.tasks.cameras import orbit_cameras, rays_from_cameras

GOLDEN = Path(__file__).parents[2] / "golden"


def scene_of(*things, elevation=20.0, azimuth=35.0, floor_z=-0.3):
    return Scene(things, "gray", "clear", floor_z, azimuth + 50, OrbitCamera(azimuth, elevation))


def thing(kind, **changes):
    values = dict(kind=kind, color_name="red", material="matte", texture="plain", size=0.2)
    values |= dict(size_name="", position=(0.08, -0.05, -0.3), yaw=20.0)
    return Thing(**(values | changes))


def directions(camera, height, width):
    """Unnormalised ray directions (H,W,3) at pixel centres, unit z-depth."""
    position, right, up, ahead = camera.frame
    side = camera.focal * min(height, width)
    u = (np.arange(width) + 0.5 - width / 2) / side
    v = (height / 2 - np.arange(height) - 0.5) / side
    return position, ahead + u[None, :, None] * right + v[:, None, None] * up


def hits(view, scene, camera=None):
    """World points (H,W,3) that the depth map says are seen."""
    position, rays = directions(camera or scene.camera, *view.depth.shape)
    with np.errstate(invalid="ignore"):
        return position + rays * view.depth[..., None]


def unit(points, thing):
    turn = np.linalg.inv(thing.affine)
    return points @ turn[:3, :3].T + turn[:3, 3]


def on_surface(kind, p):
    """How far points (N,3) of a unit shape are from its surface."""
    radial = np.hypot(p[:, 0], p[:, 1])
    if kind == "sphere":
        return np.abs(np.linalg.norm(p - [0, 0, 1], axis=1) - 1)
    if kind == "cube":
        return np.abs(np.abs(p - [0, 0, 0.84]).max(1) - 0.84)
    if kind == "cylinder":
        return np.abs(np.maximum(radial - 0.76, np.maximum(p[:, 2] - 1.9, -p[:, 2])))
    if kind == "cone":
        return np.abs(np.maximum(radial - 0.98 * (1 - p[:, 2] / 2.2), -p[:, 2]))
    if kind == "pyramid":
        side = np.abs(p[:, :2]).max(1)
        return np.abs(np.maximum(side - 0.95 * (1 - p[:, 2] / 1.8), -p[:, 2]))
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["sphere", "cube", "cylinder", "cone", "pyramid"])
def test_depth_lies_on_the_solid(kind):
    scene = scene_of(thing(kind))
    view = World().render(scene, 96, 80)
    mine = view.instances == 0
    assert mine.sum() > 300
    local = unit(hits(view, scene)[mine], scene.objects[0])
    assert on_surface(kind, local).max() < 2e-3


def test_sphere_silhouette_and_depth_are_the_analytic_ones():
    scene = scene_of(thing("sphere"))
    view = World().render(scene, 64, 64)
    position, rays = directions(scene.camera, 64, 64)
    offset = position - (np.array(scene.objects[0].position) + [0, 0, 0.2])
    a, b, c = (rays**2).sum(-1), rays @ offset, offset @ offset - 0.2**2
    disc = b * b - a * c
    mine = view.instances == 0
    clear = np.abs(disc) > 1e-6
    np.testing.assert_array_equal(mine[clear], (disc > 0)[clear])
    expected = (-b - np.sqrt(np.maximum(disc, 0))) / a
    np.testing.assert_allclose(view.depth[mine & clear], expected[mine & clear], atol=1e-4)


def test_floor_depth_and_sky():
    scene = scene_of(elevation=12.0)
    view = World().render(scene, 64, 64)
    _, rays = directions(scene.camera, 64, 64)
    np.testing.assert_array_equal(np.isinf(view.depth), rays[..., 2] >= -1e-4)
    seen = np.isfinite(view.depth)
    assert 0.5 < seen.mean() < 1
    near = view.depth < 20
    np.testing.assert_allclose(hits(view, scene)[near][:, 2], -0.3, atol=1e-4)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_stands_on_its_floor_within_its_stated_size(kind):
    scene = scene_of(thing(kind, position=(0.0, 0.0, -0.3)), elevation=25.0)
    view = World().render(scene, 128, 128)
    points = unit(hits(view, scene)[view.instances == 0], scene.objects[0])
    _, radius, height = KINDS[kind]
    assert np.hypot(points[:, 0], points[:, 1]).max() < radius + 0.02
    assert points[:, 2].min() > -0.02
    assert 0.93 * height < points[:, 2].max() < height + 0.02
    assert len(unit_shape(kind).parts) >= 1


def test_nothing_is_cut_off_by_a_part_s_rectangle():
    """Each part's screen rectangle holds all of its pixels: the same scene cast without
    rectangles.
    """
    import onediff_jax.data.world.raycast as raycast

    world = World(3, "rich")
    whole = raycast.rectangles

    def everything(duals, starts, view, us, vs):
        return [(0, len(vs), 0, len(us))] * len(starts)

    for index in range(12):
        scene = world.scene(index, figure=index % 2 == 0)
        rays = Rays.of(scene.camera, 48, 48, halves=False)
        expected = None
        try:
            raycast.rectangles = everything
            expected = cast(scene.geometry, rays, scene.floor_z)
        finally:
            raycast.rectangles = whole
        found = cast(scene.geometry, rays, scene.floor_z)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[0], expected[0])


def test_a_point_is_rendered_where_it_projects():
    rng = np.random.default_rng(0)
    for _ in range(8):
        spot = rng.uniform(-0.3, 0.3, 3)
        ball = thing("sphere", size=0.03, position=(spot[0], spot[1], spot[2] - 0.03))
        azimuth, elevation = rng.uniform(0, 360), rng.uniform(5, 40)
        scene = scene_of(ball, azimuth=azimuth, elevation=elevation, floor_z=-0.6)
        view = World().render(scene, 160, 128)
        rows, columns = np.nonzero(view.instances == 0)
        x, y, depth = scene.camera.project(spot[None], 160, 128)[0]
        assert abs(columns.mean() + 0.5 - x) < 0.3
        assert abs(rows.mean() + 0.5 - y) < 0.3
        assert abs(view.depth[int(y), int(x)] - (depth - 0.03)) < 2e-3


def test_cameras_are_the_reference_s():
    golden = np.load(GOLDEN / "rays.npz")
    for case in ("a0_default", "a1_inference_example"):
        angles = [golden[f"{case}__{name}"] for name in ("azimuth", "elevation", "distance")]
        for i, (azimuth, elevation, distance) in enumerate(zip(*angles, strict=True)):
            camera = OrbitCamera(azimuth, elevation, distance, float(golden[f"{case}__focal"]))
            np.testing.assert_allclose(camera.c2w, golden[f"{case}__c2w_raw"][i], atol=1e-6)


def test_rays_are_those_of_the_multiview_task():
    """In the first camera's frame (x left, y up, z ahead) our rays are the task's, pixel by
    pixel.
    """
    azimuths, elevations = [20.0, 65.0, 250.0], [10.0, 30.0, 22.0]
    theirs = rays_from_cameras(orbit_cameras(azimuths, elevations, [1.7] * 3), 16)
    cameras = [OrbitCamera(a, e) for a, e in zip(azimuths, elevations, strict=True)]
    origin, right, up, ahead = cameras[0].frame
    frame = np.stack([-right, up, ahead], 1)
    for camera, expected in zip(cameras, theirs, strict=True):
        position, rays = directions(camera, 16, 16)
        rays = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)) @ frame
        center = (position - origin) @ frame
        np.testing.assert_allclose(rays, expected[..., :3], atol=1e-6)
        np.testing.assert_allclose(np.cross(center, rays), expected[..., 3:], atol=1e-6)


def test_views_of_one_scene_agree_through_their_cameras():
    """A point seen by one camera, put into another's picture, lies at that picture's depth or
    hidden.
    """
    world = World(1)
    scene, cameras = world.orbit_views(4, 3)
    first, second = (world.render(scene, 96, 96, camera) for camera in cameras[:2])
    mine = first.instances >= 0
    points = hits(first, scene, cameras[0])[mine]
    x, y, depth = cameras[1].project(points, 96, 96).T
    inside = (x >= 0) & (x < 96) & (y >= 0) & (y < 96)
    nearest = minimum_filter(second.depth, 3)
    rows, columns = y[inside].astype(int), x[inside].astype(int)
    assert (nearest[rows, columns] < depth[inside] + 0.01).mean() > 0.99
    assert (np.abs(second.depth[rows, columns] - depth[inside]) < 0.02).mean() > 0.5
