"""Released folders in and out: golden outputs, round trips, and every defect named."""

import json
import os
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from onediff_jax.flow.sampler import denoise
from onediff_jax.interop import load_pretrained, save_pretrained
from onediff_jax.interop.config import PretrainedError, read_config
from onediff_jax.interop.model import PretrainedModel, param_shapes
from onediff_jax.interop.pretrained import find_folder, load_params
from onediff_jax.models.nextdit import NextDiTConfig
from tests.models.golden import GOLDEN, load_case
from tests.typed import refused

ROOT = GOLDEN / "nextdit_tiny"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CASES = ["c00_1frame", "c01_2frames", "c03_nonsquare", "c04_batch3", "c07_scale_linear"]


def call(model, case):
    return model(
        case["samples"],
        case["timesteps"][:, :, 0, 0, 0],
        case["encoder_hidden_states"],
        case["encoder_attention_mask"],
        rope_scale=float(case["scale_factor"]),
        rope_watershed=float(case["scale_watershed"]),
    )


@pytest.fixture(scope="module")
def model():
    return load_pretrained(ROOT, attention_softcap=None)


@pytest.fixture
def folder(tmp_path):
    """A transformer folder that a test may damage."""
    shutil.copytree(ROOT / "transformer", tmp_path / "copy", copy_function=shutil.copyfile)
    return tmp_path / "copy"


@pytest.mark.parametrize("case", CASES)
def test_matches_the_released_model(model, case):
    found = load_case("nextdit_tiny/cases.npz", case)
    np.testing.assert_allclose(call(model, found), found["output"], atol=1e-4, rtol=0)


def test_softcap_by_default_and_by_the_folder(folder, tmp_path):
    case = load_case("nextdit_tiny_softcap/cases.npz", "c01_2frames")
    capped = load_pretrained(GOLDEN / "nextdit_tiny_softcap")
    assert capped.config.attention_softcap == 30.0
    np.testing.assert_allclose(call(capped, case), case["output_softcap"], atol=5e-4, rtol=0)
    save_pretrained(load_pretrained(folder, attention_softcap=None), tmp_path / "none")
    assert load_pretrained(tmp_path / "none").config.attention_softcap is None
    assert load_pretrained(tmp_path / "none", attention_softcap=5).config.attention_softcap == 5
    with pytest.raises(PretrainedError, match="positive; None turns it off"):
        load_pretrained(folder, attention_softcap=0)


def test_bfloat16_is_close(model):
    case = load_case("nextdit_tiny/cases.npz", "c01_2frames")
    half = load_pretrained(ROOT, dtype="bfloat16", attention_softcap=None)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {np.dtype(ml_dtypes.bfloat16)}
    error = np.asarray(call(half, case)) - case["output"]
    assert 0 < np.sqrt(np.square(error).mean()) < 2e-2 * case["output"].std()
    with pytest.raises(ValueError, match="compute dtype"):
        load_pretrained(ROOT, dtype="float16")


@pytest.mark.parametrize("max_shard_bytes", [10**9, 300_000])
def test_round_trip(tmp_path, max_shard_bytes):
    """The same tensors bit for bit, the same names, the same fields: from the root and back."""
    loaded = load_pretrained(ROOT)
    save_pretrained(loaded, tmp_path, max_shard_bytes=max_shard_bytes)
    found = {}
    files = sorted((tmp_path / "transformer").glob("*.safetensors"))
    assert len(files) == (1 if max_shard_bytes == 10**9 else 7)
    for file in files:
        found |= load_file(file)
    want = load_file(ROOT / "transformer" / WEIGHTS)
    assert found.keys() == want.keys()
    for name, tensor in want.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name].view(np.uint32), tensor.view(np.uint32))
    fields = json.loads((tmp_path / "transformer" / "config.json").read_text())
    assert fields == json.loads((ROOT / "transformer" / "config.json").read_text())
    again = load_pretrained(tmp_path / "transformer")
    assert again.config == loaded.config
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)


def test_saving_replaces_weights_and_nothing_else(folder, model):
    (folder / "nextdit.py").write_text("kept")
    save_pretrained(model, folder, max_shard_bytes=300_000)
    assert not (folder / WEIGHTS).exists()
    save_pretrained(model, folder, dtype="bfloat16")
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", WEIGHTS, "nextdit.py"]
    assert load_file(folder / WEIGHTS)["x_embedder.bias"].dtype == ml_dtypes.bfloat16
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(ValueError, match="dtype='int8'"):
        save_pretrained(model, folder, dtype="int8")
    assert (folder / WEIGHTS).read_bytes() == before
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", WEIGHTS, "nextdit.py"]


def test_a_new_network_gets_the_released_fields(tmp_path):
    config = NextDiTConfig(96, 1, 4, 2, 32, caption_channels=8)
    shapes = param_shapes(config)
    params = jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape), shapes)
    save_pretrained(PretrainedModel(config, params), tmp_path)
    fields = json.loads((tmp_path / "transformer" / "config.json").read_text())
    assert fields["_class_name"] == "NextDiT" and fields["patch_size"] == [1, 2, 2]
    assert fields["rotary_max_length"] == 128 and fields["rotary_max_length_t"] is None
    assert load_pretrained(tmp_path).config == config


def test_records_of_released_folders_are_kept(folder, tmp_path):
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"decay": 0.9999, "power": 2 / 3, "param_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(fields))
    save_pretrained(load_pretrained(folder), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "transformer" / "config.json").read_text()) == fields


@pytest.mark.parametrize(
    "change, message",
    [
        ({"_class_name": "DiT"}, "_class_name is 'DiT', not 'NextDiT'"),
        (
            {"window": 4, "depth": None},
            r"(?s)unknown field window=4.*depth=None must be a positive",
        ),
        ({"patch_size": [1, 4, 4]}, r"patch_size=\[1, 4, 4\]: only \[1, 2, 2\]"),
        ({"num_heads": 6}, "multiple of num_heads=6|head dim 16 must be a multiple of 6"),
        ({"hidden_size": "96"}, "hidden_size='96' must be a positive number"),
        ({"qk_norm": False, "pred_sigma": True}, r"(?s)pred_sigma=True: only False.*qk_norm=False"),
    ],
)
def test_unsupported_configs(folder, change, message):
    fields = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(PretrainedError, match=message):
        load_pretrained(folder)


def test_missing_fields_are_named(folder):
    fields = json.loads((folder / "config.json").read_text())
    del fields["caption_channels"], fields["norm_eps"]
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(PretrainedError, match=r"(?s)field caption_channels.*field norm_eps"):
        load_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(PretrainedError, match=r"config\.json cannot be read"):
        load_pretrained(folder)


def test_every_tensor_that_does_not_fit_is_listed(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["layers.1.attention.wq.weight"], tensors["y_embedder.0.bias"]
    tensors["layers.0.attention.gate"] = np.zeros(3, np.float32)
    tensors["layers.3.ffn_norm1.weight"] = np.zeros(96, np.float32)
    tensors["x_embedder.bias"] = np.zeros(96, np.int8)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(PretrainedError) as error:
        load_pretrained(folder)
    assert str(error.value).splitlines()[1:] == [
        "layers.0.attention.gate has shape (3,), not (8,)",
        "missing layers.1.attention.wq.weight (96, 96)",
        "missing y_embedder.0.bias (48,)",
        "unexpected layers.3.ffn_norm1.weight (96,)",
        "x_embedder.bias has dtype int8, not one of ['float32', 'float16', 'bfloat16']",
    ]


def damage(kind, folder):
    file = folder / WEIGHTS
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "foreign":
        file.write_bytes((7).to_bytes(8, "little") + b"garbage" + bytes(100))
    elif kind == "torn header":
        file.write_bytes((7).to_bytes(8, "little") + b'{"x":3}' + bytes(100))
    elif kind == "pickle":
        file.rename(folder / "diffusion_pytorch_model.bin")
    elif kind == "none":
        file.unlink()
    elif kind == "shard":
        file.unlink()
        index = {"weight_map": {"x_embedder.bias": "other-00001-of-00002.safetensors"}}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    elif kind == "index":
        file.unlink()
        (folder / f"{WEIGHTS}.index.json").write_text("{}")


@pytest.mark.parametrize(
    "kind, message",
    [
        ("truncated", "cut off or damaged"),
        ("empty", "not a whole safetensors file"),
        ("foreign", "not a safetensors file"),
        ("torn header", "is damaged: x is described by"),
        ("pickle", "pickles, which can run code"),
        ("none", f"has no {WEIGHTS}"),
        ("shard", "names the shard 'other-00001-of-00002.safetensors', which is not in the folder"),
        ("index", "not an index of shards"),
    ],
)
def test_damaged_weights(folder, kind, message):
    damage(kind, folder)
    with pytest.raises(PretrainedError, match=message):
        load_pretrained(folder)


def test_no_such_folder(tmp_path, monkeypatch):
    with pytest.raises(PretrainedError, match="neither transformer/"):
        load_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match="is no folder, nor a hub id"):
        find_folder("/no/such/folder")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(PretrainedError, match=r"'some/model' is no folder here.*hf download"):
        find_folder("some/model")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert find_folder("some/model") == tmp_path


def test_a_run_gets_the_weights_in_its_own_sharding():
    devices = np.array(jax.devices()[:1])
    mesh = Mesh(devices, ("fsdp",))
    config, _ = read_config(ROOT / "transformer")
    shapes = param_shapes(config)
    sharding = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda _: sharding, shapes)
    loaded = load_params(ROOT, config, shapes, shardings)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(loaded))
    jax.tree.map(np.testing.assert_array_equal, loaded, load_pretrained(ROOT).params)


def test_another_network_is_refused_by_field():
    config = NextDiTConfig(96, 2, 8, 2, 32, caption_channels=64)
    with pytest.raises(PretrainedError) as error:
        load_params(ROOT, config, param_shapes(config))
    assert str(error.value).splitlines()[1:] == [
        "  model.depth=2 in this config, 3 in the folder",
        "  model.caption_channels=64 in this config, 48 in the folder",
    ]


SHARDED = """
import sys
import jax
import numpy as np
from ml_collections import ConfigDict
from onediff_jax.interop import load_pretrained, save_pretrained
from onediff_jax.interop.model import PretrainedModel, param_shapes
from onediff_jax.interop.pretrained import load_params
from onediff_jax.parallel.mesh import make_mesh
from onediff_jax.parallel.sharding import state_shardings

root, out = sys.argv[1:]
whole = load_pretrained(root)
mesh = make_mesh(ConfigDict({"replica": 1, "fsdp": 4, "tensor": 2, "sequence": 1}))
shapes = param_shapes(whole.config)
shardings = state_shardings(shapes, mesh)
params = load_params(root, whole.config, shapes, shardings)
kernel = params["layers"]["attention"]["wq"]["kernel"]
assert [shard.data.shape for shard in kernel.addressable_shards] == [(3, 24, 48)] * 8
jax.tree.map(np.testing.assert_array_equal, params, whole.params)
save_pretrained(PretrainedModel(whole.config, params), out)
jax.tree.map(np.testing.assert_array_equal, load_pretrained(out).params, whole.params)
"""


@pytest.mark.slow
def test_eight_devices_read_and_write_their_shards(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SHARDED, str(ROOT), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | flags)


def test_it_samples(model):
    """The loaded model in a whole denoising loop of the released pipeline."""
    case = load_case("sampler.npz", "d_t2i")
    noise = case["init_latents"]
    names = ("cond_embeds", "cond_mask", "uncond_embeds", "uncond_mask")
    text = [case[name] for name in names]
    found = denoise(model, noise, 0 * noise, [1], *text, num_steps=8, guidance=3.0)
    np.testing.assert_allclose(found, case["final_latents"], atol=5e-4)


def test_importing_the_package_is_cheap():
    code = (
        "import sys, onediff_jax.interop; sys.exit('jax' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_calls(model):
    case = load_case("nextdit_tiny/cases.npz", "c00_1frame")
    with refused("16 channels"):
        call(model, case | {"samples": case["samples"][..., :8]})
    with refused("one per frame"):
        model(case["samples"], np.zeros((1, 4)), case["encoder_hidden_states"], np.ones((1, 3)))
