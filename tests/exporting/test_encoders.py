"""Encoders that a pipeline could not load are refused before anything is written."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from onediff_jax.exporting.encoders import check_text, check_vae, copy_part
from onediff_jax.exporting.place import ExportError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    pytest.importorskip("diffusers")
    from tests.pipelines import save_pipeline

    folder = tmp_path_factory.mktemp("pipeline")
    save_pipeline(folder)
    return folder


@pytest.fixture
def pipeline(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "pipeline")


def test_what_is_whole_passes(saved):
    check_text(saved, 16)
    check_vae(saved / "vae", 16)


def test_another_width(saved):
    with pytest.raises(ExportError, match=r"of width 16, and .* model.caption_channels=2048"):
        check_text(saved, 2048)
    with pytest.raises(ExportError, match="has 16 channels, the network 4"):
        check_vae(saved / "vae", 4)


def test_half_a_text_encoder(pipeline):
    file = pipeline / "text_encoder" / "model.safetensors"
    tensors = {name: t for name, t in load_file(file).items() if "block.1." not in name}
    save_file(tensors, file)
    with pytest.raises(ExportError, match="has 1 of 2 layers"):
        check_text(pipeline, 16)
    file.unlink()
    with pytest.raises(ExportError, match=r"no model.safetensors"):
        check_text(pipeline, 16)


def test_variants_get_the_plain_names(pipeline, tmp_path):
    """By those a pipeline loads them; other variants stay behind."""
    vae, text = pipeline / "vae", pipeline / "text_encoder"
    plain = vae / "diffusion_pytorch_model.safetensors"
    shutil.copyfile(plain, vae / "diffusion_pytorch_model.bf16.safetensors")
    plain = plain.rename(vae / "diffusion_pytorch_model.fp16.safetensors")
    weights = load_file(text / "model.safetensors")
    (text / "model.safetensors").unlink()
    names = sorted(weights)
    weight_map = {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        shard = f"model.fp16-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, text / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = text / "model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    check_vae(vae, 16)
    check_text(pipeline, 16)
    for part in ("vae", "text_encoder"):
        copy_part(pipeline / part, tmp_path / "out" / part)
    made = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.suffix != ".txt")
    assert [name for name in made if "safetensors" in name] == [
        "diffusion_pytorch_model.safetensors",
        *(f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)),
        "model.safetensors.index.json",
    ]
    copied = (tmp_path / "out/vae/diffusion_pytorch_model.safetensors").read_bytes()
    assert copied == plain.read_bytes()
    from transformers import T5EncoderModel

    loaded = T5EncoderModel.from_pretrained(tmp_path / "out/text_encoder").state_dict()
    assert all((loaded[name].numpy() == weights[name]).all() for name in names)


@pytest.mark.parametrize(
    ("part", "name", "check"),
    [
        ("text_encoder", "pytorch_model.bin", lambda folder: check_text(folder, 16)),
        ("vae", "diffusion_pytorch_model.bin", lambda folder: check_vae(folder / "vae", 16)),
    ],
)
def test_pickles(pipeline, part, name, check):
    for file in (pipeline / part).glob("*.safetensors"):
        file.rename(file.with_name(name))
    with pytest.raises(ExportError, match="these are pickles"):
        check(pipeline)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_missing_part(pipeline, part):
    shutil.rmtree(pipeline / part)
    with pytest.raises(ExportError, match="cannot be exported|is no tokenizer"):
        check_text(pipeline, 16)


def test_a_vae_of_another_kind(pipeline):
    (pipeline / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderDC"}))
    with pytest.raises(ExportError, match="the autoencoder cannot be exported"):
        check_vae(pipeline / "vae", 16)
