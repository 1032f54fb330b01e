"""The world as a dataset: same bits everywhere, no index fails, identities and subjects stay the
same.
"""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from onediff_jax.data.world import PALETTE, OrbitCamera, World

HASHING = """
import hashlib, sys
import numpy as np
from onediff_jax.data.world import World
digest = hashlib.sha256()
for level in ("simple", "rich"):
    world = World(5, level)
    for index in (0, 3, 1, 1_000_000_007):
        scene = world.scene(index)
        view = world.render(scene, 32, 48)
        edited, text = world.edited(scene, np.random.default_rng(index))
        caption = world.caption(scene, np.random.default_rng(index))
        for part in (view.image, view.depth, view.classes, view.instances):
            digest.update(part.tobytes())
        digest.update(repr((scene, view.boxes, edited, text, caption)).encode())
    for scenes in (world.figure_scenes(2, 2), world.subject_scenes(2, 2)[1]):
        digest.update(repr(scenes).encode())
    digest.update(repr(world.orbit_views(2, 3)).encode())
print(digest.hexdigest())
"""


def test_every_process_makes_the_same_bits():
    runs = []
    for salt in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", HASHING],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        )
        runs.append(run.stdout.strip())
    assert len(runs[0]) == 64 and runs[0] == runs[1]


def test_seeds_levels_and_indices_differ():
    def picture(seed, level, index):
        world = World(seed, level)
        return hashlib.sha256(world.render(world.scene(index), 16, 16).image.tobytes()).digest()

    asked = [(s, level, i) for s in (0, 1) for level in ("simple", "rich") for i in (0, 1)]
    assert len({picture(*one) for one in asked}) == len(asked)


@pytest.mark.parametrize("level", ["simple", "rich"])
def test_no_index_fails(level):
    world = World(0, level)
    rng = np.random.default_rng(0)
    figures, counts = 0, []
    for index in range(300):
        scene = world.scene(index)
        view = world.render(scene, 32, 32)
        assert view.image.std() > 2
        assert 1 <= len(world.caption(scene, rng).split()) <= 24
        figures += scene.figure is not None
        counts.append(len(scene.objects))
        low, high = (9, 26) if level == "simple" else (8, 34)
        assert low <= scene.camera.elevation_deg <= high
        if scene.things:
            assert max(scene.visible) > 0.01
    assert 0.18 < figures / 300 < 0.33
    assert max(counts) == (3 if level == "simple" else 5) and min(counts) == 1


def test_things_do_not_collide_and_stay_in_view():
    for level in ("simple", "rich"):
        world = World(1, level)
        for index in range(60):
            objects = world.scene(index).objects
            for i, one in enumerate(objects):
                assert np.hypot(*one.position[:2]) < 0.75
                for other in objects[:i]:
                    apart = np.hypot(*np.subtract(one.position, other.position)[:2])
                    assert apart > one.radius + other.radius
            colors = [thing.color_name for thing in objects]
            assert len(set(colors)) == len(colors)
            assert set(colors) == world.scene(index).colors() <= set(PALETTE)


def test_figure_can_be_forced():
    world = World()
    for index in range(10):
        scene = world.scene(index, figure=True)
        assert scene.figure is scene.objects[-1] and scene.figure.label == "person"
        assert world.scene(index, figure=False).figure is None


def test_figure_scenes_keep_the_person_and_change_the_rest():
    world = World()
    rng = np.random.default_rng(0)
    for index in range(6):
        scenes = world.figure_scenes(index, 4)
        assert len({scene.figure.identity for scene in scenes}) == 1
        assert len({scene.figure.pose for scene in scenes}) == 4
        assert len({scene.camera.azimuth_deg for scene in scenes}) == 4
        for scene in scenes:
            view = world.render(scene, 64, 64)
            rows = np.flatnonzero((view.instances == len(scene.objects) - 1).any(1))
            assert rows[-1] - rows[0] > 30
            assert scene.figure.action in world.figure_caption(scene, rng)
    assert world.figure_scenes(0, 1)[0].figure.identity != scenes[0].figure.identity


def test_subject_scenes_keep_the_thing():
    for level in ("simple", "rich"):
        world = World(0, level)
        for index in range(8):
            name, scenes = world.subject_scenes(index, 3)
            subjects = [scene.objects[0] for scene in scenes]
            same = {(s.kind, s.color_name, s.texture, s.material, s.size) for s in subjects}
            assert len(same) == 1
            assert subjects[0].kind in name and subjects[0].color_name in name
            assert all(scene.visible[0] > 0.008 for scene in scenes)


def test_orbits():
    world = World()
    scene, cameras = world.orbit_views(3, 5)
    assert cameras[0] == scene.camera and len(cameras) == 5
    assert len({camera.azimuth_deg for camera in cameras}) == 5
    assert world.orbit(scene, [10, 20], [5, 6])[1] == OrbitCamera(20.0, 6.0)
    with pytest.raises(ValueError, match="elevations"):
        world.orbit(scene, [10, 20], [5])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="simple, rich"):
        World(0, "hard")
    with pytest.raises(ValueError, match="index=-1"):
        World().scene(-1)
    with pytest.raises(ValueError, match="figure"):
        World().figure_caption(World().scene(0, figure=False), np.random.default_rng(0))
