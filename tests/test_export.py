"""Exports: what is in the folder, that it is whole or not there, and that PyTorch agrees."""

import errno
import json
import shutil
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

import onediff_jax.export as export_module
from onediff_jax.experiment.build import make_experiment
from onediff_jax.export import ExportError, Options, export
from onediff_jax.exporting.place import locked
from onediff_jax.files import write_json
from onediff_jax.interop import load_pretrained
from onediff_jax.interop.names import to_place
from onediff_jax.interop.pretrained import PretrainedError, load_export
from onediff_jax.interop.torch_files.bundling import bundle
from onediff_jax.run.adapters import initial_adapters
from onediff_jax.run.checkpoint import CheckpointError
from onediff_jax.sampling.source import load_source
from tests.experiments import shrunken
from tests.runs import lora_config, noisy, save_run

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def saved(workdir):
    """{step: (params, ema)} of the workdir."""
    return save_run(workdir, shrunken())


def run(source, out, **options):
    lines = []
    export(source, out, Options(**options), lines.append)
    return lines


def same(found, want, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=0), found, want)


def files(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def exported(workdir, saved, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "ours"
    run(workdir, out)
    return out


def test_the_layout_is_the_released_one(exported):
    assert files(exported) == {
        "README.md",
        "model_index.json",
        "onediff_jax.json",
        f"{bundle('pipeline')[0]}.py",
        "pipeline.py",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/diffusion_pytorch_model.safetensors",
        f"text_encoder/{bundle('hashed_text')[0]}.py",
        "transformer/config.json",
        f"transformer/{bundle('nextdit')[0]}.py",
        WEIGHTS,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        f"vae/{bundle('light_codec')[0]}.py",
    }
    config = json.loads((exported / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "NextDiT" and config["hidden_size"] == 48
    assert config["input_size"] == [1, 4, 4] and config["model_max_length"] == 16
    card = (exported / "README.md").read_text()
    assert "7 steps of depth2image, faceid" in card and "32 × 32" in card
    assert "| data | the embedded world (simple), 64 scenes per task |" in card
    assert list(exported.parent.iterdir()) == [exported]
    assert exported.stat().st_mode & 0o777 == 0o755


def test_weights_are_those_of_the_checkpoint(exported, saved):
    params = traverse_util.flatten_dict(saved[7][1])
    tensors = load_file(exported / WEIGHTS)
    assert len(tensors) > len(params)
    for name, tensor in tensors.items():
        place = to_place(name, tensor.ndim)
        leaf = params[place.path] if place.layer is None else params[place.path][place.layer]
        np.testing.assert_array_equal(tensor.T if place.transpose else tensor, leaf)


def test_the_export_is_a_source(exported, workdir, saved):
    config, params = load_export(exported)
    same(params, saved[7][1])
    assert config.to_dict() == shrunken().to_dict()
    assert json.loads((exported / "onediff_jax.json").read_text())["step"] == 7
    source = load_source(exported)
    same(source.params, saved[7][1])
    same(load_source(workdir).params, saved[7][1])
    same(load_pretrained(exported).params, saved[7][1])


def test_step_raw_weights_shards_and_dtype(workdir, saved, tmp_path):
    run(workdir, tmp_path / "x", step=3, ema=False, dtype="bfloat16", max_shard_gb=1e-4)
    assert (tmp_path / "x" / f"{WEIGHTS}.index.json").is_file()
    found = load_pretrained(tmp_path / "x").params
    same(found, jax.tree.map(lambda a: a.astype("bfloat16").astype("float32"), saved[3][0]))
    assert json.loads((tmp_path / "x" / "onediff_jax.json").read_text())["weights"] == "params"


def test_arrays_are_read_in_small_groups(workdir, saved, exported, tmp_path, monkeypatch):
    monkeypatch.setattr("onediff_jax.sampling.saved_run._GROUP_BYTES", 60_000)
    run(workdir, tmp_path / "x")
    assert (tmp_path / "x" / WEIGHTS).read_bytes() == (exported / WEIGHTS).read_bytes()


def test_an_export_is_replaced_only_when_asked_and_whole(workdir, saved, tmp_path, monkeypatch):
    out = tmp_path / "x"
    run(workdir, out, step=3)
    with pytest.raises(ExportError, match="--overwrite"):
        run(workdir, out)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export_module.torch_files, "write_model_card", full)
        with pytest.raises(ExportError, match="is full; nothing is left"):
            run(workdir, out, overwrite=True)
    same(load_pretrained(out).params, saved[3][1])
    assert list(tmp_path.iterdir()) == [out]
    run(workdir, out, overwrite=True)
    same(load_pretrained(out).params, saved[7][1])
    assert list(tmp_path.iterdir()) == [out]


def test_the_next_export_removes_what_a_killed_one_left(workdir, saved, tmp_path):
    """The folder of one that is still at work, and those of other names, stay."""
    names = (".x-1.partial", ".x-2.partial", ".xy-3.partial")
    for name in names:
        (tmp_path / name / "transformer").mkdir(parents=True)
    with locked(tmp_path / names[1]) as ours:
        assert ours
        run(workdir, tmp_path / "x")
        assert {path.name for path in tmp_path.iterdir()} == {*names[1:], "x"}
    run(workdir, tmp_path / "x", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {names[2], "x"}


def test_what_is_no_export_is_never_replaced(workdir, saved, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="not an export"):
        run(workdir, tmp_path, overwrite=True)
    with pytest.raises(ExportError, match="would replace the source"):
        run(workdir, workdir.parent, overwrite=True)
    (tmp_path / "empty").mkdir()
    run(workdir, tmp_path / "empty")


def test_too_little_space_is_told_before_writing(workdir, saved, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ExportError, match="GB are needed"):
        run(workdir, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_bad_requests(workdir, saved, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 .* there are \[3, 7\]"):
        run(workdir, tmp_path / "x", step=5)
    with pytest.raises(ValueError, match="dtype='int4' must be one of"):
        run(workdir, tmp_path / "x", dtype="int4")
    with pytest.raises(ValueError, match="max_shard_gb"):
        run(workdir, tmp_path / "x", max_shard_gb=0)
    with pytest.raises(ExportError, match="did not train adapters"):
        run(workdir, tmp_path / "x", lora_only=True)
    with pytest.raises(ValueError, match="not a workdir"):
        run(tmp_path, tmp_path / "x")
    with pytest.raises(PretrainedError, match="was not written by"):
        load_export(tmp_path)
    assert not list(tmp_path.iterdir())


def test_verify_passes_and_fails(workdir, saved, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    lines = run(workdir, tmp_path / "x", verify=True)
    checked = [line for line in lines if line.startswith("verify")]
    assert len(checked) == 2 and "random" in checked[0] and "held-out multiview" in checked[1]
    assert all("largest difference" in line for line in checked)
    right = export_module.write_transformer

    def wrong(folder, config, shapes, leaf, **options):
        def changed(path):
            return leaf(path) * (1.01 if path[-2:] == ("ffn_norm2", "weight") else 1.0)

        right(folder, config, shapes, changed, **options)

    monkeypatch.setattr(export_module, "write_transformer", wrong)
    with pytest.raises(ExportError, match="differs from the run's"):
        run(workdir, tmp_path / "y", verify=True)
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_lora_runs_are_merged_or_give_their_adapters(exported, tmp_path):
    save_run(tmp_path / "run", lora_config(exported), steps=(4,))
    run(tmp_path / "run", tmp_path / "merged")
    run(tmp_path / "run", tmp_path / "adapter", lora_only=True)
    assert files(tmp_path / "adapter") == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "pytorch_lora_weights.safetensors",
    }
    base, found = (load_file(folder / WEIGHTS) for folder in (exported, tmp_path / "merged"))
    adapter = load_file(tmp_path / "adapter" / "pytorch_lora_weights.safetensors")
    assert base.keys() == found.keys()
    changed = 0
    for name, tensor in base.items():
        key = f"transformer.{name.removesuffix('.weight')}.lora_"
        if f"{key}A.weight" in adapter:
            changed += 1
            tensor = tensor + adapter[f"{key}B.weight"] @ adapter[f"{key}A.weight"]
            np.testing.assert_allclose(found[name], tensor, atol=1e-6)
        else:
            np.testing.assert_array_equal(found[name], tensor)
    assert changed == 2 * 4
    config, _ = load_export(tmp_path / "merged")
    assert "lora" not in config and config.init_from == ""


def test_peft_and_diffusers_read_the_adapters(exported, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    from onediff_jax.interop.torch_files.nextdit import NextDiT

    save_run(tmp_path / "run", lora_config(exported), steps=(4,))
    run(tmp_path / "run", tmp_path / "merged")
    run(tmp_path / "run", tmp_path / "adapter", lora_only=True)
    file = tmp_path / "adapter" / "pytorch_lora_weights.safetensors"
    torch.manual_seed(0)
    inputs = (
        torch.randn(1, 2, 16, 4, 4),
        torch.tensor([[10.0, 700.0]]),
        torch.randn(1, 5, 16),
        torch.ones(1, 5),
    )

    def call(model):
        with torch.no_grad():
            return model(*inputs).sample

    merged = NextDiT.from_pretrained(tmp_path / "merged" / "transformer")
    by_diffusers = NextDiT.from_pretrained(exported / "transformer")
    assert (call(by_diffusers) - call(merged)).abs().max() > 1e-2
    by_diffusers.load_lora_adapter(str(file), prefix="transformer")
    torch.testing.assert_close(call(by_diffusers), call(merged), atol=2e-5, rtol=0)
    by_peft = NextDiT.from_pretrained(exported / "transformer")
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["wq", "wv", "w1", "w2"])
    peft.inject_adapter_in_model(config, by_peft)
    tensors = {
        name.removeprefix("transformer."): torch.from_numpy(tensor)
        for name, tensor in load_file(file).items()
    }
    assert not peft.set_peft_model_state_dict(by_peft, tensors).unexpected_keys
    torch.testing.assert_close(call(by_peft), call(merged), atol=2e-5, rtol=0)


def test_a_released_folder_gets_the_code(exported, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(exported, plain, ignore=shutil.ignore_patterns("*.py", "*.md", "onediff*"))
    config = json.loads((plain / "transformer" / "config.json").read_text())
    del config["auto_map"]
    (plain / "transformer" / "config.json").write_text(json.dumps(config))
    lines = run(plain, tmp_path / "x")
    assert "parameters" in lines[0]
    assert files(tmp_path / "x") == files(exported) - {"onediff_jax.json"}
    assert (tmp_path / "x" / WEIGHTS).read_bytes() == (exported / WEIGHTS).read_bytes()
    for name in ("transformer/config.json", f"{bundle('pipeline')[0]}.py"):
        assert (tmp_path / "x" / name).read_text() == (exported / name).read_text()
    assert "does not say which tasks" in (tmp_path / "x" / "README.md").read_text()
    again = run(exported, tmp_path / "y", dtype="bfloat16")
    assert "bfloat16" in again[-1]
    assert files(tmp_path / "y") == files(exported)
    with pytest.raises(ExportError, match="step=3 was asked of"):
        run(exported, tmp_path / "z", step=3)
    index = json.loads((plain / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderDC"]
    (plain / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="AutoencoderDC"):
        run(plain, tmp_path / "z")
    assert not (tmp_path / "z").exists()


def test_the_index_has_the_runs_defaults_and_tasks(exported):
    index = json.loads((exported / "model_index.json").read_text())
    config = shrunken()
    assert index["defaults"]["guidance_scale"] == config.log.guidance
    assert index["defaults"]["num_inference_steps"] == config.log.sample_steps
    assert index["defaults"]["sizes"]["i2i"] == [[32, 32]]
    assert list(index["tasks"]) == [name for name, weight in config.data.tasks.items() if weight]
    assert index["tasks"]["depth2image"]["directions"] == {
        "depth2image": "first",
        "image2depth": "rest",
    }
    card = (exported / "README.md").read_text()
    assert "| depth2image | image, depth | depth2image, image2depth |" in card
    assert "canny" not in card and "{" not in card


def test_steps_that_an_evaluation_chose_are_the_defaults(workdir, saved, tmp_path):
    """Of the direction alone, in both clients, until a call says another number."""
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    write_json(
        evaluation / "metrics.json",
        {"rows": [], "step": 3, "ema": True, "chosen_steps": {"image2depth": 2}},
    )
    out = tmp_path / "few"
    run(workdir, out, step=3, evaluation=str(evaluation))
    source = load_source(out)
    assert source.steps_of("image2depth") == 2
    assert source.steps_of("depth2image") == shrunken().log.sample_steps
    assert "20 steps, 2 of image2depth, guidance" in (out / "README.md").read_text()
    record = json.loads((out / "onediff_jax.json").read_text())
    record["pictures"]["sizes"]["i2i"] = [[32, 32], [16, 64]]  # of folders that are elsewhere now
    (out / "onediff_jax.json").write_text(json.dumps(record))
    again = tmp_path / "again"
    run(out, again)
    assert load_source(again).steps_of("image2depth") == 2
    defaults = json.loads((again / "model_index.json").read_text())["defaults"]
    assert defaults["sizes"]["i2i"] == [[32, 32], [16, 64]]

    from diffusers import DiffusionPipeline

    pipeline: Any = DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    picture = np.zeros((32, 32, 3), np.uint8)
    for direction, options, steps in (
        ("image2depth", {}, 2),
        ("image2depth", {"num_inference_steps": 3}, 3),
        ("depth2image", {}, 20),
    ):
        pipeline.run(direction, picture, "a cube", **options)
        assert pipeline.num_timesteps == steps


@pytest.mark.parametrize("form", ["diffusers", "comfyui"])
def test_adapters_are_added_with_weights(exported, tmp_path, form):
    config = lora_config(exported)
    save_run(tmp_path / "run", config, steps=(4,))
    run(tmp_path / "run", tmp_path / "adapter", lora_only=True, lora_format=form)
    run(tmp_path / "run", tmp_path / "whole")
    file = str(tmp_path / "adapter")
    once = form == "diffusers"
    adapters = [f"{file}:0.75", f"{file}:0.25"]
    lines = run(exported, tmp_path / "merged", adapter=adapters, verify=once)
    # Of the sum: with the base's weights it would refuse.
    assert any(line.startswith("verify ") for line in lines) == once
    run(exported, tmp_path / "half", adapter=[f"{file}:0.5"])
    base, whole, merged, half = (
        load_file(folder / WEIGHTS)
        for folder in (exported, *(tmp_path / n for n in ("whole", "merged", "half")))
    )
    changed = 0
    for name, tensor in base.items():
        np.testing.assert_allclose(merged[name], whole[name], atol=1e-5)
        np.testing.assert_allclose(half[name], (tensor + whole[name]) / 2, atol=1e-5)
        changed += not np.array_equal(tensor, whole[name])
    assert changed == 2 * 4
    record = json.loads((tmp_path / "merged" / "onediff_jax.json").read_text())
    assert [entry["weight"] for entry in record["adapters"]] == [0.75, 0.25]
    with pytest.raises(ExportError, match="was trained on weights with hash"):
        run(tmp_path / "half", tmp_path / "x", adapter=[file])
    with pytest.raises(PretrainedError, match="holds none of"):
        run(exported, tmp_path / "x", adapter=[str(tmp_path)])
    with pytest.raises(ValueError, match="must be a finite number"):
        run(exported, tmp_path / "x", adapter=[f"{file}:nan"])
    with pytest.raises(ValueError, match="lora_format='kohya' must be one of"):
        Options(lora_format="kohya")
    assert not (tmp_path / "x").exists()


def test_peft_loads_the_folder_and_the_pipeline_comfyuis_file(exported, tmp_path):
    """Of DoRA, with two ranks and adapters of the prompt's matrices; ours reads both forms too."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    from onediff_jax.interop.torch_files.adapters_torch import Adapters
    from onediff_jax.interop.torch_files.nextdit import NextDiT

    lora = {"targets": ("wq", "w2", "wk_y", "y_embedder"), "rank_pattern": {"wq": 6}, "dora": True}
    config = lora_config(exported, lora)
    adapters = save_run(tmp_path / "run", config, steps=(4,))[4][1]
    run(tmp_path / "run", tmp_path / "merged")
    want = load_file(tmp_path / "merged" / WEIGHTS)
    for form in ("diffusers", "comfyui"):
        run(tmp_path / "run", tmp_path / form, lora_only=True, lora_format=form)
        run(exported, tmp_path / f"by_{form}", adapter=[str(tmp_path / form)])
        for name, tensor in load_file(tmp_path / f"by_{form}" / WEIGHTS).items():
            np.testing.assert_allclose(tensor, want[name], atol=2e-5)
        config.lora.init_adapter = str(tmp_path / form)
        same(initial_adapters(make_experiment(config)), adapters, atol=1e-5)
    network = NextDiT.from_pretrained(exported / "transformer")
    by_peft = peft.PeftModel.from_pretrained(network, tmp_path / "diffusers").merge_and_unload()
    for name, tensor in by_peft.state_dict().items():
        np.testing.assert_allclose(tensor, want[name], atol=1e-5)
    file = "comfyui_lora.safetensors"
    tensors = Adapters.lora_state_dict(tmp_path / "comfyui", weight_name=file)
    by_form = Adapters.lora_state_dict(tmp_path / "diffusers")
    assert tensors.keys() == by_form.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, by_form[name])
    by_diffusers = NextDiT.from_pretrained(exported / "transformer")
    by_diffusers.load_lora_adapter(dict(tensors), prefix="transformer")
    by_diffusers.fuse_lora()
    for name, tensor in by_diffusers.state_dict().items():
        if ".lora_" not in name:
            found = want[name.replace(".base_layer", "")]
            np.testing.assert_allclose(tensor, found, atol=2e-5)


def test_command_line(workdir, saved, tmp_path):
    command = [sys.executable, "-m", "onediff_jax.export", f"--source={workdir}"]
    command += [f"--out={tmp_path / 'x'}", "--step", "3", "--ema=false"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 3, raw weights" in done.stdout and "wrote" in done.stdout
    same(load_pretrained(tmp_path / "x").params, saved[3][0])
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: out=")


def test_noise_is_never_zero():
    assert all(leaf.all() for leaf in jax.tree.leaves(noisy({"a": np.zeros((3, 4))}, 0)))
