import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.t2i_multitask import get_config
from onediff_jax.data.bundle import Encoded
from onediff_jax.experiment.build import make_experiment
from onediff_jax.flow import denoise
from onediff_jax.sampling.generation import (
    SampleRequest,
    generate,
    make_plan,
    request_of_scene,
    trained_size,
)
from onediff_jax.sampling.row_sampler import Request, RowSampler
from onediff_jax.sampling.source import Source
from onediff_jax.tasks.cameras import orbit_cameras, pose_errors, ray_frames, rays_from_cameras
from onediff_jax.tasks.definitions import all_directions, get_task
from onediff_jax.tasks.depth import depth_image

GREY = np.full((40, 40, 3), 128, np.uint8)
TWO = orbit_cameras([0, 30], 20, 1.7)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The shipped config with a network of a few thousand random weights."""
    config = get_config("tiny")
    config.model.update(hidden_size=48, depth=1, num_heads=2, num_kv_heads=1, multiple_of=16)
    experiment = make_experiment(config)
    shapes = jax.eval_shape(experiment.init_params)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
    )
    return Source(experiment, params, None, tmp_path_factory.mktemp("none"))


@pytest.mark.parametrize("name", [direction.name for _, direction in all_directions()])
def test_every_direction_generates_its_frames_and_keeps_the_others(source, name):
    request = request_of_scene(source, 1, SampleRequest(name, steps=2))
    result = generate(source, request)
    task = result.plan.task
    expected = task.denoise_mask(name, len(result.plan.roles))
    assert result.plan.generate == tuple(map(bool, expected))
    assert result.plan.prompt.startswith(task.token)
    assert result.latents.shape == (1, len(expected), 8, 8, 16)
    assert np.isfinite(result.latents).all()
    bundle = source.experiment.bundles(task.name, held_out=True, scenes=2)[1]
    for index, (frame, wanted) in enumerate(zip(bundle.frames, expected, strict=True)):
        if frame.dtype == np.uint8:
            frame = source.experiment.codec.encode(frame)
        same = np.abs(result.latents[0, index] - frame).max() < 1e-5
        assert same != bool(wanted)
        assert result.picture(0, index).shape == (64, 64, 3)


def test_agrees_with_the_sampler_of_packed_rows(source):
    request = request_of_scene(source, 2, SampleRequest("image2depth", steps=3, seed=7))
    ours = generate(source, dataclasses.replace(request, guidance=2.0)).latents[0]
    image = source.experiment.codec.encode(request.images[0]).astype(np.float16)
    bundle = Encoded("depth2image", request.prompt, (image, np.zeros_like(image)))
    sampler = RowSampler(source.experiment, rows=1, steps=3, guidance=2.0)
    packed = sampler(source.params, [Request(bundle, (False, True), 7)])[0]
    assert np.abs(ours - np.stack(packed)).max() < 0.02  # it holds given frames in 16 bits


def test_pictures_of_a_batch_do_not_depend_on_the_batch(source):
    request = SampleRequest("text2image", "a red cube", steps=2, seed=5)
    batch = generate(source, dataclasses.replace(request, count=2)).latents
    alone = generate(source, dataclasses.replace(request, seed=6)).latents
    assert np.abs(batch[0] - batch[1]).max() > 0.1
    np.testing.assert_allclose(batch[1], alone[0], atol=1e-4)


def test_guidance_leads_from_the_negative_prompt_and_defaults_to_the_runs(source):
    request = SampleRequest("text2image", "a red cube", steps=2)
    plain = generate(source, request)
    assert plain.guidance == source.experiment.config.log.guidance == 1.0
    same = generate(source, dataclasses.replace(request, negative_prompt="a dog"))
    np.testing.assert_array_equal(same.latents, plain.latents)
    strong = [
        generate(source, dataclasses.replace(request, guidance=4.0, negative_prompt=text)).latents
        for text in ("", "a dog")
    ]
    assert np.abs(strong[0] - plain.latents).max() > 1e-3
    assert np.abs(strong[0] - strong[1]).max() > 1e-3


def test_any_frames_can_be_generated(source):
    both = generate(source, SampleRequest("depth2image", "a cone", generate=(0, 1), steps=1))
    assert both.plan.generate == (True, True)
    request = SampleRequest("multiview", images=(GREY,), generate=(1, 2, 3), steps=1)
    assert generate(source, request).plan.generate == (False, True, True, True)


def test_notes_tell_what_the_source_was_not_trained_for(source):
    five = orbit_cameras(np.arange(5) * 20, 0, 1.7)
    request = SampleRequest("text2multiview", "word " * 60, cameras=five, steps=1)
    notes = " ".join(generate(source, request).notes)
    assert "10 frames; the source was trained on at most 6" in notes
    assert "cut" in notes
    assert generate(source, SampleRequest("text2image", "a cube", steps=1)).notes == ()


def test_depth_is_metric_and_cameras_are_found(source):
    request = request_of_scene(source, 0, SampleRequest("image2depth", steps=1))
    result = generate(source, request)
    truth = np.linspace(1.0, 3.0, 64 * 64, dtype=np.float32).reshape(64, 64)
    picture, _ = depth_image(truth, near=result.depth.near, far=result.depth.far)
    latents = np.stack([result.latents[0, 0], source.experiment.codec.encode(picture)])[None]
    found = dataclasses.replace(result, latents=latents).metric_depth(0, 1)
    assert np.median(np.abs(found / truth - 1)) < 0.02
    assert result.metric_depth(0, 0) is None

    request = SampleRequest("image2camera", images=(GREY,) * 3, steps=1)
    result = generate(source, request)
    orbit = orbit_cameras([10, 40, 90], [20, 10, 30], 1.7)
    latents = result.latents.copy()
    latents[0, 1::2] = ray_frames(rays_from_cameras(orbit, 8))
    angles, distances = pose_errors(dataclasses.replace(result, latents=latents).cameras(0), orbit)
    assert angles.max() < 1e-3 and distances.max() < 1e-3


@pytest.mark.parametrize(
    "request_, roles, mask",
    [
        (SampleRequest("text2image", "x"), 1, [1]),
        (SampleRequest("depth2image", "x", images=(GREY,)), 2, [1, 0]),
        (SampleRequest("image2depth", "x", images=(GREY,)), 2, [0, 1]),
        (SampleRequest("faceid", "x", images=(GREY,) * 3), 4, [1, 0, 0, 0]),
        (SampleRequest("multiview", "x", images=(GREY,), cameras=TWO), 4, [0, 0, 1, 0]),
        (
            SampleRequest("multiview", images=(GREY,) * 2, cameras=TWO[[0, 1, 1]]),
            6,
            [0, 0, 0, 0, 1, 0],
        ),
        (SampleRequest("text2multiview", "x", cameras=TWO), 4, [1, 0, 1, 0]),
        (SampleRequest("image2camera", images=(GREY,) * 2), 4, [0, 1, 0, 1]),
        (SampleRequest("text2multiview", "x", generate=(0, 1, 2, 3)), 4, [1, 1, 1, 1]),
    ],
)
def test_which_frames_are_generated(request_, roles, mask):
    plan = make_plan(request_)
    assert len(plan.roles) == roles
    assert plan.generate == tuple(map(bool, mask))


@pytest.mark.parametrize(
    "request_, prompt",
    [
        (SampleRequest("image2depth", " a cube ", images=(GREY,)), "[[depth2image]] a cube"),
        (SampleRequest("text2image", "[[text2image]] a cube"), "[[text2image]] a cube"),
        (
            SampleRequest(
                "semanticmap2image", "a cube", images=(GREY,), regions=(("cyan", "cube"),)
            ),
            "[[semanticmap2image]] <#00FFFF cyan mask: cube> a cube",
        ),
        (
            SampleRequest("faceid", "walks", images=(GREY,) * 2, sources=("sits",)),
            "[[faceid]] [[img0]] walks [[img1]] sits [[img2]]",
        ),
        (
            SampleRequest("subject_driven", "on sand", images=(GREY,), item="cup"),
            "[[subject_driven]] <item: cup> [[img0]] on sand [[img1]]",
        ),
    ],
)
def test_prompts(request_, prompt):
    assert make_plan(request_).prompt == prompt


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"direction": "depth"}, "choose from .*image2depth"),
        ({"direction": "depth2image"}, r"0 images .* needs 1: depth \(frame 1\)"),
        ({"direction": "text2image", "images": (GREY,)}, "1 images .* takes none"),
        ({"direction": "faceid"}, "needs 1 or more images; got 0"),
        ({"direction": "faceid", "images": (GREY,) * 5}, "at most 4 images; got 5"),
        ({"direction": "image2camera", "images": (GREY,)}, "2 or more images; got 1"),
        ({"direction": "image2camera", "images": (GREY,), "cameras": TWO}, "finds the cameras"),
        ({"direction": "multiview", "images": (GREY,) * 2}, r"1 to 1 images, .*; got 2"),
        ({"direction": "multiview", "images": (GREY,), "cameras": TWO[0]}, r"cameras .*got 1"),
        ({"direction": "text2multiview"}, r"2 or more cameras \(azimuths\); got 0"),
        ({"cameras": TWO}, "text2image has no cameras"),
        ({"generate": ()}, r"generate=\[\] must name frames among 0…0"),
        ({"generate": (1,)}, r"generate=\[1\] must name"),
        ({"prompt": " "}, "text2image needs a prompt"),
        ({"prompt": "[[depth2image]] x"}, "the prompt is for depth2image, the task is text2image"),
        ({"prompt": "[[text2picture]] x"}, "unknown task 'text2picture'"),
        ({"regions": (("red", "cube"),)}, "text2image has no regions"),
        ({"item": "cup"}, "belongs to subject_driven"),
        ({"direction": "subject_driven", "images": (GREY,)}, "needs item"),
        ({"direction": "faceid", "images": (GREY,), "sources": ("a", "b")}, "2 source prompts"),
        (
            {
                "direction": "semanticmap2image",
                "images": (GREY,),
                "prompt": "[[semanticmap2image]] <#00FFFF red mask: cube>",
            },
            "#00FFFF is cyan",
        ),
        ({"prompt": "[[text2image]] x", "regions": (("red", "a"),)}, "is whole"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"count": -1}, "count=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"focal": 0.0}, "focal=0.0"),
        ({"guidance": -1.0}, "guidance=-1.0"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"size": (64, 40)}, r"\(64, 40\) must be positive multiples of 16"),
    ],
)
def test_bad_requests_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make_plan(SampleRequest(**{"direction": "text2image", "prompt": "x", **fields}))


def test_scenes_need_the_world_and_bring_their_pictures(source):
    request = SampleRequest("image2depth")
    with pytest.raises(ValueError, match="scene=-1 must be 0 or more"):
        request_of_scene(source, -1, request)
    with pytest.raises(ValueError, match="brings its own pictures"):
        request_of_scene(source, 0, dataclasses.replace(request, images=(GREY,)))
    turned = SampleRequest("multiview", "a cube", cameras=TWO)
    filled = request_of_scene(source, 0, turned)
    assert len(filled.images) == 1 and filled.cameras is TWO and filled.prompt == "a cube"


def test_sizes_are_the_trained_ones(source):
    experiment = types.SimpleNamespace(sizes={"t2i": ((64, 64),), "i2i": ((64, 64), (48, 80))})
    task = get_task("depth2image")
    for height, width, expected in ((90, 100, (64, 64)), (90, 160, (48, 80)), (90, 20, (64, 64))):
        assert trained_size(experiment, task, [np.zeros((height, width, 3))]) == expected
    assert trained_size(experiment, task, []) == (64, 64)
    request = SampleRequest("image2depth", images=(GREY,), size=(32, 96), steps=1)
    assert generate(source, request).picture(0, 1).shape == (32, 96, 3)


@pytest.mark.parametrize("compiled", [True, False])
def test_progress_changes_nothing_and_traces_the_model_once(compiled):
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.standard_normal((16, 16)), jnp.float32)
    traces = []

    def network(weights, latents, timesteps, text, mask):
        traces.append(latents.shape)
        return jnp.tanh(latents @ weights) * timesteps[:, :, None, None, None] / 1000 + text.mean()

    model = functools.partial(jax.jit(network) if compiled else network, weights)
    noise, given = rng.standard_normal((2, 1, 2, 4, 4, 16)).astype(np.float32)
    text, mask = np.ones((1, 3, 8), np.float32), np.ones((1, 3), bool)
    inputs = (noise, given, [1, 0], text, mask, 0 * text, mask)
    seen = []

    def progress(steps):
        for step in steps:
            seen.append(step)
            yield step

    shown = denoise(model, *inputs, num_steps=5, guidance=3.0, progress=progress)
    assert seen == [0, 1, 2, 3, 4] and len(traces) == 1
    plain = denoise(model, *inputs, num_steps=5, guidance=3.0)
    np.testing.assert_allclose(shown, plain, atol=1e-5)
    np.testing.assert_array_equal(shown[:, 1], given[:, 1])
