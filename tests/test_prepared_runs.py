"""Every config on prepared folders, shrunken: it reads them, trains, draws, and is exported."""

import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from onediff_jax.data.rows import TASK_NAMES
from onediff_jax.experiment.build import make_experiment
from onediff_jax.experiment.encoders import make_encoders
from onediff_jax.export import Options, export
from onediff_jax.interop import save_pretrained
from onediff_jax.interop.model import PretrainedModel
from onediff_jax.run.loop import train
from onediff_jax.sampling.generate import generate
from onediff_jax.sampling.request import Request
from onediff_jax.sampling.source import load_source
from onediff_jax.tasks.definitions import TASKS
from tests.data.prepared.fake import FakeSource, make_plan, prepare
from tests.data.sources.conftest import photo
from tests.pipelines import save_pipeline
from tests.runs import noisy
from tests.test_configs import FILES, load, presets

SMALL = {
    "model.hidden_size": 48,
    "model.depth": 1,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.multiple_of": 16,
    "model.caption_channels": 16,
    "text.max_length": 24,
    "data.threads": 1,
    "train.steps": 2,
    "train.batch_rows": 2,
    "optim.warmup_steps": 0,
    "log.every_steps": 1,
    "log.held_out_at": (),
    "log.held_out_batches": 1,
    "log.sample_every": 0,
}
PREPARED = [
    (file, preset)
    for file in FILES
    for preset in presets(file)
    if load(file, preset).data.name == "prepared"
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """released/ with all that a pipeline has; latents/ and pixels/ with examples of every task."""
    root = tmp_path_factory.mktemp("root")
    save_pipeline(root / "released")
    kinds = tuple(TASKS)
    source = FakeSource(parts=1, each=10 * len(kinds), kinds=kinds, size=(35, 35), views=3)
    plan = make_plan(source, aspects=("1:1",), tokens=4, held_out=0.5)
    released = str(root / "released")
    encoders = make_encoders(released, released, max_length=24, batch=8, dtype="float32")
    prepare(root / "pixels", plan)
    prepare(root / "latents", dataclasses.replace(plan, make_encoders=lambda: encoders))
    made = make_experiment(small("paper.py", "stage1_256", root))
    params = jax.tree.map(jax.numpy.asarray, noisy(made.shapes, 0))
    save_pretrained(PretrainedModel(made.model_config, params), root / "released")
    return root


def small(file, preset, root):
    """A shipped config with everything but its kind made small."""
    config = load(file, preset).unlock()
    light = config.data.encoder == "light"
    config.update_from_flattened_dict(SMALL)
    config.rows = tuple((group, count, frames, 4) for group, count, frames, _ in config.rows)
    config.data.folders = ((str(root / ("pixels" if light else "latents")), 1.0),)
    if not light:
        config.data.encoder = config.text.folder = str(root / "released")
    if config.init_from or "lora" in config:
        config.init_from = str(root / "released")
    return config


@pytest.mark.slow
@pytest.mark.parametrize("file, preset", PREPARED)
def test_every_config_finds_its_rows(file, preset, root):
    """Those that are other shapes of the ones that train below."""
    config = small(file, preset, root)
    stream = make_experiment(config).batches()
    batch = next(stream)
    stream.close()
    found = {TASK_NAMES[task] for task in batch["task"].ravel()}
    assert found <= {name for name, weight in config.data.tasks.items() if weight}
    assert len(batch["task"]) == 2 and batch["text_mask"].any() and batch["token_mask"].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, preset",
    [
        ("paper.py", "stage2_multitask"),
        ("finetune_identity.py", None),
        ("finetune_folder.py", None),
    ],
)
def test_trains(file, preset, root, tmp_path):
    assert int(train(small(file, preset, root), tmp_path).step) == 2


@pytest.mark.slow
def test_cached_captions_alone_are_enough_to_train_and_to_export(root, tmp_path):
    """Without their T5: training draws samples of cached prompts; new ones need an export."""
    config = small("finetune_editing.py", None, root)
    config.text.folder, config.log.sample_every, config.log.sample_steps = "", 2, 1
    train(config, tmp_path / "run")
    assert list((tmp_path / "run").rglob("events*"))
    request = Request("image_editing", "one two", images=(photo(0, 32, 32),))
    with pytest.raises(ValueError, match="prompt .*one two.* Export the run with --text_encoder"):
        generate(load_source(tmp_path / "run"), request, steps=1)
    with pytest.raises(ValueError, match="--text_encoder"):
        export(tmp_path / "run", tmp_path / "export", Options())
    options = Options(text_encoder=str(root / "released"))
    export(tmp_path / "run", tmp_path / "export", options, lambda line: None)
    (root / "released" / "text_encoder").rename(tmp_path / "away")
    try:
        [drawn] = generate(load_source(tmp_path / "export"), request, steps=1)
    finally:
        (tmp_path / "away").rename(root / "released" / "text_encoder")
    assert np.stack(drawn.latents).shape == (2, 4, 4, 16)
