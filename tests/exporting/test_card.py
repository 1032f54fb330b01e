"""What the model card says of a run beside its tasks."""

import pytest

from onediff_jax.evaluation.results import Result
from onediff_jax.exporting.card import (
    check_license,
    chosen_steps,
    find_evaluation,
    front_matter,
    sections,
)
from onediff_jax.exporting.place import ExportError
from onediff_jax.files import write_json
from tests.experiments import shrunken

ROW = Result(
    *("image2depth", "world", "marigold", "abs_rel", 0.0623, 48),
    interval=(0.05, 0.07),
    better="lower",
    controls={"mean": 0.175},
)


@pytest.fixture
def evaluation(tmp_path):
    """Of step 7, averaged weights."""
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    settings = {"guidance": 1.5, "seed": 3}
    values = {"step": 7, "ema": True, "settings": settings, "rows": [ROW.as_json()]}
    write_json(folder / "metrics.json", values)
    (folder / "samples.png").write_bytes(b"picture")
    return folder


def test_the_evaluation_of_these_weights(evaluation, tmp_path):
    run = evaluation.parent
    assert find_evaluation(run, None, step=7, ema=True) == evaluation
    assert find_evaluation(tmp_path, str(evaluation), step=7, ema=True) == evaluation
    assert find_evaluation(tmp_path, None, step=7, ema=True) is None
    assert find_evaluation(run, None, step=8, ema=True) is None
    with pytest.raises(
        ExportError, match="measured the averaged weights of step 7, and the raw ones of step 8"
    ):
        find_evaluation(run, str(evaluation), step=8, ema=False)
    (evaluation / "metrics.json").write_text("{")
    assert find_evaluation(run, None, step=7, ema=True) is None
    with pytest.raises(ExportError, match=r"is no evaluation: .*metrics\.json"):
        find_evaluation(run, str(evaluation), step=7, ema=True)


def test_figures_samples_and_settings(evaluation, tmp_path):
    config = shrunken(init_from="me/base")
    text = sections(tmp_path, config, evaluation)
    assert (tmp_path / "samples.png").read_bytes() == b"picture"
    assert "![Held-out examples of every task](samples.png)" in text
    assert "(guidance 1.5, seed 3, marigold)" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| image2depth")]
    assert "abs_rel ↓" in line and "0.062" in line and "mean 0.175" in line and "✓" in line
    assert "| data | the embedded world (simple), 64 scenes per task |" in text
    assert "| starts from | me/base |" in text
    assert "| a step | 2 rows of 1 × t2i of 2, 2 × i2i of 2, 1 × identity of 4," in text
    assert "| optimizer | adamw, peak 0.002, late_cosine |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| weights of tasks")]
    assert sorted(line.split(" | ")[1].removesuffix(" |").split(", ")) == [
        *("depth2image 1", "faceid 1", "image_inpainting 1", "multiview 1", "text2image 1"),
    ]


def test_steps_of_an_evaluation_with_several(evaluation):
    assert chosen_steps(None) == chosen_steps(evaluation) == {}
    write_json(evaluation / "metrics.json", {"rows": [], "chosen_steps": {"image2depth": 4}})
    assert chosen_steps(evaluation) == {"image2depth": 4}


def test_folders_of_the_machine_are_not_told(tmp_path):
    (tmp_path / "base").mkdir()
    text = sections(tmp_path, shrunken(init_from=str(tmp_path / "base")), None)
    assert "| starts from | base |" in text and str(tmp_path) not in text
    assert "## How good" not in text and not (tmp_path / "samples.png").exists()
    assert front_matter(str(tmp_path / "base"), "") == ""


def test_front_matter():
    assert front_matter("", "apache-2.0") == "license: apache-2.0\n"
    lines = front_matter("me/base", "", samples=True, relation="adapter").splitlines()
    assert lines[:2] == ["base_model: me/base", "base_model_relation: adapter"]
    assert lines[2] == "widget:" and lines[-1] == "    url: samples.png"
    check_license("cc-by-nc-4.0")
    with pytest.raises(ValueError, match="license='My own' must be an identifier like apache-2.0"):
        check_license("My own")
