"""The code in exports: a file per class; that of assets/tiny is today's; none gets another's."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from onediff_jax.interop import torch_files
from onediff_jax.interop.torch_files import bundling as bundles

TINY = pathlib.Path(__file__).parents[2] / "assets" / "tiny"


@pytest.mark.parametrize("name", bundles.PARTS)
def test_a_file_stands_alone_and_its_name_has_its_hash(name):
    stem, text = bundles.bundle(name)
    compile(text, name, "exec")
    assert stem == f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    assert "\nfrom ." not in text


def test_two_meanings_of_a_name_are_refused(monkeypatch, tmp_path):
    for module, text in (
        ("a", "import x\none = 1\n"),
        ("b", "import y as x\n"),
        ("c", "one = 2\n"),
    ):
        (tmp_path / f"{module}.py").write_text(f'"""Words."""\n\n{text}')
    monkeypatch.setattr(bundles, "HERE", tmp_path)
    monkeypatch.setattr(bundles, "PARTS", {"ab": ("a", "b"), "ac": ("a", "c")})
    with pytest.raises(ValueError, match="b imports"):
        bundles.bundle("ab")
    with pytest.raises(ValueError, match="one is defined in a and in c"):
        bundles.bundle("ac")


def test_the_shipped_folder_has_todays_code(tmp_path):
    """After a change: `torch_files.write_code("assets/tiny")`."""
    copy = tmp_path / "tiny"
    shutil.copytree(TINY, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    torch_files.write_code(copy)
    for folder in (TINY, copy):
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    code = [
        {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.py")}
        for folder in (TINY, copy)
    ]
    assert code[0] == code[1]
    for name in ("model_index.json", "transformer/config.json"):
        assert json.loads((TINY / name).read_text()) == json.loads((copy / name).read_text())


def test_a_folder_of_another_kind_gets_no_code(tmp_path):
    with pytest.raises(ValueError, match=r"model_index.json cannot be read"):
        torch_files.write_code(tmp_path)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    index = {"vae": ["diffusers", "AutoencoderDC"], "text_encoder": ["transformers", "T5"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"vae is \['diffusers', 'AutoencoderDC'\], not one of"):
        torch_files.write_code(tmp_path)
    assert not list(tmp_path.rglob("*.py"))


SCRIPT = """
import pathlib, re, shutil, sys
import torch
from diffusers import AutoModel, DiffusionPipeline
torch.set_num_threads(1)
tiny, here = sys.argv[1:]
for version in "AB":  # of the same size, as edits by hand may be
    shutil.copytree(tiny, f"{here}/{version}")
    for file in pathlib.Path(here, version).rglob("*.py"):
        file.write_text(file.read_text() + f"\\nVERSION = '{version}'\\n")
load = lambda version, **options: DiffusionPipeline.from_pretrained(
    f"{here}/{version}", trust_remote_code=True, **options)
def version(part):
    return type(part).forward.__globals__["VERSION"]
a, b = load("A"), load("B")
assert (version(a.transformer), version(b.transformer)) == ("A", "B")
assert type(a).sample.__globals__["VERSION"] == "A" and type(b).sample.__globals__["VERSION"] == "B"
a.transformer = torch.compile(a.transformer)
a.save_pretrained(f"{here}/saved")
texts = {f.name: f.read_text() for f in pathlib.Path(here, "saved").rglob("*.py")}
assert len(texts) == 4 and all("VERSION = 'A'" in text for text in texts.values()), texts.keys()
assert isinstance(a.transformer, torch._dynamo.eval_frame.OptimizedModule)
again = load("saved")
assert version(again.transformer) == "A"
from peft import LoraConfig
again.transformer.add_adapter(LoraConfig(target_modules=["wq"]))
weights = b.transformer.state_dict()
uploaded = []
def upload(self, folder, repo_id, **options):
    uploaded.append(sorted(f.name for f in pathlib.Path(folder).iterdir()))
for kind in (type(again), type(again.transformer)):
    kind._upload_folder = upload
import diffusers.pipelines.pipeline_utils, diffusers.models.modeling_utils
class Repo: repo_id = "me/it"
for module in (diffusers.pipelines.pipeline_utils, diffusers.models.modeling_utils):
    module.create_repo = lambda *_, **__: Repo
again.save_pretrained(f"{here}/plain", push_to_hub=True)
again.transformer.save_pretrained(f"{here}/alone", push_to_hub=True)
assert "model_index.json" in uploaded[0] and any(n.startswith("pipeline_") for n in uploaded[0])
assert "config.json" in uploaded[1] and any(n.startswith("nextdit_") for n in uploaded[1])
for folder in ("plain/transformer", "alone"):
    model = AutoModel.from_pretrained(f"{here}/{folder}", trust_remote_code=True)
    assert version(model) == "A"
    assert all(torch.equal(x, weights[n]) for n, x in model.state_dict().items())
print("each its own")
"""


def test_exports_in_one_process_run_and_save_their_own_code(tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    environment = {k: v for k, v in os.environ.items() if k != "HF_MODULES_CACHE"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(TINY), str(tmp_path)]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout.endswith("each its own\n"), run.stderr[-3000:]


def test_a_sample_of_the_shipped_model_is_what_it_should_be():
    """The depth it finds in held-out pictures, beside the truth, a plain guess and others."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    from onediff_jax.interop.torch_files.hashed_text import HashedTextEncoder
    from onediff_jax.interop.torch_files.light_codec import LightCodec
    from onediff_jax.interop.torch_files.nextdit import NextDiT
    from onediff_jax.interop.torch_files.pipeline import OneDiffusionPipeline
    from onediff_jax.sampling.source import load_source

    bundles = load_source(TINY).experiment.bundles("depth2image", held_out=True, scenes=4)
    examples = [bundles[i] for i in range(4)]
    index = json.loads((TINY / "model_index.json").read_text())
    pipe = OneDiffusionPipeline(
        NextDiT.from_pretrained(TINY / "transformer"),
        LightCodec.from_pretrained(TINY / "vae"),
        HashedTextEncoder.from_pretrained(TINY / "text_encoder"),
        None,
        diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(TINY / "scheduler"),
        defaults=index["defaults"],
        tasks=index["tasks"],
    )
    pipe.set_progress_bar_config(disable=True)
    found = pipe.img2img(
        [example.prompt for example in examples],
        [[example.frames[0]] for example in examples],
        denoise_mask=[0, 1],
        num_inference_steps=8,
        output_type="np",
        generator=[torch.Generator().manual_seed(i) for i in range(4)],
    ).images
    truth = np.stack([np.asarray(example.frames[1], np.float32) / 255 for example in examples])
    assert found.shape == truth.shape
    error, others = (np.abs(found - true).mean() for true in (truth, np.roll(truth, 1, axis=0)))
    guess = np.abs(truth.mean(0) - truth).mean()
    assert error < 0.06 and error < 0.6 * guess and error < 0.5 * others, (error, guess, others)
