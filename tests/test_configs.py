"""Every shipped config and preset describes an experiment; the command line can change fields."""

import json
import runpy

import jax
import pytest
from ml_collections import ConfigDict

from onediff_jax.experiment.build import make_experiment, make_layout, param_count
from onediff_jax.experiment.checks import check_config
from onediff_jax.parallel import memory
from onediff_jax.parallel.mesh import make_mesh
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.scaling.program import shapes_only
from onediff_jax.tasks.definitions import TASKS
from tests.experiments import CONFIGS, get_config, shrunken

FILES = sorted(file.name for file in CONFIGS.glob("*.py"))


def presets(file: str) -> tuple:
    """The named presets of a config file, without those that look at the devices."""
    values = runpy.run_path(str(CONFIGS / file))
    found = values.get("PRESETS") or values.get("MODES", (None,))
    return tuple(name for name in found if name != "auto")


def load(file: str, preset: str | None) -> ConfigDict:
    get = runpy.run_path(str(CONFIGS / file))["get_config"]
    return get() if preset is None else get(preset)


@pytest.mark.parametrize("file, preset", [(f, p) for f in FILES for p in presets(f)])
def test_every_config(file, preset):
    config = load(file, preset)
    assert config.is_locked
    json.loads(config.to_json_best_effort())  # plain values: what the workdir stores
    check_config(config)
    make_optimizer(config.optim, config.train.steps)
    if config.data.name == "world" and not config.get("init_from"):
        made = make_experiment(config)
        assert {slot.group for slot in made.layout.slots} == set(made.sizes)
        assert param_count(made.shapes) > 0


@pytest.mark.parametrize("preset, millions, tokens", [("base", 306.5, 4352), ("2b8", 2800.4, 6144)])
def test_sizes(preset, millions, tokens):
    made = make_experiment(get_config(preset))
    assert param_count(made.shapes) / 1e6 == pytest.approx(millions, abs=0.06)
    assert made.layout.tokens == tokens


def test_2b8_is_the_mixed_stage_of_the_paper():
    """Every field but those that say where pictures, prompts and weights come from."""
    ours, paper = (
        {k: v for k, v in load(*which).to_dict().items() if k not in ("name", "preset", "rows")}
        for which in (("t2i_multitask.py", "2b8"), ("paper.py", "stage2_multitask"))
    )
    assert ours["data"].pop("tasks") == paper["data"].pop("tasks")
    assert ours.pop("data")["name"] == "world" and paper.pop("data")["name"] == "prepared"
    assert ours.pop("init_from") == "" and paper.pop("init_from") == "exports/stage1_512"
    assert ours["text"].pop("kind") == "hashed" and paper["text"].pop("kind") == "cached"
    assert ours["train"].pop("token_only_share") == 0.1  # cached text has no prompts cut short
    assert paper["train"].pop("token_only_share") == 0.0
    assert ours["text"].pop("folder") == "" and paper["text"].pop("folder") == "released"
    assert ours == paper


@pytest.mark.parametrize("file, preset", [(f, p) for f in FILES for p in presets(f)])
def test_a_device_that_is_too_small_is_explained(file, preset, monkeypatch):
    made = make_experiment(shapes_only(load(file, preset)), with_data=False)
    mesh = make_mesh(made.config.mesh, jax.devices()[:1])
    monkeypatch.setattr(memory, "device_bytes", lambda device: 2**20)
    label = made.config.preset or made.config.name
    with pytest.raises(ValueError, match=f"'{label}' does not fit: [0-9,]+ parameters and"):
        memory.check_memory(made, param_count(made.shapes), mesh)


MANIFEST = {
    "tasks": {
        "text2image": {"train": 90, "held_out": 10},
        "depth2image": {"train": 95, "held_out": 5},
        "canny2image": {"train": 0, "held_out": 3},
    },
    "plan": {"encoders": {"text": {"width": 96}}},
    "training": {
        "encoder": "vaes/mine",
        "text": {"kind": "cached", "folder": "t5s/mine", "max_length": 77},
        "groups": {
            "i2i": {"frames": 3, "tokens": 247},
            "t2i": {"frames": 1, "tokens": 64},
        },
    },
}
FINETUNES = [(f, p) for f in FILES if f.startswith("finetune") for p in presets(f)]


@pytest.mark.parametrize("file, preset", FINETUNES)
def test_finetunes_follow_the_prepared_folder(file, preset, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    config = load(file, f"{preset}:{tmp_path}" if preset else str(tmp_path))
    check_config(config)
    tasks = config.data.tasks.to_dict()
    assert set(tasks) == set(TASKS)
    assert {k for k, v in tasks.items() if v} == {"text2image", "depth2image"}
    slots = 2 if file == "finetune_folder.py" else 1
    assert config.rows == (("i2i", 1, 3, 256), ("t2i", slots, 1, 64))
    assert config.data.folders == ((str(tmp_path), 1.0),)
    assert config.data.encoder == "vaes/mine"
    assert config.text.to_dict() == {"kind": "cached", "folder": "t5s/mine", "max_length": 77}
    if file == "finetune_folder.py":
        assert config.model.caption_channels == 96 and config.data.evaluate_on == "train"


def test_several_prepared_folders(tmp_path):
    views = {"train": 40, "held_out": 2, "frames": [2, 4], "sizes": ["80x48"]}
    pictures = MANIFEST["tasks"] | {"multiview": views, "text2image": views}
    slots = [["multiview", 8, 15], ["t2i", 1, 100]]
    other = MANIFEST | {"tasks": pictures, "training": MANIFEST["training"] | {"slots": slots}}
    for name, manifest in (("a", MANIFEST), ("b", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    config = load("finetune_folder.py", f"{tmp_path}/a,{tmp_path}/b")
    check_config(config)
    weighted = {task for task, weight in config.data.tasks.items() if weight}
    assert weighted == {"text2image", "depth2image", "multiview"}
    assert config.data.folders == ((f"{tmp_path}/a", 1.0), (f"{tmp_path}/b", 1.0))
    assert config.rows == (("i2i", 1, 3, 256), ("multiview", 1, 8, 15), ("t2i", 1, 1, 112))


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"tasks": ')
    with pytest.raises(ValueError, match=r"manifest.json cannot be read .*: prepare the folder"):
        load("finetune_folder.py", str(tmp_path))


def test_tiny_trains_every_task():
    weights = get_config("tiny").data.tasks
    assert set(weights) == set(TASKS) and min(weights.values()) > 0


def test_auto_takes_what_fits_and_says_so(capsys):
    """Here that is the CPU."""
    assert get_config("auto") == get_config("tiny")
    assert "preset auto: tiny, for 1 × cpu" in capsys.readouterr().out


def test_unknown_preset():
    with pytest.raises(ValueError, match="unknown preset='huge'; choose from .*tiny.*2b8"):
        get_config("huge")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model__dtype": "float16"}, r"model.dtype='float16' must be one of .*bfloat16"),
        ({"model__remat": "some"}, r"remat='some' must be one of .*'attention'"),
        ({"model__num_heads": 5}, "model.hidden_size=48 must be a multiple of num_heads=5"),
        (
            {"model__attention_softcap": 0.0},
            "model.attention_softcap=0.0 must be positive, or None",
        ),
        ({"data__name": "images"}, "data.name='images' must be one of .*world"),
        ({"data__level": "hard"}, "data.level='hard' must be one of .*'simple', 'rich'"),
        ({"data__scenes": 0}, "data.scenes=0 must be positive"),
        ({"data__aspects": ("5:7",)}, "data.aspects=.*unknown '5:7'; choose from .*16:9"),
        ({"data__aspects": ()}, "data.aspects is empty; choose from"),
        ({"data__threads": 0}, "data.threads=0 must be positive"),
        ({"data__workers": -1}, "data.workers=-1 must be ≥ 0"),
        ({"data__tasks__depth2image": -1.0}, "data.tasks.depth2image=-1.0 must be ≥ 0"),
        ({"text__max_length": -3}, "text.max_length=-3 must be positive"),
        ({"train__batch_rows": -8}, "train.batch_rows=-8 must be positive"),
        ({"train__accumulate": 0}, "train.accumulate=0 must be positive"),
        ({"train__caption_dropout": 1.5}, r"caption_dropout=1.5 must be in 0\.\.1"),
        ({"flow__distribution": "normal"}, "flow.distribution='normal' must be one of"),
        ({"flow__clean_share": -0.1}, r"clean_share=-0.1 must be in 0\.\.1"),
        ({"flow__condition_sigma": 2.0}, r"flow.condition_sigma=2.0 must be in 0\.\.1"),
        ({"ema__max_decay": 1.5}, r"ema.max_decay=1.5 must be in 0\.\.1"),
        ({"ema__power": 0.0}, "ema.power=0.0 must be positive"),
        ({"log__every_steps": 0}, "log.every_steps=0 must be positive"),
        ({"log__held_out_every": 0}, "log.held_out_every=0 must be positive"),
        ({"log__held_out_batches": 0}, "log.held_out_batches=0 must be positive"),
        ({"checkpoint__every_steps": -1}, "checkpoint.every_steps=-1 must be positive"),
        ({"checkpoint__every_minutes": 0.0}, "checkpoint.every_minutes=0.0 must be positive"),
        ({"rows": (("t2i", 1, 1, 4),)}, "no slot fits task .*; it needs group"),
    ],
)
def test_bad_fields(changes, message):
    """Named, with the value and the choices, before anything is built."""
    with pytest.raises(ValueError, match=message.replace("; it needs", ": it needs")):
        make_experiment(shrunken(**changes))


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            (("t2i", 1, 16),),
            r"rows entry \('t2i', 1, 16\) must be \(group, count, frames, tokens\)",
        ),
        ((("pairs", 1, 1, 16),), "unknown task group 'pairs' in rows; choose from .*multiview"),
        ((("t2i", 0, 1, 16),), "positive count"),
        ((("t2i", 1, -1, 16),), "positive frames and tokens"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        make_layout(rows)
