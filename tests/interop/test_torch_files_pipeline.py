"""Exported folders in diffusers: sampling against golden loops, and every kind of call."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from onediff_jax.interop import torch_files
from onediff_jax.interop.torch_files.flow_torch import denoise, set_schedule
from onediff_jax.interop.torch_files.hashed_text import HashedTextEncoder
from onediff_jax.interop.torch_files.light_codec import LightCodec
from onediff_jax.interop.torch_files.nextdit import NextDiT
from onediff_jax.interop.torch_files.pipeline import OneDiffusionPipeline

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TRANSFORMER = GOLDEN / "nextdit_tiny" / "transformer"
CAPTION = "[[depth2image]] a red cube"
SIZE = {"height": 32, "width": 48, "num_inference_steps": 3}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are faster so, and much faster on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def export(folder, **parts):
    """A folder as the export writes it, around the golden transformer."""
    index = torch_files.copy_into(folder, **parts)
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((TRANSFORMER / "config.json").read_text())
    config |= torch_files.transformer_config()
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    shutil.copy(TRANSFORMER / torch_files.WEIGHTS, folder / "transformer")
    torch_files.write_scheduler(folder)
    return folder


def export_light(folder):
    torch_files.write_light_codec(folder)
    torch_files.write_hashed_text(folder, dim=48, max_length=16)
    return export(folder, vae="light", text="hashed")


def export_full(folder):
    """With an autoencoder and a T5 encoder of the released kinds, tiny and random."""
    import sentencepiece
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.save_pretrained(folder / "vae")
    config = T5Config(vocab_size=64, d_model=48, d_kv=12, num_heads=4, d_ff=64, num_layers=1)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CAPTION, "[[text2image]] the quick brown fox jumps over a dog"]),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "spiece.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return export(folder)


@pytest.fixture(scope="module")
def pipe():
    """The light pipeline, not loaded from a folder."""
    from onediff_jax.data.codec import LightCodec as NumpyCodec

    vae, codec = LightCodec(), NumpyCodec()
    for name, tensor in vae.state_dict().items():
        tensor.copy_(torch.from_numpy(getattr(codec, name)))
    scheduler = dict(torch_files.SCHEDULER_CONFIG)
    scheduler.pop("_class_name")
    pipe = OneDiffusionPipeline(
        NextDiT.from_pretrained(TRANSFORMER, attention_softcap=None),
        vae,
        HashedTextEncoder(48, 16),
        None,
        diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


def picture(seed, height=32, width=48):
    return np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("case", "mask", "tolerance"),
    [("a_mask10", [1, 0], 1e-4), ("c_mask100", [1, 0, 0], 1e-4), ("d_t2i", [1], 5e-4)],
)
def test_loop_matches_the_released_sampler(pipe, case, mask, tolerance):
    with np.load(GOLDEN / "sampler.npz") as arrays:
        prefix = f"{case}__"
        golden = {
            key.removeprefix(prefix): torch.from_numpy(arrays[key])
            for key in arrays
            if key.startswith(prefix)
        }
    noise = golden["init_latents"]
    conditions = torch.zeros_like(noise)
    if "cond_latents" in golden:
        conditions[:, 1:] = golden["cond_latents"]
    seen = []
    final = denoise(
        pipe,
        noise,
        conditions,
        mask,
        (golden["cond_embeds"], golden["cond_mask"]),
        (golden["uncond_embeds"], golden["uncond_mask"]),
        guidance=golden["guidance_scale"].item(),
        num_inference_steps=8,
        callback_on_step_end=lambda pipe, step, t, tensors: seen.append(tensors["latents"]),
    )
    torch.testing.assert_close(pipe.scheduler.sigmas, golden["sigmas"], atol=1e-6, rtol=0)
    torch.testing.assert_close(final, golden["final_latents"], atol=tolerance, rtol=0)
    denoised = [i for i, m in enumerate(mask) if m]
    torch.testing.assert_close(
        seen[0][:, denoised], golden["traj_step0"][:, denoised], atol=tolerance, rtol=0
    )


def test_schedule_of_one_step(pipe):
    timesteps = set_schedule(pipe.scheduler, 4096, 1, "cpu")
    assert timesteps.tolist() == [1000.0]
    assert pipe.scheduler.sigmas.tolist() == [1.0, 0.0]


def test_batch_equals_singles_and_seeds_repeat(pipe):
    prompts = ["[[text2image]] a red cube", "[[text2image]] two blue balls on grass"]
    options = {**SIZE, "output_type": "pt", "negative_prompt": "grey"}
    batch = pipe(prompts, generator=seeded(1, 2), **options).images
    assert batch.shape == (2, 3, 32, 48)
    for prompt, seed, image in zip(prompts, (1, 2), batch, strict=True):
        single = pipe(prompt, generator=seeded(seed), **options).images[0]
        torch.testing.assert_close(single, image, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        pipe(prompts, generator=seeded(1, 2), **options).images, batch, atol=0, rtol=0
    )
    assert (batch[0] - batch[1]).abs().max() > 0.01


def test_every_output_type(pipe):
    images = pipe("x", generator=seeded(0), **SIZE, return_dict=False)[0]
    assert [image.size for image in images] == [(48, 32)]
    arrays = pipe("x", generator=seeded(0), **SIZE, output_type="np").images
    np.testing.assert_allclose(np.asarray(images[0]) / 255.0, arrays[0], atol=0.002)
    latents = pipe("x", generator=seeded(0), **SIZE, output_type="latent").images
    assert latents.shape == (1, 16, 4, 6)
    decoded = pipe.vae.decode(latents).sample[0].permute(1, 2, 0) / 2 + 0.5
    np.testing.assert_allclose(decoded, arrays[0], atol=1e-5)
    several = pipe(["x", "y"], **SIZE, num_images_per_prompt=2).images
    assert len(several) == 4


def test_latents_are_the_noise(pipe):
    noise = torch.randn(1, 16, 4, 6, generator=seeded(5))
    images = [pipe("x", latents=noise, **SIZE, output_type="pt").images for _ in range(2)]
    assert torch.equal(*images)
    assert torch.equal(images[0], pipe("x", generator=seeded(5), **SIZE, output_type="pt").images)


def test_conditions_stay_clean_and_steer_the_result(pipe):
    condition, seen = picture(0), []

    def callback(pipe, step, timestep, tensors):
        assert set(tensors) == {"latents", "prompt_embeds"}
        seen.append((step, timestep.item(), tensors["latents"].clone()))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    names = ["latents", "prompt_embeds"]
    tensors = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}
    out = pipe.img2img(CAPTION, condition, **SIZE, **tensors, output_type="latent").images
    assert [step for step, _, _ in seen] == [0, 1, 2]
    assert seen[0][1] == 1000.0
    assert (out == 0).all()  # what the callback returned
    clean = pipe.vae.encode(torch.from_numpy(condition).permute(2, 0, 1)[None] * 2 - 1)
    clean = clean.latent_dist.mode()[0]
    other = {**SIZE, "generator": seeded(0), "output_type": "pt"}
    first = pipe.img2img(CAPTION, [condition], **other).images
    other["generator"] = seeded(0)
    second = pipe.img2img(CAPTION, [picture(1)], **other).images
    assert (first - second).abs().max() > 1e-3
    both = pipe.img2img(
        CAPTION, [condition], denoise_mask=[0, 1], **SIZE, output_type="latent"
    ).images
    assert both.shape == (1, 16, 4, 6)
    kept = pipe.sample(
        [CAPTION], [[None, torch.from_numpy(condition).permute(2, 0, 1) * 2 - 1]], 32, 48
    )
    torch.testing.assert_close(kept[0, 1], clean)


def test_batch_of_conditions(pipe):
    pictures = [[picture(0), picture(1)], [picture(2), picture(3)]]
    options = {**SIZE, "output_type": "pt"}
    batch = pipe.img2img(["a", "b"], pictures, generator=seeded(1, 2), **options).images
    single = pipe.img2img("b", pictures[1], generator=seeded(2), **options).images
    torch.testing.assert_close(batch[1], single[0], atol=1e-4, rtol=0)


def test_views_and_cameras(pipe):
    options = {"height": 32, "width": 32, "num_inference_steps": 2, "generator": seeded(0)}
    out = pipe.multiview(
        "[[multiview]] x", [picture(0, 32, 32)], [0, 30, None], [0, 10, 0], **options
    )
    assert len(out.images) == 2
    from onediff_jax.tasks.cameras import orbit_cameras

    expected = orbit_cameras([0, 30], [0, 10], [1.7, 1.7])
    for view in range(2):  # the cameras that were given come back
        np.testing.assert_allclose(out.cameras[view]["R"], expected.R[view], atol=1e-5)
        np.testing.assert_allclose(out.cameras[view]["T"], expected.T[view], atol=1e-5)
    cameras = pipe.estimate_cameras([picture(0), picture(1)], **options)
    assert len(cameras) == 2
    np.testing.assert_allclose(cameras[0]["R"], np.eye(3), atol=1e-9)
    for camera in cameras:
        np.testing.assert_allclose(camera["R"] @ camera["R"].T, np.eye(3), atol=1e-9)
        assert np.isfinite(camera["T"]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: pipe("x", height=40, width=32), "multiples of 16"),
        (lambda pipe: pipe("x", height=32), "go together"),
        (
            lambda pipe: pipe.img2img("x", [picture(0)], denoise_mask=[1, 0, 0]),
            "asks for 2 condition",
        ),
        (lambda pipe: pipe.img2img("x", [picture(0)], denoise_mask=[0]), "nothing to generate"),
        (lambda pipe: pipe(["x", "y"], generator=[seeded(0)]), "1 generators for 2 prompts"),
        (
            lambda pipe: pipe(["x", "y"], negative_prompt=["a", "b", "c"]),
            "3 negative prompts for 2",
        ),
        (lambda pipe: pipe(), "give prompt, or prompt_embeds"),
        (lambda pipe: pipe([1]), r"must be strings, got \['int'\]"),
        (
            lambda pipe: pipe("x", negative_prompt="a", NEGATIVE_PROMPT="b"),
            "are the same: give one",
        ),
        (lambda pipe: pipe("x", forward_kwargs={"scale": 2}), r"has \['scale'\]; choose from"),
        (lambda pipe: pipe("x", prompt_embeds=torch.zeros(1, 2, 48)), "not both"),
        (lambda pipe: pipe(prompt_embeds=torch.zeros(1, 2, 48)), "needs prompt_attention_mask"),
        (lambda pipe: pipe("x", latents=torch.zeros(1, 16, 2, 2), **SIZE), "latents"),
        (lambda pipe: pipe("x", callback=print, callback_steps=0, **SIZE), "callback_steps=0"),
        (lambda pipe: pipe.run("image2smell"), "is not one this model was trained on"),
        (
            lambda pipe: views(pipe, [1, 0, 1, 0], multiview_c2ws=np.ones((2, 3, 3))),
            r"must be \(N, 4, 4\)",
        ),
        (lambda pipe: views(pipe, [1, 0, 1, 0], multiview_azimuths=[0]), "1 cameras for 2 views"),
        (lambda pipe: views(pipe, [1, 0, 1, 0], multiview_focal_length=1111), "not pixels"),
        (lambda pipe: views(pipe, [1, 0, 1]), "an image and a camera per view"),
        (lambda pipe: pipe.multiview("x", [], [None, 30]), "first camera"),
        (lambda pipe: pipe.multiview("x", [], [0, 30], [0]), "1 elevations for 2"),
    ],
)
def test_bad_calls_say_what_is_wrong(pipe, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipe)


@pytest.mark.parametrize("name", ["__call__", "img2img", "multiview", "generate"])
def test_a_misspelt_argument_is_named(pipe, name):
    arguments = ["x", [], [0, 30]] if name == "multiview" else ["x"]
    with pytest.raises(TypeError, match="negativ_prompt"):
        getattr(pipe, name)(*arguments, negativ_prompt="a")


def views(pipe, mask, **options):
    options = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "pt"} | options
    options |= {"generator": seeded(0), "denoise_mask": mask, "is_multiview": True}
    return pipe.img2img("[[multiview]] x", **options)


def test_calls_of_the_released_code(pipe):
    """In its order, by its names; each gives what our own names give."""
    seen, fast = [], {**SIZE, "output_type": "pt"}
    want = pipe("x", generator=seeded(0), negative_prompt="bad", guidance_scale=3.0, **fast).images
    get = pipe("x", 32, 48, 3, 3.0, "bad", 1, 0.0, seeded(0), None, "pt", False, lambda *_: 0)
    assert torch.equal(get[0], want)
    assert pipe.num_timesteps == 3 and pipe.guidance_scale == 3.0
    get = pipe.generate("x", 3, 3.0, "bad", 1, 32, 48, generator=seeded(0), output_type="pt").images
    assert torch.equal(get, want)
    options = {**fast, "callback": lambda *of: seen.append(of[0]), "callback_steps": 2, "eta": 0.5}
    stretched = pipe("x", generator=seeded(0), forward_kwargs={"scale_factor": 1.5}, **fast).images
    assert torch.equal(
        stretched,
        pipe("x", generator=seeded(0), scale_factor=1.5, noise_scale=None, **options).images,
    )
    none = pipe("x", generator=seeded(0), **fast).images
    assert (none - stretched).abs().max() > 1e-3 and seen == [0, 2]
    assert torch.equal(none, pipe("x", generator=seeded(0), NEGATIVE_PROMPT=None, **fast).images)
    want = pipe.img2img(
        CAPTION, picture(0), denoise_mask=[1, 0], generator=seeded(0), **fast
    ).images
    get = pipe.img2img(CAPTION, [picture(0)], 32, 48, 3, 4.0, [1, 0], None, 1, 0.0, seeded(0), None,
                       "pt").images  # fmt: skip
    assert torch.equal(get, want)
    assert pipe.img2img("x", None, **fast).images.shape == (1, 3, 32, 48)
    stretched = pipe.img2img(
        CAPTION, picture(0, 64, 32), denoise_mask=[0, 1], do_crop=False, **fast
    ).latents
    assert stretched.shape == (1, 2, 16, 4, 6)


def test_views_of_the_released_code(pipe):
    """Orbits, camera-to-world matrices and intrinsics say the same; rays come back."""
    mask, angles = [0, 0, 1, 0, 1, 1], [0, 30, None]
    given = {"image": picture(0, 32, 32), "multiview_azimuths": angles}
    orbit = views(pipe, mask, **given, multiview_elevations=[0, 10, None])
    assert orbit.images.shape == (2, 3, 32, 32) and orbit.latents.shape == (1, 6, 16, 4, 4)
    own = pipe.multiview("[[multiview]] x", picture(0, 32, 32), angles, [0, 10, None],
                         height=32, width=32, num_inference_steps=2, generator=seeded(0),
                         output_type="pt")  # fmt: skip
    assert torch.equal(orbit.images, own.images)
    c2ws = np.tile(np.eye(4), (2, 1, 1))
    for i, (a, e) in enumerate(np.deg2rad([[0, 0], [30, 10]])):  # looking at the origin, z up
        back = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0])
        c2ws[i, :3] = np.stack([right, np.cross(back, right), back, 1.7 * back], 1)
    k = np.diag([1.3887, 1.3887, 1.0])
    k[:2, 2] = 0.5
    for matrices in (c2ws, [torch.tensor(c2w) for c2w in c2ws]):
        same = views(pipe, mask, image=picture(0, 32, 32), multiview_c2ws=matrices,
                     multiview_intrinsics=torch.tensor(k))  # fmt: skip
        torch.testing.assert_close(same.images, orbit.images, atol=1e-4, rtol=0)
    k[0, 0] = 2.0
    other = views(pipe, mask, image=picture(0, 32, 32), multiview_c2ws=c2ws, multiview_intrinsics=k)
    assert (other.images - orbit.images).abs().max() > 1e-4
    np.testing.assert_allclose(other.cameras[1]["R"], orbit.cameras[1]["R"], atol=1e-5)


@contextlib.contextmanager
def configured(model, **fields):
    """Fields of a configuration, for a while."""
    before = {name: model.config[name] for name in fields}
    model.register_to_config(**fields)
    try:
        yield
    finally:
        model.register_to_config(**before)


def test_sizes_are_those_of_training_or_of_the_released_code(pipe):
    with configured(pipe.transformer, input_size=(1, 96, 96)):
        assert pipe._size(None, None, None, "t2i") == (768, 768)
        assert pipe._size(None, None, picture(0, 300, 400), "i2i") == (416, 576)
        assert pipe._size(None, None, picture(0, 200, 300), "i2i") == (416, 608)
        assert pipe._size(None, None, picture(0, 100, 480), "i2i") == (256, 1024)
    sizes = {"i2i": [[64, 64], [48, 80]], "t2i": [[32, 32]]}
    defaults = {"sizes": sizes, "num_inference_steps": 7, "guidance_scale": 1.0}
    with configured(pipe, defaults=defaults):
        assert pipe._size(None, None, picture(0, 300, 500), "i2i") == (48, 80)
        assert pipe._size(None, None, picture(0, 400, 300), "i2i") == (64, 64)
        assert pipe._size(None, None, None, "t2i") == (32, 32)
        assert (pipe._steps(None), pipe._guidance(None)) == (7, 1.0)
        assert (pipe._steps(3), pipe._guidance(2.0)) == (3, 2.0)
    assert (pipe._steps(None), pipe._guidance(None)) == (50, 4.0)
    with configured(pipe, defaults=defaults | {"steps": {"image2depth": 2}}):
        found = [pipe._steps(n, d) for n, d in ((None, "image2depth"), (None, "x"), (5, "x"))]
        assert found == [2, 7, 5]


def test_tasks_are_data(pipe):
    tasks = {
        "normal2image": {
            "frames": ["image", "normal", "depth"],
            "directions": {"normal2image": "first", "image2normal": ["normal", "depth"]},
        },
        "faceid": {"frames": ["image"], "repeats": 1, "directions": {"faceid": "first"}},
        "multiview": {"frames": ["image", "ray"], "directions": {"image2camera": "rays"}},
    }
    options = {**SIZE, "output_type": "pt"}
    with configured(pipe, tasks=tasks):
        found = pipe.run("image2normal", picture(0), "a", generator=seeded(0), **options).images
        want = pipe.img2img(
            "[[normal2image]] a",
            [picture(0)],
            denoise_mask=[0, 1, 1],
            generator=seeded(0),
            **options,
        ).images
        assert torch.equal(found, want) and len(found) == 2
        assert len(pipe.run("faceid", [picture(0)] * 3, **options).images) == 1
        with pytest.raises(ValueError, match="asks for 2 condition picture"):
            pipe.run("normal2image", [picture(0)], **options)
        with pytest.raises(ValueError, match="call multiview or estimate_cameras"):
            pipe.run("image2camera", [picture(0)])


def test_encode_then_sample_without_the_text_encoder(pipe):
    fast = {**SIZE, "output_type": "pt", "guidance_scale": 3.0}
    want = pipe(["x", "y"], negative_prompt="bad", generator=seeded(1, 2), **fast).images
    encoder, rest = pipe.text_encoder, {}
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds",
             "negative_prompt_attention_mask")  # fmt: skip
    alone = OneDiffusionPipeline(None, None, encoder, None, None)
    rest = dict(zip(names, alone.encode_prompt(["x", "y"], negative_prompt="bad"), strict=True))
    pipe.text_encoder = None
    try:
        assert torch.equal(pipe(**rest, generator=seeded(1, 2), **fast).images, want)
        with pytest.raises(ValueError, match="no text_encoder: give prompt_embeds"):
            pipe("x", **fast)
        with pytest.raises(ValueError, match="give negative_prompt_embeds"):
            pipe(**dict(list(rest.items())[:2]), **fast)
    finally:
        pipe.text_encoder = encoder


def test_callbacks_of_diffusers(pipe):
    from diffusers.callbacks import SDCFGCutoffCallback

    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    pipe("x", callback_on_step_end=cutoff, guidance_scale=3.0, **SIZE)
    assert pipe.guidance_scale == 0.0 and not pipe.do_classifier_free_guidance
    steps = []

    def stop(pipe, step, t, tensors):
        steps.append(step)
        pipe._interrupt = True
        return tensors

    pipe("x", callback_on_step_end=stop, **SIZE)
    assert steps == [0] and pipe.interrupt


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a scheduler with new numpy
@pytest.mark.parametrize("name", ["FlowMatchHeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_schedulers_with_steps_of_their_own(pipe, name):
    """More accurate ones come nearer to the limit of many Euler steps than Euler does."""
    fast = {**SIZE, "output_type": "latent", "guidance_scale": 1.0}
    latents, euler = torch.randn(1, 16, 4, 6, generator=seeded(0)), pipe.scheduler
    limit = pipe("x", latents=latents, **fast | {"num_inference_steps": 100}).images
    coarse = pipe("x", latents=latents, **fast | {"num_inference_steps": 8}).images
    kind = getattr(diffusers, name)
    with pytest.raises(ValueError, match="DDIMScheduler expects 'epsilon'"):
        set_schedule(diffusers.DDIMScheduler(), 4096, 2, "cpu")
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    pipe.scheduler = kind.from_config(euler.config, **options if "DPM" in name else {})
    try:
        found = pipe("x", latents=latents, **fast | {"num_inference_steps": 8}).images
    finally:
        pipe.scheduler = euler
    assert found.isfinite().all()
    assert (found - limit).abs().mean() < 1.5 * (coarse - limit).abs().mean()


def test_a_tiny_autoencoder_without_a_distribution(pipe):
    tiny = diffusers.AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    other = OneDiffusionPipeline(pipe.transformer, tiny, pipe.text_encoder, None, pipe.scheduler)
    other.set_progress_bar_config(disable=True)
    assert other.vae_scale_factor == 8
    image = torch.rand(3, 32, 48) * 2 - 1
    kept = other.sample([CAPTION], [[None, image]], 32, 48, num_inference_steps=1)[0, 1]
    # SD3's pipeline has scaling · (z − shift), ours scaling · z.
    torch.testing.assert_close(kept - 1.5305 * 0.0609, tiny.encode(image[None]).latents[0])
    assert other.img2img("x", picture(0), **SIZE, output_type="np").images.shape == (1, 32, 48, 3)
    other.enable_vae_slicing()
    other.enable_vae_tiling()
    pipe.enable_vae_tiling()


def test_the_cache_of_the_first_block(pipe):
    from diffusers import FirstBlockCacheConfig

    fast = {**SIZE, "num_inference_steps": 6, "output_type": "pt"}
    plain = pipe("x", generator=seeded(0), **fast).images
    calls = []
    hook = pipe.transformer.layers[-1].feed_forward.register_forward_hook(
        lambda *_: calls.append(1)
    )
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    try:
        cached = pipe("x", generator=seeded(0), **fast).images
    finally:
        pipe.transformer.disable_cache()
        hook.remove()
    assert 0 < len(calls) < 6
    assert (cached - plain).abs().mean() < 0.4


@pytest.mark.parametrize("comfyui", [False, True])
def test_adapters_by_the_pipelines_own_methods(pipe, comfyui):
    pytest.importorskip("peft")
    fast = {**SIZE, "output_type": "pt"}
    call = lambda: pipe("x", generator=seeded(0), **fast).images  # noqa: E731
    plain = call()
    torch.manual_seed(0)
    a, b = torch.randn(4, 96), torch.randn(96, 4)
    if comfyui:
        names = "diffusion_model.layers.0.attention.wq."
        tensors = {f"{names}lora_down.weight": a, f"{names}lora_up.weight": b / 2}
        tensors[f"{names}alpha"] = torch.tensor(8.0)
    else:
        names = "transformer.layers.0.attention.wq.lora_"
        tensors = {f"{names}A.weight": a, f"{names}B.weight": b}
    weight = pipe.transformer.layers[0].attention.wq.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += b @ a
        want = call()
        weight.copy_(before)
    pipe.load_lora_weights(tensors, adapter_name="one")
    torch.testing.assert_close(call(), want, atol=1e-4, rtol=0)
    pipe.set_adapters(["one"], [0.0])
    torch.testing.assert_close(call(), plain, atol=1e-5, rtol=0)
    pipe.set_adapters(["one"], [1.0])
    pipe.fuse_lora()
    torch.testing.assert_close(call(), want, atol=1e-4, rtol=0)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(call(), plain, atol=1e-4, rtol=0)


SCRIPT = """
import sys
import numpy as np, torch
from diffusers import AutoModel, DiffusionPipeline
torch.set_num_threads(1)
light, full, saved = sys.argv[1:]
def load(folder, **options):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe
def call(pipe):
    seed = torch.Generator().manual_seed(0)
    size = dict(height=32, width=32, num_inference_steps=2, output_type="np")
    image = pipe(["[[text2image]] a", "b"], generator=seed, **size).images
    depth = pipe.img2img("[[depth2image]] a", image[0], denoise_mask=[0, 1], generator=seed, **size)
    views = pipe.multiview("[[multiview]] a", [image[0]], [0, 20], generator=seed, **size)
    result = np.concatenate([image, depth.images, views.images])
    assert result.shape == (4, 32, 32, 3) and np.isfinite(result).all() and result.std() > 0
    return result
for folder, classes in (
    (light, {"NextDiT", "LightCodec", "HashedTextEncoder"}),
    (full, {"NextDiT", "AutoencoderKL", "T5EncoderModel"}),
):
    pipe = load(folder)
    assert type(pipe).__name__ == "OneDiffusionPipeline"
    assert classes <= {type(part).__name__ for part in pipe.components.values()}
    first = call(pipe)
    assert (call(load(folder, custom_pipeline=folder)) == first).all()
    pipe.save_pretrained(saved)
    assert (call(load(saved)) == first).all()
    assert abs(call(pipe.to(torch.bfloat16)).mean() - first.mean()) < 0.1
model = AutoModel.from_pretrained(full + "/transformer", trust_remote_code=True)
assert model.config.attention_softcap == 30
model = AutoModel.from_pretrained(full, subfolder="transformer", trust_remote_code=True)
assert "onediff_jax" not in sys.modules and "jax" not in sys.modules
print("loaded")
"""


def test_folders_load_from_nothing_but_diffusers(tmp_path):
    folders = export_light(tmp_path / "light"), export_full(tmp_path / "full")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_MODULES_CACHE")
    }
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, *map(str, folders), str(tmp_path / "saved")]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout.endswith("loaded\n"), run.stderr[-3000:]


def test_a_run_with_offloading_and_a_saved_variant(tmp_path):
    """Hashed words and the light codec, which learn nothing, among them. On a machine without an
    accelerator the hooks are the same; they move everything from the CPU to it."""
    import accelerate

    export_light(tmp_path / "light")
    calls = {"prompt": CAPTION, "generator": None, "output_type": "np"} | SIZE

    def load(folder, **options):
        found = diffusers.DiffusionPipeline.from_pretrained(
            folder, trust_remote_code=True, **options
        )
        found.set_progress_bar_config(disable=True)
        return found

    def drawn(pipe):
        shown = pipe.img2img(**calls | {"image": picture(1), "generator": seeded(3)}).images
        depth = {"image": picture(1), "denoise_mask": [0, 1], "generator": seeded(4)}
        return np.stack([shown, pipe.img2img(**calls | depth).images])

    pipe = load(tmp_path / "light")
    want = drawn(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    parts = pipe.text_encoder, pipe.transformer, pipe.vae
    assert [type(part._hf_hook).__name__ for part in parts] == 3 * ["CpuOffload"]
    np.testing.assert_array_equal(drawn(pipe), want)
    pipe.remove_all_hooks()
    for part in parts:  # as enable_sequential_cpu_offload, whose device has a number
        accelerate.cpu_offload(part, torch.device("cpu"), offload_buffers=True)
    assert next(pipe.transformer.parameters()).device.type == "meta"
    np.testing.assert_array_equal(drawn(pipe), want)
    load(tmp_path / "light").save_pretrained(tmp_path / "saved", variant="fp16")
    assert len(list((tmp_path / "saved").glob("*/*.fp16.safetensors"))) == 3
    np.testing.assert_array_equal(drawn(load(tmp_path / "saved", variant="fp16")), want)


def test_t5_captions_and_autoencoder_scale(tmp_path):
    from transformers import T5EncoderModel, T5Tokenizer

    folder = export_full(tmp_path)
    pipe = OneDiffusionPipeline(
        NextDiT.from_pretrained(folder / "transformer"),
        diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        T5EncoderModel.from_pretrained(folder / "text_encoder"),
        T5Tokenizer.from_pretrained(folder / "tokenizer"),
        diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    embeds, mask, *null = pipe.encode_prompt([CAPTION, ""], False)
    assert null == [None, None]
    assert embeds.shape == (2, 300, 48)
    assert mask[1].sum() == 1  # the end token
    assert 5 < mask[0].sum() < 60
    image = torch.rand(3, 32, 32) * 2 - 1
    kept = pipe.sample(
        [CAPTION], [[None, image]], 32, 32, generator=seeded(3), num_inference_steps=1
    )
    posterior = pipe.vae.encode(image[None]).latent_dist
    torch.testing.assert_close(kept[0, 1], 1.5305 * posterior.sample(seeded(3))[0])
    assert pipe("x", **SIZE, max_length=20, output_type="np").images.shape == (1, 32, 48, 3)
