"""Adapters that a run goes on from: the same numbers, or a refusal that says what differs."""

import numpy as np
import pytest
from flax import traverse_util

from onediff_jax.interop.config import PretrainedError
from onediff_jax.interop.lora import read_adapter, write_adapter
from onediff_jax.models.lora import LoRA

RNG = np.random.default_rng(0)
BASE = {
    ("layers", "attention", "wq", "kernel"): RNG.standard_normal((2, 6, 4), np.float32),
    ("layers", "attention", "wk", "kernel"): RNG.standard_normal((2, 6, 2), np.float32),
    ("y_embedder", "linear", "kernel"): RNG.standard_normal((5, 6), np.float32),
}
SHAPES = traverse_util.unflatten_dict(BASE)
OURS = LoRA(3, 6.0, ("wq", "y_embedder"), {"wq": 2}, dora=True)


def adapters():
    found = {}
    for path, rank in (("layers/attention/wq", 2), ("y_embedder/linear", 3)):
        path = tuple(path.split("/"))
        *stack, width, out = BASE[*path, "kernel"].shape
        for leaf, shape in (("a", (width, rank)), ("b", (rank, out)), ("m", (out,))):
            found[*path, f"lora_{leaf}"] = 1 + RNG.random((*stack, *shape), np.float32)
    return traverse_util.unflatten_dict(found)


def written(folder, form="diffusers"):
    folder.mkdir(exist_ok=True)
    kept = adapters()
    options = {"kernel": BASE.get, "base": "ab12" * 16, "form": form}
    file = write_adapter(folder, kept, OURS, dtype="float32", **options)
    return kept, read_adapter(file, SHAPES)


@pytest.mark.parametrize("form", ["diffusers", "comfyui"])
def test_a_file_gives_back_the_runs_own_numbers(tmp_path, form):
    kept, adapter = written(tmp_path, form)
    found = traverse_util.flatten_dict(adapter.start(OURS, SHAPES, BASE.get))
    kept = traverse_util.flatten_dict(kept)
    assert found.keys() == kept.keys()
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, kept[path], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "lora, message",
    [
        (LoRA(3, 6.0, ("wq",), {"wq": 2}, dora=True), r"only in the file are \['y_embedder.linear"),
        (
            LoRA(3, 6.0, ("wq", "wk", "y_embedder"), dora=True),
            r"only in lora.targets \['layers.a",
        ),
        (LoRA(3, 6.0, ("wq", "y_embedder"), dora=True), r"wq.weight has rank 2, and wq here 3"),
        (LoRA(3, 6.0, OURS.targets, {"wq": 2}), "is of DoRA, and lora.dora=False"),
    ],
)
def test_another_shape_is_refused_by_name(tmp_path, lora, message):
    _, adapter = written(tmp_path)
    with pytest.raises(PretrainedError, match=message):
        adapter.start(lora, SHAPES, BASE.get)


def test_another_base_is_refused(tmp_path):
    _, adapter = written(tmp_path)
    adapter.check_base("ab12" * 16)
    with pytest.raises(PretrainedError, match="hash ab12ab12ab12…, and these have cd34cd34cd34…"):
        adapter.check_base("cd34" * 16)


def test_half_of_an_adapter_goes_half_the_way(tmp_path):
    """Of DoRA too: the columns lie half way between the base's and the adapter's."""
    _, adapter = written(tmp_path)
    for path in adapter.parts:
        whole, half = (adapter.add_to(path, BASE[path], w, BASE[path]) for w in (1.0, 0.5))
        np.testing.assert_allclose(half, (BASE[path] + whole) / 2, atol=1e-5)
        lengths = np.linalg.norm(BASE[path], axis=-2)
        assert np.abs(np.linalg.norm(whole, axis=-2) / lengths - 1).min() > 0
