"""The small PyTorch parts against their numpy counterparts and the golden camera files."""

import json
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from PIL import Image

from onediff_jax.data import codec, text_hash
from onediff_jax.interop import torch_files
from onediff_jax.interop.torch_files import cameras_torch
from onediff_jax.interop.torch_files.hashed_text import HashedTextEncoder
from onediff_jax.interop.torch_files.light_codec import LightCodec
from onediff_jax.interop.torch_files.pictures_torch import as_tensor, fit, size_like
from onediff_jax.tasks import cameras

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def smooth_pictures(count, height, width):
    y, x = np.mgrid[:height, :width] / 16.0
    waves = [np.sin(x * (i + 1) + y * c + c) for i in range(count) for c in range(3)]
    return np.stack(waves).reshape(count, 3, height, width).astype(np.float32)


def test_light_codec_equals_numpy(tmp_path):
    torch_files.write_light_codec(tmp_path)
    model = LightCodec.from_pretrained(tmp_path / "vae")
    images = smooth_pictures(2, 24, 40)
    latents = model.encode(torch.from_numpy(images)).latent_dist.mode()
    expected = codec.LightCodec().encode(np.moveaxis(images, 1, -1))
    np.testing.assert_allclose(latents.permute(0, 2, 3, 1), expected, atol=1e-5)
    decoded = model.decode(latents).sample
    expected = codec.LightCodec().decode(expected)
    np.testing.assert_allclose(decoded.permute(0, 2, 3, 1), expected, atol=1e-5)
    again = model.encode(torch.from_numpy(images)).latent_dist.sample()
    assert torch.equal(again, latents)  # a point, not a distribution
    half = model.to(torch.bfloat16).decode(latents.bfloat16()).sample
    assert half.dtype == torch.bfloat16
    assert (half.float() - decoded).abs().max() < 0.06


def test_light_codec_refuses_sizes_it_cannot_cut():
    with pytest.raises(ValueError, match="multiples of 8"):
        LightCodec().encode(torch.zeros(1, 3, 12, 16))
    with pytest.raises(ValueError, match="must be"):
        LightCodec().decode(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize("dim", [48, 100])
def test_hashed_text_equals_numpy(tmp_path, dim):
    prompts = ["", "[[depth2image]] A red, RED cube; naïve #00FFFF", "word " * 40, "one"]
    torch_files.write_hashed_text(tmp_path, dim=dim, max_length=12)
    model = HashedTextEncoder.from_pretrained(tmp_path / "text_encoder")
    for length in (None, 5):
        embeds, mask = model(prompts, length)
        expected, expected_mask = text_hash.HashedTextEncoder(dim, length or 12)(prompts)
        np.testing.assert_array_equal(embeds, expected)
        np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize("case", ["a0_default", "a1_inference_example"])
def test_orbit_rays_match_the_released_code(case):
    with np.load(GOLDEN / "rays.npz") as arrays:
        golden = {k.removeprefix(f"{case}__"): arrays[k] for k in arrays if k.startswith(case)}
    rays = cameras_torch.orbit_rays(
        golden["azimuth"], golden["elevation"], golden["distance"], float(golden["focal"]), (8, 8)
    )
    np.testing.assert_allclose(rays.reshape(4, 64, 6), golden["rays"], atol=1e-5)
    frames = cameras_torch.ray_frames(rays)
    np.testing.assert_allclose(frames, golden["frame16"], atol=1e-5)
    np.testing.assert_allclose(cameras_torch.rays_from_frames(frames), rays, atol=1e-6)


@pytest.mark.parametrize("noisy", [False, True])
def test_cameras_of_rays_match_the_released_code(noisy):
    with np.load(GOLDEN / "rays.npz") as arrays:
        kind = "noisy_" if noisy else ""
        rays = arrays[f"b0_square__{kind}rays"].reshape(3, 8, 8, 6)
        focal = arrays["b0_square__p3d_focal"][0, 0] / 2
        expected = [arrays[f"b0_square__{kind}rec_{part}"] for part in "RT"]
    found = cameras_torch.cameras_from_rays(rays, focal)
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_cameras_equal_those_of_training():
    rng = np.random.default_rng(0)
    azimuths, elevations = rng.uniform(-180, 180, 5), rng.uniform(-80, 80, 5)
    distances = rng.uniform(1, 3, 5)
    expected = cameras.orbit_cameras(azimuths, elevations, distances, focal=1.2)
    poses = cameras_torch.orbit_cameras(azimuths, elevations, distances)
    rotations, translations = cameras_torch.rebase(*poses)
    np.testing.assert_allclose(rotations, expected.R, atol=1e-9)
    np.testing.assert_allclose(translations, expected.T, atol=1e-9)
    rays = cameras_torch.orbit_rays(azimuths, elevations, distances, 1.2, (6, 10))
    np.testing.assert_allclose(rays, cameras.rays_from_cameras(expected, (6, 10)), atol=1e-6)
    found = cameras_torch.cameras_from_rays(rays, 1.2)
    np.testing.assert_allclose(found[0], expected.R, atol=1e-5)
    np.testing.assert_allclose(found[1], expected.T, atol=1e-5)


def test_pictures_of_every_type_are_the_same():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    floats = pixels / 255.0
    expected = fit(pixels, 16, 24)
    assert expected.shape == (3, 16, 24)
    np.testing.assert_allclose(expected, np.moveaxis(floats, -1, 0) * 2 - 1, atol=1e-6)
    tensor = torch.from_numpy(floats).permute(2, 0, 1)
    for picture in (Image.fromarray(pixels), floats, tensor):
        torch.testing.assert_close(fit(picture, 16, 24), expected)
    white = fit(np.ones((16, 16, 3)), 16, 16)  # an all-bright picture is not normalised twice
    assert (white == 1).all()


def test_transparency_is_white():
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert (as_tensor(clear) == 1).all()
    half = as_tensor(Image.new("LA", (16, 16), (0, 128)))
    assert (half - 127 / 255).abs().max() < 0.01
    palette = Image.new("P", (16, 16), 3)
    palette.info["transparency"] = 3
    assert (as_tensor(palette) == 1).all()


def test_pictures_are_covered_and_cut_about_the_centre():
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    assert (fit(pixels, 32, 32) == 1).all()
    assert fit(pixels, 64, 48).shape == (3, 64, 48)
    assert size_like(pixels, 64 * 64, 16) == (32, 112)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4)),
        torch.zeros(4, 4, 3),
        -np.ones((4, 4, 3)),
        Image.new("I", (4, 4)),
        1,
    ],
)
def test_other_pictures_are_refused(picture):
    with pytest.raises(ValueError, match="picture"):
        as_tensor(picture)


def test_copy_into_names_every_file_it_copies(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "nextdit_01234567.py").write_text("of an earlier export")
    index = torch_files.copy_into(tmp_path, vae="light", text="hashed")
    json.dumps(index)
    named = {f"{index['_class_name'][0]}.py", "pipeline.py"}
    named |= {f"{part}/{index[part][0]}.py" for part in ("transformer", "vae", "text_encoder")}
    files = list(tmp_path.rglob("*.py"))
    assert {str(file.relative_to(tmp_path)) for file in files} == named
    assert index["tokenizer"] == [None, None]
    for file in files:
        assert "onediff_jax" not in file.read_text(), "exported files must stand alone"
    with pytest.raises(ValueError, match=r"vae='sd3' must be one of \['autoencoder_kl', 'light'\]"):
        torch_files.copy_into(tmp_path, vae="sd3")


def test_model_card_is_complete(tmp_path):
    torch_files.write_model_card(
        tmp_path,
        name="me/mine",
        parameters="1 M",
        training="10 steps",
        size=(64, 96),
        text="hashed",
    )
    card = (tmp_path / "README.md").read_text()
    assert 'from_pretrained("me/mine"' in card
    assert "64 × 96" in card
    assert "30·tanh(x/30)" in card
    assert "{" not in card
