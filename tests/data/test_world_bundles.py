"""Every task's bundles from the embedded world: frames, prompts, truth, determinism."""

import re

import numpy as np
import pytest

from onediff_jax.data.cache import Cache
from onediff_jax.data.world import CLASSES, World
from onediff_jax.data.world_bundles import DEPTH_RANGE, WorldBundles
from onediff_jax.tasks import cameras, colors
from onediff_jax.tasks.definitions import TASKS
from onediff_jax.tasks.prompts import parse_regions, split_token

SIZES = ((64, 64), (48, 80))


def bundles(task: str, level: str = "simple", **options) -> WorldBundles:
    options = {"seed": 0, "first": 0, "count": 6, "max_frames": 6} | options
    return WorldBundles(task, SIZES, level=level, **options)


def same(a, b) -> bool:
    pairs = zip(a.frames, b.frames, strict=True)
    return a.prompt == b.prompt and all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("level", ["simple", "rich"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task(task, level):
    source = bundles(task, level)
    for index in range(3):
        bundle = source[index]
        assert bundle.task == task
        assert split_token(bundle.prompt)[0] == task
        assert bundle.prompt == " ".join(bundle.prompt.split()) and bundle.prompt.isascii()
        roles = TASKS[task].roles(len(bundle.frames))  # raises for a wrong number of frames
        assert len(bundle.frames) <= 6
        height, width, _ = bundle.frames[0].shape
        assert (height, width) in SIZES
        for role, frame in zip(roles, bundle.frames, strict=True):
            if role == "ray":
                assert frame.shape == (height // 8, width // 8, 16) and frame.dtype == np.float32
                assert np.isfinite(frame).all()
            else:
                assert frame.shape == (height, width, 3) and frame.dtype == np.uint8
        assert bundle.frames[0].std() > 5  # a picture of something
        assert same(bundle, bundles(task, level)[index])


@pytest.mark.parametrize("task", TASKS)
def test_scenes_differ(task):
    source = bundles(task)
    assert not same(source[0], source[1])
    assert not same(source[0], bundles(task, seed=1)[0])
    assert same(source[3], bundles(task, first=3, count=1)[0])  # numbers are of the world


def test_sizes_are_all_used():
    shapes = {bundles("text2image", count=40)[i].frames[0].shape[:2] for i in range(12)}
    assert shapes == set(SIZES)


@pytest.mark.parametrize("task", ["faceid", "subject_driven"])
def test_identity_prompts(task):
    for index in range(4):
        bundle = bundles(task)[index]
        found = re.findall(r"\[\[img(\d)\]\] ([^\[]+)", bundle.prompt)
        assert [int(number) for number, _ in found] == list(range(len(bundle.frames)))
        assert all(caption.strip() for _, caption in found)
        if task == "subject_driven":
            assert f"<item: {bundle.truth['item']}>" in bundle.prompt


@pytest.mark.parametrize("level", ["simple", "rich"])
def test_semantic_maps_show_what_the_prompt_names(level):
    for index in range(4):
        bundle = bundles("semanticmap2image", level)[index]
        regions = parse_regions(bundle.prompt)
        assert regions == bundle.truth["regions"]
        classes = bundle.truth["view"].classes
        for color, label in regions:
            painted = (bundle.frames[1] == colors.rgb(color)).all(-1)
            np.testing.assert_array_equal(painted, classes == CLASSES.index(label))


def test_boxes_show_what_the_prompt_names():
    for index in range(4):
        bundle = bundles("boundingbox2image")[index]
        regions = {label: color for color, label in parse_regions(bundle.prompt)}
        assert {label for label, _ in bundle.truth["boxes"]} == set(regions)
        for color in regions.values():
            assert (bundle.frames[1] == colors.rgb(color)).all(-1).any()


def test_class_colours_are_fixed_in_the_simple_level_only():
    def seen(level):
        found = {}
        for index in range(24):
            bundle = bundles("semanticmap2image", level, count=24)[index]
            for color, label in parse_regions(bundle.prompt):
                found.setdefault(label, set()).add(color)
        return found.values()

    assert all(len(names) == 1 for names in seen("simple"))
    assert any(len(names) > 1 for names in seen("rich"))


def test_depth_is_metric():
    """The norm is fixed: grey levels mean the same distance in every scene."""
    for index in range(3):
        bundle = bundles("depth2image")[index]
        norm = bundle.truth["depth_norm"]
        assert (norm.near, norm.far) == (DEPTH_RANGE["near"], DEPTH_RANGE["far"])
        image = bundle.frames[1]
        assert (image == image[..., :1]).all()


def test_multiview_rays_are_those_of_the_cameras():
    bundle = bundles("multiview")[0]
    rays = np.stack(bundle.frames[1::2])
    found = cameras.rays_from_frames(rays)
    known = bundle.truth["cameras"]
    want = cameras.rays_from_cameras(known, rays.shape[1:3])
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert len(known) == len(bundle.frames) // 2 == len(bundle.truth["orbit"])


def test_length_and_bounds():
    source = bundles("text2image", count=2)
    assert len(source) == 2
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"scene {index} of 2"):
            source[index]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "depth"}, "unknown task 'depth'; choose from .*depth2image"),
        ({"level": "hard"}, "level='hard' must be one of simple, rich"),
        ({"task": "multiview", "max_frames": 3}, "multiview needs a size and 4 frames"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        bundles(**({"task": "text2image"} | options))


def test_tasks_share_the_view_of_a_scene(monkeypatch):
    """One rendering serves every task that shows a scene; frames and prompts stay what they are."""
    views, rendered = Cache(1e8), []
    render = World.render

    def counted(*args):
        rendered.append(args[1])
        return render(*args)

    monkeypatch.setattr(World, "render", counted)
    for task in ("depth2image", "canny2image", "text2image", "boundingbox2image"):
        shared = WorldBundles(
            task, SIZES[:1], level="simple", seed=0, first=0, count=3, max_frames=2, views=views
        )
        alone = WorldBundles(
            task, SIZES[:1], level="simple", seed=0, first=0, count=3, max_frames=2
        )
        for index in range(3):
            rendered.clear()
            found = shared[index]
            assert len(rendered) == (task == "depth2image")
            assert same(found, alone[index])
    assert 3 * (12 + 16 + 4 + 8) * 1024 < views.used < 3 * 44 * 1024


def test_a_shared_view_cannot_be_written():
    views = Cache(1e8)
    options = {"level": "simple", "seed": 0, "first": 0, "count": 1, "max_frames": 2}
    view = WorldBundles("depth2image", SIZES, views=views, **options)[0].truth["view"]
    with pytest.raises(ValueError, match="read-only"):
        view.depth[0, 0] = 1
