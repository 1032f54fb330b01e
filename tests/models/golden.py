"""Reads the golden files: released-layout weights into the network, and arrays channels last."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from onediff_jax.interop.names import to_place
from onediff_jax.models.nextdit import NextDiT, NextDiTConfig

GOLDEN = Path(__file__).parents[1] / "golden"


def load_model(name: str, softcap: float | None = None, **options) -> NextDiT:
    """The network of a golden folder with its weights; every leaf must be filled exactly once."""
    folder = GOLDEN / name / "transformer"
    released = json.loads((folder / "config.json").read_text())
    released["patch_size"] = released["patch_size"][-1]
    fields = NextDiTConfig.__dataclass_fields__
    cfg = NextDiTConfig(
        **{k: v for k, v in released.items() if k in fields}, attention_softcap=softcap
    )
    abstract = nnx.eval_shape(lambda: NextDiT(cfg, rngs=nnx.Rngs(0), **options))
    graphdef, state = nnx.split(abstract)
    want = {".".join(path): leaf for path, leaf in _leaves(nnx.to_pure_dict(state))}
    params, layers = {}, {}
    for tensor_name, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        place = to_place(tensor_name, tensor.ndim)
        value = tensor.T if place.transpose else tensor
        if place.layer is None:
            _put(params, place.path, jnp.asarray(value))
        else:
            layers.setdefault(place.path, {})[place.layer] = value
    for path, values in layers.items():
        _put(params, path, jnp.stack([values[i] for i in range(cfg.depth)]))
    have = {".".join(path): leaf for path, leaf in _leaves(params)}
    assert {k: v.shape for k, v in have.items()} == {k: v.shape for k, v in want.items()}
    return nnx.merge(graphdef, params)


def load_case(file: str, case: str) -> dict[str, np.ndarray]:
    """The arrays of one case, latents (…, c, h, w) → (…, h, w, c)."""
    with np.load(GOLDEN / file) as arrays:
        keys = [key for key in arrays if key.startswith(f"{case}__")]
        found = {key.removeprefix(f"{case}__"): arrays[key] for key in keys}
    assert found, case
    return {k: np.moveaxis(v, -3, -1) if v.ndim >= 5 else v for k, v in found.items()}


def compiled(model: NextDiT, method: str = "__call__", **static) -> Callable:
    """The network (or one of its methods) as a compiled function of arrays."""
    graphdef, params = nnx.split(model)

    @jax.jit
    def run(params, args, kwargs):
        return getattr(nnx.merge(graphdef, params), method)(*args, **kwargs, **static)

    return lambda *args, **kwargs: np.asarray(run(params, args, kwargs))


def inputs(case: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """The network's arguments for a case; its timesteps must be constant within a frame."""
    timesteps = case["timesteps"]
    per_frame = timesteps[:, :, 0, 0, 0]
    assert (timesteps == per_frame[:, :, None, None, None]).all()
    mask = case["encoder_attention_mask"].astype(bool)
    return case["samples"], per_frame, case["encoder_hidden_states"], mask


def _leaves(tree: dict, prefix: tuple = ()) -> list:
    found = []
    for key, value in tree.items():
        inner = isinstance(value, dict)
        found += _leaves(value, (*prefix, key)) if inner else [((*prefix, key), value)]
    return found


def _put(tree: dict, path: tuple, value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
