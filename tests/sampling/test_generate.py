"""Every direction from request to pictures, depth and cameras, with random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.t2i_multitask import get_config
from onediff_jax.experiment.build import make_experiment
from onediff_jax.sampling.generate import generate
from onediff_jax.sampling.request import Request
from onediff_jax.sampling.sampler import Sampler
from onediff_jax.sampling.scene import request_of_scene
from onediff_jax.sampling.source import Source
from onediff_jax.tasks.cameras import orbit_cameras, pose_errors, ray_frames, rays_from_cameras
from onediff_jax.tasks.definitions import all_directions
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


def one(source, request: Request, **options):
    """The only result of a request."""
    [result] = generate(source, request, **{"steps": 1, **options})
    return result


@pytest.mark.parametrize("name", [direction.name for _, direction in all_directions()])
def test_every_direction_generates_its_frames_and_keeps_the_others(source, name):
    request = request_of_scene(source, 1, Request(name))
    result = one(source, request, steps=2)
    task = result.plan.task
    expected = task.denoise_mask(name, len(result.plan.roles))
    assert result.plan.generate == tuple(map(bool, expected))
    assert result.generated == np.flatnonzero(expected).tolist()
    assert result.plan.prompt.startswith(task.token)
    bundle = source.experiment.bundles(task.name, held_out=True, scenes=2)[1]
    for index, (frame, wanted) in enumerate(zip(bundle.frames, expected, strict=True)):
        if frame.dtype == np.uint8:
            frame = source.experiment.codec.encode(frame)
        latents = result.latents[index]
        assert latents.shape == (8, 8, 16) and np.isfinite(latents).all()
        assert (np.abs(latents - frame).max() < 1e-5) != bool(wanted)
        assert result.picture(index).shape == (64, 64, 3)


def test_agrees_with_rows_of_the_training_layout(source):
    request = request_of_scene(source, 2, Request("image2depth", seed=7))
    ours = one(source, request, steps=3, guidance=2.0).latents
    sampler = Sampler(source.experiment, rows=1, steps=3, guidance=2.0)
    [packed] = sampler(source.params, [request])
    np.testing.assert_allclose(np.stack(ours), np.stack(packed), atol=1e-4)


def test_pictures_of_a_batch_do_not_depend_on_the_batch(source):
    request = Request("text2image", "a red cube", seed=5)
    other = dataclasses.replace(request, seed=6)
    batch = generate(source, [request, other], steps=2)
    alone = one(source, other, steps=2).latents
    assert np.abs(batch[0].latents[0] - batch[1].latents[0]).max() > 0.1
    np.testing.assert_allclose(batch[1].latents[0], alone[0], atol=1e-4)


def test_requests_of_several_shapes_come_back_in_order(source):
    requests = [
        Request("text2image", "a cube"),
        Request("image2depth", images=(GREY,)),
        Request("text2image", "a cone", seed=1),
    ]
    results = generate(source, requests, steps=1)
    assert [r.request for r in results] == requests
    assert [len(r.latents) for r in results] == [1, 2, 1]


def test_steps_are_those_of_the_direction_unless_told(source):
    """Requests of one shape with other steps do not run together; each tells its own."""
    few = dataclasses.replace(source, steps={"image2depth": 2})
    photo = np.zeros((32, 32, 3), np.uint8)
    asked = [Request("image2depth", images=(photo,)), Request("depth2image", "x", (photo,))]
    found = generate(few, asked)
    assert [result.steps for result in found] == [2, source.experiment.config.log.sample_steps]
    told = generate(few, asked, steps=2)
    assert [result.steps for result in told] == [2, 2]
    np.testing.assert_allclose(found[0].latents[1], told[0].latents[1], atol=1e-4)


def test_guidance_leads_from_the_negative_prompt_and_defaults_to_the_runs(source):
    request = Request("text2image", "a red cube")
    away = dataclasses.replace(request, negative_prompt="a dog")
    plain = one(source, request)
    assert plain.guidance == source.experiment.config.log.guidance == 1.0
    np.testing.assert_array_equal(one(source, away).latents, plain.latents)
    strong = [one(source, asked, guidance=4.0).latents[0] for asked in (request, away)]
    assert np.abs(strong[0] - plain.latents[0]).max() > 1e-3
    assert np.abs(strong[0] - strong[1]).max() > 1e-3


@pytest.mark.parametrize("guidance", [-1.0, float("nan")])
def test_guidance_that_makes_no_sense(source, guidance):
    with pytest.raises(ValueError, match=f"guidance={guidance} must not be negative"):
        one(source, Request("text2image", "a cube"), guidance=guidance)


def test_any_frames_can_be_generated(source):
    both = one(source, Request("depth2image", "a cone", generate=(0, 1)))
    assert both.plan.generate == (True, True)
    request = Request("multiview", images=(GREY,), generate=(1, 2, 3))
    assert one(source, request).plan.generate == (False, True, True, True)


def test_notes_tell_what_the_source_was_not_trained_for(source):
    five = orbit_cameras(np.arange(5) * 20, 0, 1.7)
    notes = " ".join(one(source, Request("text2multiview", "word " * 60, cameras=five)).notes)
    assert "10 frames; the source was trained on at most 6" in notes
    assert "cut" in notes
    assert one(source, Request("text2image", "a cube")).notes == ()


def test_depth_is_metric_and_cameras_are_found(source):
    result = one(source, request_of_scene(source, 0, Request("image2depth")))
    truth = np.linspace(1.0, 3.0, 64 * 64, dtype=np.float32).reshape(64, 64)
    picture, _ = depth_image(truth, near=result.depth.near, far=result.depth.far)
    latents = [result.latents[0], source.experiment.codec.encode(picture)]
    found = dataclasses.replace(result, latents=latents).metric_depth(1)
    assert np.median(np.abs(found / truth - 1)) < 0.02
    assert result.metric_depth(0) is None

    result = one(source, Request("image2camera", images=(GREY,) * 3))
    orbit = orbit_cameras([10, 40, 90], [20, 10, 30], 1.7)
    latents = list(result.latents)
    latents[1::2] = ray_frames(rays_from_cameras(orbit, 8))
    angles, distances = pose_errors(dataclasses.replace(result, latents=latents).cameras(), orbit)
    assert angles.max() < 1e-3 and distances.max() < 1e-3


def test_what_is_watched_is_what_comes(source):
    seen = []
    result = one(
        source,
        Request("image2depth", images=(GREY,)),
        steps=3,
        watch=lambda step, results: seen.append((step, results[0])),
        watch_every=2,
    )
    assert [step for step, _ in seen] == [2, 3]
    np.testing.assert_array_equal(seen[-1][1].picture(1), result.picture(1))
    assert np.abs(seen[0][1].latents[0] - result.latents[0]).max() == 0  # the given picture


def test_scenes_need_the_world_and_bring_their_pictures(source):
    request = Request("image2depth")
    with pytest.raises(ValueError, match="scene=-1 must be 0 or more"):
        request_of_scene(source, -1, request)
    with pytest.raises(ValueError, match="brings its own pictures"):
        request_of_scene(source, 0, dataclasses.replace(request, images=(GREY,)))
    turned = Request("multiview", "a cube", cameras=TWO)
    filled = request_of_scene(source, 0, turned)
    assert len(filled.images) == 1 and filled.cameras is TWO and filled.prompt == "a cube"


def test_sizes_can_be_asked_for(source):
    request = Request("image2depth", images=(GREY,), size=(32, 96))
    assert generate(source, request, steps=1)[0].picture(1).shape == (32, 96, 3)
