"""Captions say true things, only of what is seen, in varied words."""

import re

import numpy as np
import pytest

from onediff_jax.data.world import PALETTE, World
from onediff_jax.data.world.captions import relation
from onediff_jax.data.world.palette import FLOORS, MATERIALS, SKIES, TEXTURES
from onediff_jax.data.world.shapes import KINDS

FINISH = {"shiny": "shiny", "glossy": "shiny", "metal": "metal", "metallic": "metal"}


@pytest.fixture(scope="module")
def said():
    out = []
    for level in ("simple", "rich"):
        world = World(21, level)
        for index in range(120):
            scene = world.scene(index)
            view = world.render(scene, 64, 64)
            out.append((scene, view, world.caption(scene, np.random.default_rng(index))))
    return out


def test_named_things_are_seen(said):
    for scene, view, text in said:
        for color, label in re.findall(rf"({'|'.join(PALETTE)}) ({'|'.join(KINDS)})\b", text):
            named = [
                i for i, o in enumerate(scene.objects) if (o.color_name, o.label) == (color, label)
            ]
            assert len(named) == 1, text
            assert (view.instances == named[0]).sum() >= 8, text
        if "shirt" in text:
            color = re.search(r"in an? (\w+) shirt", text)[1]
            assert scene.figure.color_name == color
        words = set(text.split())
        assert words & set(PALETTE) <= scene.colors()


def test_materials_textures_and_sizes_are_true(said):
    kinds, colors = "|".join(KINDS), "|".join(PALETTE)
    words = "|".join([*FINISH, *MATERIALS, *TEXTURES, "small", "large"])
    pattern = rf"\ban? ((?:(?:{words}) )*)({colors}) ({kinds})\b"
    adjectives = things = 0
    for scene, _, text in said:
        for before, color, label in re.findall(pattern, text):
            things += 1
            [thing] = [o for o in scene.objects if (o.color_name, o.label) == (color, label)]
            for word in before.split():
                adjectives += 1
                true = {thing.material, thing.texture, thing.size_name}
                assert FINISH.get(word, word) in true, text
    assert adjectives > 50 and things > 300


def test_floor_and_sky_are_the_scene_s_and_the_sky_is_seen(said):
    named = 0
    for scene, view, text in said:
        for floor in FLOORS.values():
            if re.search(rf"on (an? )?{floor.name}\b", text):
                assert floor == scene.floor
        for sky in SKIES.values():
            if sky.name in text:
                named += 1
                assert sky == scene.sky and (view.classes == 0).mean() > 0.03
    assert named > 20


def test_relations_are_what_the_picture_shows():
    world = World(2)
    checked = 0
    for index in range(60):
        scene = world.scene(index, figure=False)
        view = world.render(scene, 64, 64)
        boxes = {box.instance: box for box in view.boxes}
        if not {0, 1} <= set(boxes):
            continue
        middle = [(boxes[i].x0 + boxes[i].x1) / 2 for i in (0, 1)]
        depth = [np.median(view.depth[view.instances == i]) for i in (0, 1)]
        words = relation(scene, 0, 1)
        opposite = relation(scene, 1, 0)
        pairs = [{"to the left of", "to the right of"}, {"behind", "in front of"}]
        assert {words, opposite} in pairs
        checked += 1
        if words == "to the left of":
            assert middle[0] < middle[1]
        if words == "to the right of":
            assert middle[0] > middle[1]
        if words == "behind":
            assert depth[0] > depth[1]
    assert checked > 15


def test_wording(said):
    texts = [text for _, _, text in said]
    assert all(len(text.split()) <= 24 for text in texts)
    assert not any(re.search(r"\ba [aeio]", text) for text in texts)
    assert not any(re.search(r"\ban [^aeiou]|  ", text) for text in texts)
    world = World(0)
    scene = world.scene(2)
    again = {world.caption(scene, np.random.default_rng(i)) for i in range(20)}
    assert len(again) > 8
