"""Fine-tuning from a folder: where it starts, how it resumes, what it refuses."""

import shutil

import jax
import numpy as np
import pytest

from onediff_jax.experiment.build import make_experiment, param_count
from onediff_jax.interop import save_pretrained
from onediff_jax.interop.config import PretrainedError
from onediff_jax.interop.model import PretrainedModel
from onediff_jax.parallel.memory import needed_bytes
from onediff_jax.parallel.mesh import make_mesh
from onediff_jax.run.loop import train
from tests.experiments import TASKS, experiment, get_config, shrunken
from tests.runs import lora_config, noisy

# One slot of one task: a step that compiles in seconds.
SMALL = {"rows": (("i2i", 1, 2, 4),), "data__scenes": 8}
SMALL |= {f"data__tasks__{name}": 0.0 for name in TASKS if name != "depth2image"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_pretrained(PretrainedModel(experiment().model_config, given()), folder)
    return folder


def given():
    return jax.tree.map(jax.numpy.asarray, noisy(experiment().shapes, 0))


@pytest.mark.slow
def test_full_fine_tuning_starts_at_the_folder(folder, tmp_path):
    """One step of a rate of 1e-9 leaves the weights where they were."""
    rate = {"optim__learning_rate": 1e-9, "optim__warmup_steps": 0, "train__steps": 1}
    state = train(shrunken(init_from=str(folder), **rate, **SMALL), tmp_path)
    for tree in (state.params, state.ema):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), tree, given())


@pytest.mark.slow
def test_adapters_resume_bit_for_bit(folder, tmp_path):
    config = lora_config(folder, train__steps=4, checkpoint__every_steps=2, **SMALL)
    whole = train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    again = train(config, tmp_path / "run")
    assert int(whole.step) == int(again.step) == 4
    for found, want in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("make", [lambda f, **c: shrunken(init_from=f, **c), lora_config])
def test_another_network_is_refused_by_field(folder, tmp_path, make):
    with pytest.raises(PretrainedError, match=r"model\.depth=1 in this config, 2 in the folder"):
        train(make(str(folder), model__depth=1), tmp_path)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_shipped_config_fits_what_it_says(mode):
    """The estimates of its docstring, and the released network, without any data."""
    config = get_config(mode, "finetune_pretrained.py").unlock()
    config.init_from = "somewhere"
    tasks = config.data.tasks
    config.data = get_config().data.copy_and_resolve_references()
    config.data.tasks = tasks
    config.text.kind = "hashed"
    found = make_experiment(config)
    shapes = found.frozen_shapes if mode == "lora" else found.shapes
    assert param_count(shapes) == 2_800_389_184
    trained = param_count(found.shapes)
    assert trained == (17_203_200 if mode == "lora" else 2_800_389_184)
    gib = needed_bytes(found, trained, make_mesh(config.mesh)) / 2**30
    assert gib == pytest.approx(6 if mode == "lora" else 52.6, abs=0.1)


def test_unknown_mode():
    with pytest.raises(ValueError, match=r"unknown mode='half'; choose from \('lora', 'full'\)"):
        get_config("half", "finetune_pretrained.py")
