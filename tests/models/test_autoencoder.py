"""The autoencoder against diffusers' AutoencoderKL with random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from onediff_jax.models import load_autoencoder
from onediff_jax.models.autoencoder import AutoencoderConfig, layout
from tests.typed import refused

SD3_LIKE = dict(
    block_out_channels=(16, 32, 32),
    layers_per_block=1,
    latent_channels=16,
    norm_num_groups=8,
    use_quant_conv=False,
    use_post_quant_conv=False,
    scaling_factor=1.5305,
    shift_factor=0.0609,
)
SD1_LIKE = dict(
    block_out_channels=(16, 24, 32, 32), layers_per_block=1, latent_channels=4, norm_num_groups=4
)
NO_ATTENTION = dict(
    block_out_channels=(8, 16),
    layers_per_block=2,
    latent_channels=3,
    norm_num_groups=2,
    mid_block_add_attention=False,
    use_post_quant_conv=False,
)


def torch_model(options):
    levels = len(options["block_out_channels"])
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **options,
    ).eval()


def save_torch(folder, options, seed=0):
    """A diffusers autoencoder, saved; norms and biases away from one and zero."""
    torch.manual_seed(seed)
    model = torch_model(options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.mul_(1.5)
    model.save_pretrained(folder)
    return model


def to_torch(array):
    return torch.from_numpy(np.array(array)).permute(0, 3, 1, 2)


def from_torch(tensor):
    return tensor.permute(0, 2, 3, 1).numpy()


def random_images(height, width, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)


def torch_encode(model, images):
    with torch.no_grad():
        posterior = model.encode(to_torch(images)).latent_dist
    return from_torch(posterior.mean), from_torch(posterior.logvar)


def torch_decode(model, latents):
    with torch.no_grad():
        return from_torch(model.decode(to_torch(latents)).sample)


def relative_error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    return save_torch(folder, SD3_LIKE), folder


@pytest.fixture(scope="module")
def sd3_ours(sd3):
    return load_autoencoder(sd3[1])


@pytest.mark.parametrize("options", [SD3_LIKE, SD1_LIKE, NO_ATTENTION])
def test_float32_equals_torch(tmp_path, options):
    model = save_torch(tmp_path, options, seed=1)
    ours = load_autoencoder(tmp_path)
    images = random_images(48, 80)
    mean, logvar = ours.encode(images)
    mean_torch, logvar_torch = torch_encode(model, images)
    assert mean.dtype == logvar.dtype == jnp.float32
    assert mean.shape == (2, 48 // ours.factor, 80 // ours.factor, options["latent_channels"])
    np.testing.assert_allclose(mean, mean_torch, atol=1e-4, rtol=0)
    np.testing.assert_allclose(logvar, logvar_torch, atol=1e-4, rtol=0)
    latents = np.random.default_rng(2).normal(size=mean.shape).astype(np.float32)
    decoded = ours.decode(latents)
    assert decoded.shape == images.shape
    np.testing.assert_allclose(decoded, torch_decode(model, latents), atol=1e-4, rtol=0)


def test_bfloat16_is_close_to_torch(sd3):
    model, folder = sd3
    ours = load_autoencoder(folder, dtype="bfloat16")
    images = random_images(32, 48)
    mean, _ = ours.encode(images)
    theirs = torch_encode(model, images)[0]
    assert relative_error(np.asarray(mean), theirs) < 2e-2
    assert relative_error(np.asarray(ours.decode(theirs)), torch_decode(model, theirs)) < 2e-2
    assert mean.dtype == jnp.float32
    assert ours.params["encoder"]["conv_in"]["kernel"].dtype == jnp.bfloat16
    assert ours.params["encoder"]["conv_norm_out"]["scale"].dtype == jnp.float32


def test_log_variance_is_clipped(tmp_path):
    model = save_torch(tmp_path, NO_ATTENTION)
    with torch.no_grad():
        model.quant_conv.bias[3:] = torch.tensor([-1000.0, 0.0, 1000.0])
    model.save_pretrained(tmp_path)
    images = random_images(8, 8)
    logvar = np.asarray(load_autoencoder(tmp_path).encode(images)[1])
    assert (logvar[..., 0] == -30).all() and (logvar[..., 2] == 20).all()
    np.testing.assert_allclose(logvar, torch_encode(model, images)[1], atol=1e-4)


def test_attention_in_chunks_equals_torch(tmp_path):
    """More positions than are attended at once, and not a multiple of them."""
    options = NO_ATTENTION | dict(mid_block_add_attention=True, layers_per_block=1)
    model = save_torch(tmp_path, options)
    latents = np.random.default_rng(0).normal(size=(1, 40, 42, 3)).astype(np.float32)
    ours = load_autoencoder(tmp_path).decode(latents)
    np.testing.assert_allclose(ours, torch_decode(model, latents), atol=1e-4)


def test_config_values(sd3_ours):
    assert sd3_ours.scaling_factor == 1.5305 and sd3_ours.shift_factor == 0.0609
    assert sd3_ours.factor == 4 and sd3_ours.channels == 16


def test_full_size_names_and_shapes():
    """Stable Diffusion 3's autoencoder, without its weights."""
    options = SD3_LIKE | dict(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32
    )
    with torch.device("meta"):
        theirs = {n: tuple(t.shape) for n, t in torch_model(options).state_dict().items()}
    _, _, sources = layout(AutoencoderConfig(**options), jnp.float32)
    assert {name: s.shape for s in sources.values() for name in s.names} == theirs
    assert sum(np.prod(shape) for shape in theirs.values()) == 83_819_683


def test_pure_functions_take_other_params(sd3_ours):
    latents = np.random.default_rng(0).normal(size=(1, 24, 36, 16)).astype(np.float32)
    zeros = jax.tree.map(jnp.zeros_like, sd3_ours.params)
    apply = jax.jit(sd3_ours.apply_decode)
    np.testing.assert_allclose(apply(sd3_ours.params, latents), sd3_ours.decode(latents), atol=1e-6)
    assert not np.any(apply(zeros, latents))


def test_sharded_folder_and_old_names(tmp_path, sd3, sd3_ours):
    """Shards with an index, and the attention names of old files, load to the same parameters."""
    from safetensors.torch import save_file

    model, folder = sd3
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in model.state_dict().items():
        for new_name, old_name in old.items():
            name = name.replace(f"attentions.0.{new_name}.", f"attentions.0.{old_name}.")
        tensors[name] = tensor
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in tensors
    (tmp_path / "old").mkdir()
    save_file(tensors, tmp_path / "old" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "old" / "config.json").write_text((folder / "config.json").read_text())
    for other in ("shards", "old"):
        params = load_autoencoder(tmp_path / other).params
        jax.tree.map(np.testing.assert_array_equal, params, sd3_ours.params)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((1, 30, 32, 3), np.float32), "multiples of 4"),
        (np.zeros((1, 32, 32, 4), np.float32), r"\(B, H, W, 3\)"),
        (np.zeros((1, 32, 32, 3), np.uint8), "uint8"),
        (np.zeros((32, 32, 3), np.float32), r"\(B, H, W, 3\)"),
    ],
)
def test_wrong_images(sd3_ours, images, message):
    with refused(message):
        sd3_ours.encode(images)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "down_block_types"),
        ({"_class_name": "VQModel"}, "VQModel"),
        ({"wavelets": 3}, r"unknown config fields \['wavelets'\]"),
        ({"norm_num_groups": 5}, "norm_num_groups=5"),
    ],
)
def test_unsupported_config(tmp_path, sd3, change, message):
    config = json.loads((sd3[1] / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_autoencoder(tmp_path)


def test_wrong_dtype_choice(sd3):
    with pytest.raises(ValueError, match="float16.*float32"):
        load_autoencoder(sd3[1], dtype="float16")


def test_tiled_is_close_and_without_seams(sd3_ours):
    """Against the whole image: near everywhere, and the difference has no jump at a tile's edge."""
    latents = np.asarray(sd3_ours.encode(random_images(96, 144, batch=1))[0])
    whole = np.asarray(sd3_ours.decode(latents))
    tiled = np.asarray(sd3_ours.decode_tiled(latents, tile=18, overlap=8))
    assert tiled.shape == whole.shape
    difference = tiled - whole
    assert np.abs(difference).mean() < 0.15 * whole.std()
    assert 0 < np.abs(difference).max()
    # Tile edges are zero-padded inside the network; without the blend they would show as jumps.
    steps = np.abs(np.diff(difference, axis=2)).mean(axis=(0, 1, 3))
    assert steps.max() < 2.2 * np.median(steps)


def test_tiled_encode_returns_both_moments(sd3_ours):
    images = random_images(96, 144, batch=1)
    whole = sd3_ours.encode(images)
    tiled = sd3_ours.encode_tiled(images, tile=64, overlap=32)
    for a, b in zip(tiled, whole, strict=True):
        assert a.shape == b.shape == (1, 24, 36, 16)
        assert np.abs(a - b).mean() < 0.15 * np.std(b)


def test_one_tile_is_the_whole(sd3_ours):
    images = random_images(96, 144, batch=1)
    for a, b in zip(sd3_ours.encode_tiled(images), sd3_ours.encode(images), strict=True):
        np.testing.assert_array_equal(a, b)
