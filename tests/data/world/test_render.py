"""Pictures and their ground truth: consistent with each other, at every size."""

import numpy as np
import pytest

from onediff_jax.data.world import CLASSES, PALETTE, OrbitCamera, Scene, World
from onediff_jax.tasks.pose import KEYPOINTS, LIMBS


def scenes(count, **options):
    for level in ("simple", "rich"):
        world = World(7, level)
        for index in range(count):
            yield world, world.scene(index, **options)


def test_shapes_and_types():
    world = World()
    view = world.render(world.scene(0, figure=True), 48, 80)
    assert view.image.shape == (48, 80, 3) and view.image.dtype == np.uint8
    assert view.image.flags.c_contiguous
    assert view.depth.shape == (48, 80) and view.depth.dtype == np.float32
    assert view.classes.shape == (48, 80) and view.classes.dtype == np.uint8
    assert view.instances.shape == (48, 80) and view.instances.dtype == np.int16
    assert len(view.keypoints) == 1 and view.keypoints[0].shape == (len(KEYPOINTS), 3)
    assert view.keypoints[0].dtype == np.float32
    assert max(max(pair) for pair in LIMBS) < len(KEYPOINTS)


def test_maps_agree():
    for world, scene in scenes(12):
        view = world.render(scene, 64, 64)
        assert (view.depth > 0).all()
        sky = np.isinf(view.depth)
        np.testing.assert_array_equal(view.classes == CLASSES.index("sky"), sky)
        floor = (view.instances == -1) & ~sky
        np.testing.assert_array_equal(view.classes == CLASSES.index("floor"), floor)
        for i, thing in enumerate(scene.objects):
            assert (view.classes[view.instances == i] == CLASSES.index(thing.label)).all()
        assert view.instances.max() < len(scene.objects)


def test_boxes_are_tight():
    for world, scene in scenes(12):
        view = world.render(scene, 64, 64)
        for box in view.boxes:
            rows, columns = np.nonzero(view.instances == box.instance)
            found = (box.x0, box.y0, box.x1, box.y1)
            assert found == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert box.label == scene.objects[box.instance].label
        boxed = {box.instance for box in view.boxes}
        for i in range(len(scene.objects)):
            pixels = (view.instances == i).sum()
            assert (i in boxed) == (pixels >= 6)


def test_keypoints_lie_in_the_figure_and_say_when_hidden():
    visible = []
    for world, scene in scenes(10, figure=True):
        view = world.render(scene, 128, 128)
        points = view.keypoints[0]
        mine = view.instances == len(scene.objects) - 1
        assert set(np.unique(points[:, 2])) <= {0.0, 1.0}
        for x, y, seen in points:
            if seen:
                assert mine[int(y), int(x)]
        visible.append(points[:, 2].mean())
    assert 0.6 < np.mean(visible) < 1


def test_a_figure_seen_from_behind_hides_its_face():
    world = World()
    scene = world.scene(3, figure=True)
    behind = OrbitCamera(scene.figure.yaw + 180, 12.0)
    front = OrbitCamera(scene.figure.yaw, 12.0)
    assert world.render(scene, 128, 128, behind).keypoints[0][:3, 2].sum() == 0
    assert world.render(scene, 128, 128, front).keypoints[0][:3, 2].sum() == 3
    left, right = KEYPOINTS.index("left_ear"), KEYPOINTS.index("right_ear")
    points = world.render(scene, 128, 128, front).keypoints[0]
    assert points[left, 0] > points[right, 0]


def test_sizes_agree():
    """A picture twice as large shows the same, finer."""
    for world, scene in scenes(6):
        small, large = world.render(scene, 64, 64), world.render(scene, 128, 128)
        pooled = large.image.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(pooled - small.image).mean() < 2.5
        same = (large.instances[::2, ::2] == small.instances).mean()
        assert same > 0.96
        seen = np.isfinite(small.depth) & (small.instances >= 0)
        seen &= np.isfinite(large.depth).reshape(64, 2, 64, 2).all((1, 3))
        fine = large.depth.reshape(64, 2, 64, 2).mean((1, 3))
        assert np.median(np.abs(fine[seen] - small.depth[seen])) < 5e-3


def test_wide_and_tall_pictures_show_more_of_the_same():
    world = World()
    scene = world.scene(2)
    square, wide = world.render(scene, 64, 64), world.render(scene, 64, 96)
    np.testing.assert_array_equal(wide.instances[:, 16:80], square.instances)
    np.testing.assert_array_equal(wide.image[:, 16:80], square.image)


def test_edges_are_smooth():
    """Anti-aliasing: along an edge between two flat colours there are colours in between."""
    world = World()
    scene = Scene((), "dark", "clear", -0.3, 40.0, OrbitCamera(0.0, 10.0))
    ball = world.scene(1, figure=False).objects[0]
    view = world.render(Scene((ball,), "dark", "clear", -0.24, 40.0, scene.camera), 64, 64)
    empty = world.render(scene, 64, 64)
    inside = view.instances == 0
    touched = np.abs(view.image.astype(int) - empty.image).max(-1) > 12
    assert (touched & ~inside).sum() > 20


def test_things_show_their_colour_and_cast_shadows():
    world = World()
    for index in range(40):
        scene = world.scene(index, figure=False)
        view = world.render(scene, 64, 64)
        for i, thing in enumerate(scene.objects):
            mine = view.instances == i
            if thing.material != "matte" or thing.texture != "plain" or mine.sum() < 60:
                continue
            if scene.sky_name == "sunset":
                continue
            color = np.median(view.image[mine], 0)
            nearest = min(PALETTE, key=lambda n: _hue_distance(color, PALETTE[n]))
            assert nearest == thing.color_name, (index, thing.color_name, color)
    scene = world.scene(1, figure=False)
    floor = world.render(scene, 64, 64).instances == -1
    bare = Scene(
        (), scene.floor_name, scene.sky_name, scene.floor_z, scene.sun_azimuth, scene.camera
    )
    lit = world.render(bare, 64, 64).image.astype(int).sum(-1)
    dark = world.render(scene, 64, 64).image.astype(int).sum(-1)
    assert ((dark < 0.85 * lit) & floor).sum() > 50


def _hue_distance(color, reference):
    a, b = np.array(color, float), np.array(reference, float)
    return np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b))


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (256, 128)])
def test_any_size(size):
    world = World(2, "rich")
    view = world.render(world.scene(5), *size)
    assert view.image.shape == (*size, 3)
    assert view.image.std() > 5
