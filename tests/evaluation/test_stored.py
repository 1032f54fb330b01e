"""Every direction of a prepared folder is generated, read back and measured; kills lose nothing."""

import dataclasses
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from onediff_jax.evaluation.of_model import on_folders
from onediff_jax.evaluation.stored import Evaluator, without_caption
from onediff_jax.evaluation.stored_scores import Example, Plan, Scores
from onediff_jax.experiment.build import make_experiment
from onediff_jax.sampling.source import Source
from onediff_jax.tasks.definitions import BUILT_IN, TASKS
from onediff_jax.tasks.depth import depth_image
from tests.data.prepared.fake import FakeSource, make_plan, prepare
from tests.runs import noisy

ROOT = Path(__file__).parents[2]
KINDS = ("text2image", "deblurring", "depth2image", "semanticmap2image", "pose2image")
KINDS += ("boundingbox2image", "canny2image", "multiview", "faceid")
GROUPS = (("t2i", 1), ("i2i", 2), ("identity", 3), ("multiview", 6))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A network that nobody trained, and a folder with two held-out examples or more of a task."""
    root = tmp_path_factory.mktemp("stored")
    made = FakeSource(parts=1, each=10 * len(KINDS), kinds=KINDS, size=(35, 35), views=3)
    prepare(root / "mine", make_plan(made, aspects=("1:1",), tokens=4, held_out=0.5))
    config = runpy.run_path(str(ROOT / "configs/finetune_folder.py"))["get_config"](
        str(root / "mine")
    )
    config.unlock()
    config.model.update({"hidden_size": 48, "depth": 1, "caption_channels": 16})
    config.rows = tuple((group, 1, frames, 4) for group, frames in GROUPS)
    config.data.tasks = dict.fromkeys(KINDS, 1.0)
    config.data.evaluate_on = "held_out"
    experiment = make_experiment(config, with_data=False)
    params = jax.tree.map(jax.numpy.asarray, noisy(experiment.shapes, 0))
    return Source(experiment, params, None, root / "mine")


def evaluated(source, out, **changes):
    asked = {"split": "held_out", "tasks": None, "steps": (1,), "guidance": 1.0, "seed": 0}
    return on_folders(source, [source.path], out, **(asked | {"limit": 2} | changes))


@pytest.mark.slow
def test_every_direction_is_measured_and_goes_on_after_a_kill(source, tmp_path, monkeypatch):
    found = evaluated(source, tmp_path)
    by_task = {}
    for row in found.rows:
        by_task.setdefault(row.task, set()).add(row.metric)
        assert row.n <= 2 and row.steps == 1
    assert by_task["deblurring"] >= {"psnr", "ssim", "blurred again: psnr"}
    assert by_task["image2semanticmap"] == {"miou", "accuracy"}
    assert "AP" in by_task["image2boundingbox"] and "f" in by_task["image2canny"]
    assert "auc30" in by_task["image2camera"] and "psnr" in by_task["multiview"]
    assert not {"text2image", "faceid"} & set(by_task)
    assert any("text2image" in note for note in found.notes)
    captions = {row.data for row in found.rows if row.task == "deblurring"}
    assert captions == {"mine", "mine, no caption"}
    blurred = next(r for r in found.rows if r.task == "deblurring" and r.metric == "psnr")
    assert set(blurred.controls) >= {"input", "another's"} and "codec" in blurred.upper_bound

    def fail(self, steps):
        raise AssertionError("it was generated before")

    monkeypatch.setattr(Evaluator, "_sampler", fail)
    again = evaluated(source, tmp_path)
    assert [r.value for r in again.rows] == pytest.approx(
        [r.value for r in found.rows], nan_ok=True
    )


@pytest.mark.slow
def test_what_there_is_not_is_said(source, tmp_path):
    with pytest.raises(ValueError, match="not what this model was trained on"):
        evaluated(source, tmp_path, tasks=["image2music"])
    with pytest.raises(ValueError, match="nothing to evaluate: .*no nowhere examples"):
        evaluated(source, tmp_path, split="nowhere")


def test_the_prompt_without_its_caption_keeps_token_and_regions():
    prompt = "[[semanticmap2image]] <#FF0000 red mask: cup> a cup on a table"
    assert without_caption(prompt, BUILT_IN).split(" ", 1)[0] == "[[semanticmap2image]]"
    assert "cup>" in without_caption(prompt, BUILT_IN)
    assert "table" not in without_caption(prompt, BUILT_IN)
    assert set(KINDS) <= set(TASKS)


def test_examples_of_which_less_is_known_have_numbers_of_their_own():
    """In any order: depth with a range as depth, the others as pictures; nothing is mixed."""
    task, direction = BUILT_IN.find_direction("image2depth")
    folder: Any = SimpleNamespace(path=Path("rooms"))
    plan = Plan(folder, "held_out", task, direction, 8, True, 3)
    rng = np.random.default_rng(0)

    def example(index: int, ranged: bool) -> Example:
        frame, norm = depth_image(rng.uniform(1, 8, (64, 64)).astype(np.float32))
        picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
        text: Any = SimpleNamespace(prompt="a room")
        known = {"depth_norm": dataclasses.asdict(norm)} if ranged else {}
        roles = ("image", "depth")
        return Example(index, str(index), text, text, (picture, frame), roles, known, (0, 1))

    for order in ([True, True, False], [False, True, True]):
        scores = Scores(plan, {})
        for index, ranged in enumerate(order):
            found = example(index, ranged)
            scores.add(found, found.truth, None)
        rows = {row.metric: (row.value, row.n) for row in scores.rows()}
        assert rows["abs_rel"] == (pytest.approx(0, abs=1e-5), 2)
        assert rows["depth, as a picture: psnr"][1] == 1
        assert "psnr" not in rows
