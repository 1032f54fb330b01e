"""Edited twins: the change that the instruction names, and no other."""

import numpy as np
import pytest

from onediff_jax.data.world import World
from onediff_jax.data.world.edits import EDITS
from onediff_jax.data.world.layout import LEVELS


def twins(name, level="simple", count=25, figure=None):
    world = World(11, level)
    made = 0
    for index in range(count):
        scene = world.scene(index, figure=figure)
        rng = np.random.default_rng(index)
        result = EDITS[name][0](scene, rng, LEVELS[level])
        if result is not None:
            made += 1
            yield world, scene, *result
    assert made > 5


def spread(mask):
    """The mask and its neighbours: anti-aliasing mixes colours across one pixel."""
    out = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            out |= np.roll(out, step, axis)
    return out


def changed(a, b):
    return (a.image != b.image).any(-1)


@pytest.mark.parametrize("level", ["simple", "rich"])
def test_every_edit_is_visible_and_keeps_the_camera(level):
    world = World(4, level)
    words = set()
    for index in range(80):
        scene = world.scene(index)
        twin, text = world.edited(scene, np.random.default_rng(index))
        assert twin.camera == scene.camera and twin != scene
        before, after = world.render(scene, 64, 64), world.render(twin, 64, 64)
        difference = np.abs(before.image.astype(int) - after.image)
        assert (difference.max(-1) > 8).mean() > 0.004, (index, text)
        words.add(text.split()[0])
        assert len(text.split()) <= 16
    assert len(words) >= 7


@pytest.mark.parametrize("name", ["recolor", "texture"])
def test_repainting_changes_only_the_thing(name):
    for world, scene, twin, text in twins(name):
        [index] = [i for i, o in enumerate(scene.objects) if twin.objects[i] != o]
        before, after = world.render(scene, 64, 64), world.render(twin, 64, 64)
        np.testing.assert_array_equal(before.depth, after.depth)
        np.testing.assert_array_equal(before.classes, after.classes)
        assert not (changed(before, after) & ~spread(before.instances == index)).any()
        old, new = scene.objects[index], twin.objects[index]
        assert f"{old.color_name} {old.label}" in text
        assert (new.color_name if name == "recolor" else new.texture) in text


@pytest.mark.parametrize(("name", "figure"), [("shirt", True), ("recolor", False)])
def test_the_new_colour_is_named(name, figure):
    for _, scene, twin, text in twins(name, figure=figure):
        new = {o.color_name for o in twin.objects} - {o.color_name for o in scene.objects}
        assert len(new) == 1 and new.pop() in text


def test_removing_leaves_the_others():
    for world, scene, twin, text in twins("remove"):
        gone = [o for o in scene.objects if o not in twin.objects]
        assert len(gone) == 1 and len(twin.objects) == len(scene.objects) - 1
        assert f"{gone[0].color_name} {gone[0].label}" in text
        before, after = world.render(scene, 64, 64), world.render(twin, 64, 64)
        mine = before.instances == scene.objects.index(gone[0])
        np.testing.assert_array_equal(before.depth[~mine], after.depth[~mine])
        assert (after.depth[mine] > before.depth[mine]).all()


def test_adding_puts_one_thing_where_the_instruction_says():
    for _, scene, twin, text in twins("add"):
        [new] = [i for i, o in enumerate(twin.objects) if o not in scene.objects]
        assert set(scene.objects) < set(twin.objects) and twin.visible[new] > 0.01
        assert f"{twin.objects[new].color_name} {twin.objects[new].label}" in text
        assert twin.figure == scene.figure
        right = twin.camera.frame[1]
        other = [o for o in scene.objects if f"the {o.color_name} {o.label}" in text]
        if other and ("left" in text or "right" in text):
            side = np.subtract(twin.objects[new].position, other[0].position) @ right
            assert (side < 0) == ("to the left" in text)


def test_replacing_keeps_colour_and_place():
    for _, scene, twin, text in twins("replace", level="rich"):
        [index] = [i for i, o in enumerate(scene.objects) if twin.objects[i] != o]
        old, new = scene.objects[index], twin.objects[index]
        assert (old.color_name, old.position) == (new.color_name, new.position)
        assert old.kind in text and new.kind in text and old.kind != new.kind


@pytest.mark.parametrize("name", ["floor", "sky"])
def test_surroundings_change_alone(name):
    for world, scene, twin, text in twins(name, count=40):
        assert scene.objects == twin.objects
        before, after = world.render(scene, 64, 64), world.render(twin, 64, 64)
        np.testing.assert_array_equal(before.depth, after.depth)
        if name == "floor":
            assert twin.floor.name in text and scene.floor_name != twin.floor_name
            assert not changed(before, after)[before.classes == 0][:-64].any()
        else:
            assert twin.sky.name in text
            assert changed(before, after)[before.classes == 0].mean() > 0.9


def test_a_person_changes_pose_or_shirt_and_stays_the_same():
    for _, scene, twin, text in twins("pose", figure=True):
        assert twin.figure.identity == scene.figure.identity
        assert twin.figure.action in text
    for _, scene, twin, text in twins("shirt", figure=True):
        assert twin.figure.pose == scene.figure.pose
        assert twin.figure.identity.trousers == scene.figure.identity.trousers
        assert "shirt" in text
