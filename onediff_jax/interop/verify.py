"""Whether an exported transformer computes in PyTorch what the run computes in JAX.

Both get the same latents, timesteps and captions, in float32 from the weights as stored. An export
in half precision is also computed in it: bfloat16 by both, float16 by PyTorch alone, beside our
float32. Where the outputs differ by more than the tolerance, the layers
are compared one by one.
"""

import dataclasses
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from onediff_jax.interop.model import PretrainedModel
from onediff_jax.models.nextdit import NextDiTConfig

# float32: of the largest difference, in units of the output's deviation where that exceeds 1.
# bfloat16: of the root mean square of the differences over that of the output, or twice what the
# rounding alone costs where that is more: two roundings differ by √2 of it, in any network.
# float16: as bfloat16; its rounding is eight times finer, and what overflows is far from it.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}


@dataclasses.dataclass(frozen=True)
class Case:
    """One call: latents (b, f, h, w, c), timesteps (b, f), text (b, l, d), text_mask (b, l)."""

    name: str
    latents: np.ndarray
    timesteps: np.ndarray
    text: np.ndarray
    text_mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the outputs of one case are apart.

    Attributes:
      case, dtype: what was called, and the dtype of the computation.
      largest: absolute.
      error, tolerance: see TOLERANCES.
      layers: the error after each layer, where the output's exceeds the tolerance.
    """

    case: str
    dtype: str
    largest: float
    error: float
    tolerance: float
    layers: tuple[float, ...] = ()

    @property
    def good(self) -> bool:
        """Within the tolerance; NaN is not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        line = (
            f"{self.dtype:8} {self.case}: largest difference {self.largest:.2e}, "
            f"error {self.error:.2e} (tolerance {self.tolerance:.0e})"
        )
        for number, error in enumerate(self.layers):
            mark = "" if error <= self.tolerance else "  <-"
            line += f"\n    after layer {number}: {error:.2e}{mark}"
        return line


def random_case(config: NextDiTConfig, *, seed: int = 0) -> Case:
    """Two samples of two frames, not square, with captions of different lengths."""
    rng = np.random.default_rng(seed)
    side = 4 * config.patch_size
    mask = np.arange(12) < np.array([[12], [5]])
    return Case(
        "random",
        rng.standard_normal((2, 2, side, side + config.patch_size, config.in_channels), np.float32),
        np.array([[999.0, 1.5], [250.0, 750.0]], np.float32),
        rng.standard_normal((2, 12, config.caption_channels), np.float32),
        mask,
    )


def verify(
    folder: str | Path,
    config: NextDiTConfig,
    params: dict[str, Any],
    cases: Sequence[Case],
    *,
    dtype: str,
) -> list[Difference]:
    """Compares the PyTorch model of a transformer folder with a network of ours.

    Args:
      folder: with nextdit_*.py, config.json and weights.
      config, params: the network, float32.
      dtype: of the weights in the folder; ours are rounded to it first.

    Raises ImportError without torch and diffusers.
    """
    stored = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    found, exact = [], {}
    for computed in dict.fromkeys(("float32", dtype)):
        ours_in = "float32" if computed == "float16" else computed  # JAX never computes in float16
        ours = PretrainedModel(
            config, jax.tree.map(lambda leaf, to=ours_in: leaf.astype(to), stored), dtype=ours_in
        )
        theirs = _load_torch(Path(folder), computed)
        for case in cases:
            want = np.asarray(ours(case.latents, case.timesteps, case.text, case.text_mask))
            rounding = _error(want, exact.setdefault(case.name, want), computed)
            tolerance = max(TOLERANCES[computed], 2 * rounding)
            found.append(_compare(ours, theirs, case, want, tolerance, computed))
        del ours, theirs
    return found


def _compare(
    ours: PretrainedModel, theirs, case: Case, want: np.ndarray, tolerance: float, dtype: str
) -> Difference:
    have = _call_torch(theirs, case)
    largest = float(np.abs(have - want).max())
    found = Difference(case.name, dtype, largest, _error(have, want, dtype), tolerance)
    if found.good:
        return found
    pairs = zip(_torch_layers(theirs, case), _our_layers(ours, case), strict=True)
    return dataclasses.replace(found, layers=tuple(_error(a, b, dtype) for a, b in pairs))


def _error(have: np.ndarray, want: np.ndarray, dtype: str) -> float:
    if dtype == "float32":
        return float(np.abs(have - want).max() / max(1.0, want.std()))
    return float(np.sqrt(np.square(have - want).mean() / max(np.square(want).mean(), 1e-12)))


def _load_torch(folder: Path, dtype: str):
    """The model by the code in the folder, as whoever downloads it runs it."""
    import torch

    (file,) = folder.glob("nextdit_*.py")
    spec = importlib.util.spec_from_file_location("exported_nextdit", file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.NextDiT.from_pretrained(folder, torch_dtype=getattr(torch, dtype))
    return model.eval().requires_grad_(False)


def _call_torch(model, case: Case) -> np.ndarray:
    import torch

    latents = torch.from_numpy(np.ascontiguousarray(np.moveaxis(case.latents, -1, 2)))
    with torch.no_grad():
        out = model(
            latents.to(model.dtype),
            torch.from_numpy(case.timesteps),
            torch.from_numpy(case.text),
            torch.from_numpy(case.text_mask),
            return_dict=False,
        )[0]
    return np.moveaxis(out.float().numpy(), 2, -1)


def _torch_layers(model, case: Case) -> Iterable[np.ndarray]:
    """(b, tokens, d) after each layer."""
    found = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: found.append(out.float().numpy()))
        for layer in model.layers
    ]
    try:
        _call_torch(model, case)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class _Watched(nnx.Module):
    """A layer that hands its output to a function on the host."""

    def __init__(self, block: nnx.Module, watch):
        self.block, self.watch = block, watch

    def __call__(self, x, *rest):
        x = self.block(x, *rest)
        jax.debug.callback(self.watch, x, ordered=True)
        return x


def _our_layers(model: PretrainedModel, case: Case) -> Iterable[np.ndarray]:
    """(b, tokens, d) after each layer."""
    found = []

    def watch(x):  # (b, chunks, tokens per chunk, d)
        found.append(np.asarray(x, np.float32).reshape(x.shape[0], -1, x.shape[-1]))

    module: Any = nnx.merge(model.graphdef, model.params)
    module.layers = _Watched(module.layers, watch)
    with jax.default_matmul_precision("highest"):
        arrays = (case.latents, case.timesteps, case.text, case.text_mask)
        module(*map(jnp.asarray, arrays)).block_until_ready()
    jax.effects_barrier()
    return found
