"""The evaluate command, end to end on a run of two steps, and what it says of bad input."""

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from onediff_jax import evaluate as command
from onediff_jax.evaluation.scoring import Settings, evaluate, world_of
from onediff_jax.run.loop import train
from onediff_jax.sampling.source import load_source
from onediff_jax.tasks.definitions import all_directions

ROOT = Path(__file__).parents[1]
ROWS = (("t2i", 1), ("i2i", 2), ("identity", 3), ("multiview", 4))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir of the shipped config, shrunk, after two steps."""
    config = runpy.run_path(str(ROOT / "configs/t2i_multitask.py"))["get_config"]("tiny")
    config.update(
        {
            "model": {"hidden_size": 48, "depth": 1, "caption_channels": 16},
            "rows": tuple((group, 1, frames, 16) for group, frames in ROWS),
            "data": {"scenes": 6},
            "optim": {"warmup_steps": 1},
            "train": {"steps": 2, "batch_rows": jax.device_count()},
            "log": {
                "sample_every": 0,
                "held_out_at": (1,),
                "held_out_batches": 6,
                "every_steps": 1,
            },
        }
    )
    workdir = tmp_path_factory.mktemp("run")
    state = train(config, workdir)
    return workdir, jax.device_get(state)


@pytest.mark.slow
def test_source_restores_either_weights(run):
    workdir, state = run
    average, raw = load_source(workdir), load_source(workdir, ema=False, step=2)
    assert average.step == raw.step == 2 and average.path == workdir
    for found, saved in ((average.params, state.ema), (raw.params, state.params)):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), saved)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), average.params, raw.params)
    assert not all(jax.tree.leaves(same))
    with pytest.raises(ValueError, match=r"no checkpoint of step 7 in .*; there are \[2\]"):
        load_source(workdir, step=7)


@pytest.mark.slow
def test_everything_is_written_for_every_direction(run, tmp_path, capsys):
    workdir, _ = run
    out = tmp_path / "new" / "out"
    others = [out / "predictions/other_system/a.png", out / "parts/mine.txt"]
    for file in others:  # nobody asked for them to be removed
        file.parent.mkdir(parents=True)
        file.touch()
    arguments = [f"--source={workdir}", f"--out={out}", "--scenes=2", "--steps=1"]
    assert command.main(arguments) == 0
    assert all(file.exists() for file in others)
    values = json.loads((out / "metrics.json").read_text())
    names = [direction.name for _, direction in all_directions()]
    assert list(dict.fromkeys(row["task"] for row in values["rows"])) == names
    assert all(np.isfinite(row["value"]) for row in values["rows"])
    assert values["step"] == 2 and values["settings"]["scenes"] == 2
    assert values["held_out_loss"]["early_step"] == 1
    assert {check["name"] for check in values["required"]} == {
        "depth",
        "segmentation",
        "colours",
        "held-out loss",
    }
    assert np.asarray(Image.open(out / "samples.png")).std() > 0
    text, console = (out / "report.md").read_text(), capsys.readouterr().out
    for name in names:
        assert f"| {name} " in text and f"| {name} " in console


@pytest.mark.slow
def test_check_fails_for_an_untrained_model_and_names_what_failed(run, tmp_path, capsys):
    arguments = [f"--source={run[0]}", f"--out={tmp_path}", "--scenes=2", "--steps=1", "--check"]
    assert command.main([*arguments, "--tasks=image2depth"]) == 1
    error = capsys.readouterr().err
    assert "--check failed" in error and "depth: AbsRel" in error
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert {row["task"] for row in values["rows"]} == {"image2depth"}


@pytest.mark.slow
def test_the_result_depends_on_the_seed_and_not_on_the_other_tasks(run):
    source = load_source(run[0])

    def values(*tasks, seed=0):
        found = evaluate(source, Settings(tasks, scenes=2, steps=1, seed=seed), quiet=True)
        return {(r.task, r.metric): r.model for r in found.rows}

    alone, both = values("image2depth"), values("hed2img", "image2depth")
    for key, value in alone.items():
        assert both[key] == pytest.approx(value, rel=1e-4)
    assert alone != values("image2depth", seed=1)


def exit_code(arguments):
    try:
        return command.main(arguments)
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize(
    "changed, message",
    [
        ({}, "source nowhere is no folder"),
        ({"source": str(ROOT / "tests")}, "not a workdir of a run"),
        ({"tasks": "image2music"}, "unknown task or direction 'image2music'; choose from"),
        ({"tasks": ","}, "names no task"),
        ({"scenes": "0"}, "scenes=0 must be positive"),
        ({"scenes": "many"}, "invalid int value: 'many'"),
        ({"ema": "perhaps"}, "'perhaps' must be true or false"),
        ({"out": "/dev/null/out"}, "out /dev/null/out cannot be written"),
        ({"task": "depth2image"}, "unrecognized arguments: --task=depth2image"),
        ({"source": None}, "give --source"),
    ],
)
def test_bad_input_is_one_message(changed, message, tmp_path, capsys):
    given = {"source": "nowhere", "out": str(tmp_path), "scenes": "1", **changed}
    assert exit_code([f"--{k}={v}" for k, v in given.items() if v is not None]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_direction_that_was_not_trained_is_refused(run):
    source = load_source(run[0])
    source.experiment.config.data.tasks.faceid = 0.0
    with pytest.raises(ValueError, match=r"tasks \['faceid'\] are not what .* trained on: "):
        evaluate(source, Settings(("faceid",)), quiet=True)


@pytest.mark.slow
def test_a_model_of_other_data_is_measured_on_the_rich_world(run):
    source = load_source(run[0])
    before = evaluate(source, Settings(("image2depth",), scenes=2, steps=1), quiet=True)
    source.experiment.config.data.name = "prepared"
    assert world_of(source.experiment) == (0, "rich")
    after = evaluate(source, Settings(("image2depth",), scenes=2, steps=1), quiet=True)
    assert after.rows[0].controls != before.rows[0].controls
