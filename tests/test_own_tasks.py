"""Tasks of one's own, from files to pictures: prepared, trained, sampled, exported, as data."""

import json
import runpy

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from onediff_jax.data.prepared.fit import Fitting
from onediff_jax.data.prepared.plan import Plan
from onediff_jax.data.sources import open_source
from onediff_jax.experiment.build import make_experiment
from onediff_jax.experiment.own_tasks import with_own_tasks
from onediff_jax.tasks.own import definitions_of, load_own_tasks, own_tasks
from tests.data.prepared.fake import prepare
from tests.data.sources.conftest import Files, photo
from tests.experiments import CONFIGS, shrunken

OWN = {
    "normal2image": {
        "frames": ["image", "normal"],
        "directions": {"normal2image": "first", "image2normal": "rest"},
    },
    "both2image": {
        "frames": ["image", "depth", "canny"],
        "directions": {"both2image": "first", "image2both": "rest"},
    },
}
SMALL = {
    "model.hidden_size": 48,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.num_kv_heads": 1,
    "model.multiple_of": 16,
    "model.caption_channels": 16,
    "text.max_length": 16,
    "data.threads": 1,
    "train.steps": 2,
    "train.batch_rows": 1,
    "optim.warmup_steps": 0,
    "log.every_steps": 1,
    "log.held_out_at": (),
    "log.held_out_batches": 1,
    "log.sample_every": 2,
    "log.sample_steps": 1,
    "log.sample_rows": 1,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Per task a prepared folder of 8 examples, 32 × 32 pixels."""
    root = tmp_path_factory.mktemp("own")
    data = Files(root / "data")
    for index in range(8):
        for offset, role in enumerate(("images", "normal", "depth")):
            data.write(f"{role}/{index}.png", photo(index + 10 * offset, 32, 32))
        data.write(f"images/{index}.txt", f"picture {index}")
    tasks = load_own_tasks(data.write("own.json", OWN))
    found = {}
    for name in OWN:
        source = open_source("paired", str(data.folder), task=name, tasks=tasks)
        fitting = Fitting((), ("1:1",), 4, definitions=tasks)
        found[name] = root / name
        prepare(found[name], Plan(source, fitting, 0.3, 0.0))
    return found


def config_of(*folders, **changes) -> ConfigDict:
    get_config = runpy.run_path(str(CONFIGS / "finetune_folder.py"))["get_config"]
    config = get_config(str(folders[0])).unlock()
    config.update_from_flattened_dict(SMALL | changes)
    config.data.folders = tuple((str(folder), 1.0) for folder in folders)
    return config


def test_the_manifest_has_the_definitions_and_the_config_takes_them(folders):
    manifest = json.loads((folders["both2image"] / "manifest.json").read_text())
    assert manifest["plan"]["own_tasks"] == OWN
    config = config_of(folders["both2image"])
    assert config.rows == (("i2i", 1, 3, 4),)
    assert {k: v for k, v in config.data.tasks.items() if v} == {"both2image": 1.0}
    filled = with_own_tasks(config)
    assert definitions_of(own_tasks(filled.data.own_tasks.to_dict())) == OWN
    assert not config.data.own_tasks and with_own_tasks(filled) is filled


def test_slots_take_tasks_by_their_number_of_frames(folders):
    config = config_of(*folders.values())
    config.rows = (("i2i", 2, 2, 4), ("i2i", 1, 3, 4))
    config.data.tasks = ConfigDict({"normal2image": 1.0, "both2image": 1.0})
    experiment = make_experiment(config)
    stream = experiment.batches()
    batch = next(stream)
    stream.close()
    names = [experiment.tasks.names[number] for number in batch["task"][0]]
    assert names == ["normal2image", "normal2image", "both2image"]
    assert batch["token_mask"].all()
    fields = experiment.stream_fields()
    assert fields["data"]["own_tasks"] == OWN


def test_folders_that_disagree_are_named(folders):
    config = config_of(folders["both2image"])
    config.data.own_tasks = ConfigDict({"both2image": OWN["normal2image"]})
    with pytest.raises(ValueError, match=r"data\.own_tasks and .*both2image define task 'both2ima"):
        make_experiment(config)


def test_a_slot_that_is_too_short_is_named(folders):
    config = config_of(folders["both2image"])
    config.rows = (("i2i", 1, 2, 4),)
    with pytest.raises(ValueError, match=r"in rows hold 2; add \('i2i', 1, 3, 4\) to rows"):
        make_experiment(config)


def test_the_world_draws_tasks_of_known_roles():
    config = shrunken(rows=(("i2i", 1, 3, 4),)).unlock()
    config.data.tasks = ConfigDict({"both2image": 1.0})
    config.data.own_tasks = ConfigDict({"both2image": OWN["both2image"]})
    bundle = make_experiment(config).bundles("both2image")[0]
    assert len(bundle.frames) == 3 and bundle.prompt.startswith("[[both2image]] ")
    assert "depth_norm" in bundle.truth and set(np.unique(bundle.frames[2])) == {0, 255}


def test_several_sources_of_an_edit(tmp_path):
    """A list of sources in a table; none is lost on the way into a slot that is long enough."""
    data = Files(tmp_path / "data")
    for index in range(6):
        data.write(f"{index}.png", photo(index, 32, 32))
    rows = [
        {"image": f"{i}.png", "source": [f"{i + 1}.png", f"{i + 2}.png"], "instruction": "swap"}
        for i in range(4)
    ]
    data.write("rows.jsonl", "\n".join(map(json.dumps, rows)))
    source = open_source("table", data.path("rows.jsonl"), task="image_editing")
    prepare(tmp_path / "edits", Plan(source, Fitting((), ("1:1",), 4), 0.0, 0.0))
    config = config_of(tmp_path / "edits")
    assert config.rows == (("i2i", 1, 3, 4),)
    bundle = make_experiment(config).bundles("image_editing")[1]
    assert bundle.prompt == "[[image_editing]] swap"
    for frame, index in zip(bundle.frames, (1, 2, 3), strict=True):
        np.testing.assert_array_equal(frame, photo(index, 32, 32))
    config.rows = (("i2i", 1, 2, 4),)
    with pytest.raises(ValueError, match=r"examples of 3 frames.*add \('i2i', 1, 3, 4\) to rows"):
        make_experiment(config)


@pytest.mark.slow
def test_from_training_to_the_export(folders, tmp_path):
    """Nothing of it is code: the run and the export know the task without its folder."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from onediff_jax.export import Options, export
    from onediff_jax.run.loop import train
    from onediff_jax.sampling.generate import generate
    from onediff_jax.sampling.request import Request
    from onediff_jax.sampling.source import load_source
    from onediff_jax.sampling.source_tasks import tasks_of_source

    state = train(config_of(folders["both2image"]), tmp_path / "run")
    assert int(state.step) == 2
    assert "loss/both2image" in (tmp_path / "run" / "metrics.jsonl").read_text()
    again = train(config_of(folders["both2image"]), tmp_path / "run")  # resumes, as the same run
    jax.tree.map(np.testing.assert_array_equal, state.ema, again.ema)
    export(tmp_path / "run", tmp_path / "export", Options(), lambda line: None)
    folders["both2image"].rename(tmp_path / "away")
    try:
        results = []
        for path in (tmp_path / "run", tmp_path / "export"):
            assert definitions_of(tasks_of_source(path)) == OWN
            request = Request("image2both", "a picture", images=(photo(0, 32, 32),))
            results += generate(load_source(path), [request], steps=1)
    finally:
        (tmp_path / "away").rename(folders["both2image"])
    np.testing.assert_allclose(results[0].latents, results[1].latents, atol=1e-5)
    assert results[0].plan.prompt == "[[both2image]] a picture"
    assert results[0].plan.generate == (False, True, True)
