"""The check of an export finds nothing where all is well, and the layer where it is not."""

import json
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from onediff_jax.interop import load_pretrained, save_pretrained, torch_files
from onediff_jax.interop.verify import TOLERANCES, random_case, verify
from tests.models.golden import GOLDEN


@pytest.fixture(scope="module")
def model():
    return load_pretrained(GOLDEN / "nextdit_tiny")


def folder_of(model, path, dtype):
    save_pretrained(model, path, dtype=dtype)
    torch_files.copy_into(path)
    return path / "transformer"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch_and_jax_agree(model, tmp_path, dtype):
    folder = folder_of(model, tmp_path, dtype)
    found = verify(folder, model.config, model.params, [random_case(model.config)], dtype=dtype)
    computed = ["float32"] if dtype == "float32" else ["float32", dtype]
    assert [difference.dtype for difference in found] == computed
    for difference in found:
        assert difference.good and not difference.layers
        assert 0 < difference.error < TOLERANCES[difference.dtype]


def test_the_layer_is_named(model, tmp_path):
    folder = folder_of(model, tmp_path, "float32")
    params = jax.tree.map(lambda leaf: leaf, model.params)
    norm = params["layers"]["ffn_norm2"]
    norm["weight"] = norm["weight"].at[1].multiply(1.01)
    (found,) = verify(folder, model.config, params, [random_case(model.config)], dtype="float32")
    assert not found.good and len(found.layers) == model.config.depth
    first, second, _ = found.layers
    assert first < 2e-5 and second > 1e-4
    lines = str(found).splitlines()
    assert "largest difference" in lines[0] and not lines[1].endswith("<-")
    assert lines[2].startswith("    after layer 1:") and lines[2].endswith("<-")


def test_another_softcap_is_found(tmp_path):
    name = GOLDEN / "nextdit_tiny_softcap"
    uncapped = load_pretrained(name, attention_softcap=None)
    folder = folder_of(load_pretrained(name), tmp_path, "float32")
    assert "attention_softcap" not in json.loads((folder / "config.json").read_text())
    case = random_case(uncapped.config)
    (found,) = verify(folder, uncapped.config, uncapped.params, [case], dtype="float32")
    assert not found.good and found.layers[0] > 1e-4


def test_not_a_number_is_not_good(model, tmp_path):
    folder = folder_of(model, tmp_path, "float32")
    params = jax.tree.map(lambda leaf: leaf * np.nan, model.params)
    (found,) = verify(folder, model.config, params, [random_case(model.config)], dtype="float32")
    assert not found.good
    shutil.rmtree(tmp_path)
