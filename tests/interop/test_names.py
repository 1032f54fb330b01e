"""The released names map onto our parameters, one to one."""

import json
import struct

import jax
import pytest
from flax import nnx

from onediff_jax.interop.names import Place, to_name, to_place
from onediff_jax.models.nextdit import NextDiT, NextDiTConfig
from tests.models.golden import GOLDEN

LAYERS = "layers"


@pytest.mark.parametrize(
    "name, ndim, place",
    [
        ("x_embedder.weight", 2, Place(("x_embedder", "kernel"), None, True)),
        ("x_embedder.bias", 1, Place(("x_embedder", "bias"), None, False)),
        ("t_embedder.mlp.2.weight", 2, Place(("t_embedder", "linear2", "kernel"), None, True)),
        ("y_embedder.0.weight", 1, Place(("y_embedder", "norm", "scale"), None, False)),
        ("y_embedder.1.bias", 1, Place(("y_embedder", "linear", "bias"), None, False)),
        ("layers.3.attention.wq.weight", 2, Place((LAYERS, "attention", "wq", "kernel"), 3, True)),
        ("layers.3.attention.gate", 1, Place((LAYERS, "attention", "gate"), 3, False)),
        (
            "layers.0.attention.ky_norm.weight",
            1,
            Place((LAYERS, "attention", "ky_norm", "scale"), 0, False),
        ),
        ("layers.12.ffn_norm2.weight", 1, Place((LAYERS, "ffn_norm2", "weight"), 12, False)),
        (
            "layers.1.adaLN_modulation.1.weight",
            2,
            Place((LAYERS, "adaLN_modulation", "linear", "kernel"), 1, True),
        ),
        (
            "final_layer.adaLN_modulation.1.bias",
            1,
            Place(("final_layer", "adaLN_modulation", "linear", "bias"), None, False),
        ),
    ],
)
def test_both_ways(name, ndim, place):
    assert to_place(name, ndim) == place
    assert to_name(place.path, place.layer) == name


def test_every_released_tensor_has_a_leaf_and_every_leaf_a_tensor():
    """Names and shapes of a released-layout file against the network of its config."""
    folder = GOLDEN / "nextdit_tiny" / "transformer"
    with open(folder / "diffusion_pytorch_model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    header.pop("__metadata__", None)
    cfg = NextDiTConfig(96, 3, 8, 2, 32, caption_channels=48)
    state = nnx.state(nnx.eval_shape(lambda: NextDiT(cfg, rngs=nnx.Rngs(0))), nnx.Param)
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state))
    want = {}
    for path, leaf in leaves:
        path = tuple(key.key for key in path)
        for layer in range(3) if path[0] == LAYERS else [None]:
            shape = leaf.shape if layer is None else leaf.shape[1:]
            name = to_name(path, layer)
            assert to_place(name, len(shape)) == Place(path, layer, len(shape) == 2)
            want[name] = list(reversed(shape))
    assert want == {name: entry["shape"] for name, entry in header.items()}
