"""Configs against the schema: bad ones are named, those of older runs go on as they were."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from onediff_jax.experiment.checks import (
    SettingsError,
    check_config,
    complete,
    may_grow,
    upgrade,
    upgrade_stream,
)
from tests.experiments import shrunken

ROOT = Path(__file__).parents[2]


def changed(*removed: str, **values) -> ConfigDict:
    """`shrunken` without some fields, and with values of any type (dots as __)."""
    fields = shrunken().to_dict()
    for path in removed:
        *sections, name = path.split(".")
        part = fields
        for section in sections:
            part = part[section]
        del part[name]
    for path, value in values.items():
        *sections, name = path.split("__")
        part = fields
        for section in sections:
            part = part.setdefault(section, {})
        part[name] = value
    return ConfigDict(fields)


def test_a_whole_config():
    check_config(shrunken())
    check_config(changed(lora=None))


@pytest.mark.parametrize(
    "config, message",
    [
        (changed(train__stepz=3), "unknown field train.stepz; did you mean train.steps?"),
        (changed(train__learning_rate=1e-3), "did you mean optim.learning_rate"),
        (changed(optm__b1=0.9), "unknown field optm.b1: .*did you mean optim.b1?"),
        (changed(guidance=1.0), "unknown field guidance; did you mean log.guidance"),
        (changed("train.steps"), "train.steps is missing: length of the run"),
        (changed("ema.offload"), "ema.offload is missing"),
        (changed("optim"), "section optim is missing: the optimizer"),
        (changed(optim=3), "optim=3 must be a section"),
        (changed(train__steps="100"), "train.steps='100' must be an int"),
        (changed(train__steps=1.5), "train.steps=1.5 must be an int"),
        (changed(train__steps=True), "train.steps=True must be an int"),
        (changed(ema__offload=1), "ema.offload=1 must be a bool"),
        (changed(optim__b1=None), "optim.b1=None must be a float"),
        (changed(optim__learning_rate=float("nan")), "learning_rate=nan must be finite"),
        (changed(model__attention_softcap="off"), "softcap='off' must be a float, or None"),
        (changed(model__dtype="float16"), "model.dtype='float16' must be one of"),
        (changed(seed=-1), "seed=-1 must be in 0..4294967295"),
        (changed(rows=(("t2i", 1, 1, "16"),)), "rows entry .* must be .group, count, frames"),
        (changed(rows="t2i"), "rows='t2i' must be a tuple"),
        (changed(log__held_out_at=(1.5,)), "held_out_at=.* must be a tuple of steps"),
        (changed(data__tasks__faceid="1"), "data.tasks.faceid='1' must be a number"),
        (changed(data__tasks=3), "data.tasks=3 must be a section of weights"),
        (changed(data__name="prepared"), r"data.folders is missing.*finetune_folder.py:FOLDER"),
        (changed(data__folders=(("a", 1.0),)), "data.folders is a field of prepared data"),
        (changed(lora={"rank": 4}), "lora.alpha is missing"),
    ],
)
def test_named(config, message):
    with pytest.raises(SettingsError, match=message):
        check_config(config)


def test_older_runs_go_on_as_they_were():
    old = json.loads(changed("flow.ray_weight", "preset", "text.kind", "ema.offload").to_json())
    new = upgrade(old, "config.json")
    assert new["flow"]["ray_weight"] == 1.0 and new["ema"]["offload"] is False
    assert new["text"]["kind"] == "hashed" and new["preset"] == ""
    assert new["rows"][0] == ("t2i", 1, 2, 4) and "folders" not in new["data"]
    check_config(ConfigDict(new))
    assert upgrade(new, "config.json") == new


def test_the_shipped_model_is_of_today():
    fields = json.loads((ROOT / "assets/tiny/onediff_jax.json").read_text())["config"]
    check_config(ConfigDict(upgrade(fields, "assets/tiny")))


def test_fields_that_no_longer_exist():
    old = changed(train__warmup=3).to_dict()
    message = r"runs/x/config.json: this version does not know train.warmup"
    with pytest.raises(SettingsError, match=message) as error:
        upgrade(old, "runs/x/config.json")
    assert "Another version wrote it: use that one" in str(error.value)


def test_older_checkpoints_know_their_stream():
    """Fields that came later are compared as what they meant before."""
    old = {"data": {"name": "world", "scenes": 3}, "text": {"max_length": 48}, "draws": {}}
    new = upgrade_stream(old)
    assert new["text"] == {"max_length": 48, "kind": "hashed", "folder": ""}
    assert "folders" not in new["data"] and "workers" not in new["data"]
    assert old["text"] == {"max_length": 48}


@pytest.mark.parametrize(
    "schedule, steps, allowed",
    [
        *(("constant", 16, True), ("constant", 4, False), ("wsd", 16, True), ("rsqrt", 16, True)),
        *(("cosine", 16, False), ("late_cosine", 16, False), ("linear", 16, False)),
    ],
)
def test_more_steps_without_a_flag(schedule, steps, allowed):
    old = changed(optim__schedule=schedule, train__steps=8).to_dict()
    new = changed(optim__schedule=schedule, train__steps=steps).to_dict()
    assert may_grow(old, new) is allowed


def test_a_section_alone():
    assert complete("mesh", {"fsdp": -1}) == {"fsdp": -1, "slices": 1}
    assert complete("mesh", ConfigDict({"slices": 2})) == {"slices": 2}
