"""Low-rank adapters (LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353) for the network's matrices.

y = x·W + (alpha/rank)·(x·A)·B, with W as it is and A (in, rank), B (rank, out) trained; B starts at
zero, so training starts at the network that W describes. Adapters are leaves `lora_a` and `lora_b`
beside the `kernel` of their matrix, stacked over the layers like it: taking them out of the
parameters leaves the network's own.

DoRA also trains the length of every column of W + (alpha/rank)·A·B, in a leaf `lora_m` (out,). It
is kept as a multiple of the length of W's column, so that it starts at one whatever W is; files
have the length itself.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

# Matrices that can have an adapter, and where each is; wk_y, wv_y and y_embedder read the prompt.
TARGETS = {
    "wq": ("layers", "attention", "wq"),
    "wk": ("layers", "attention", "wk"),
    "wv": ("layers", "attention", "wv"),
    "wo": ("layers", "attention", "wo"),
    "wk_y": ("layers", "attention", "wk_y"),
    "wv_y": ("layers", "attention", "wv_y"),
    "w1": ("layers", "feed_forward", "w1"),
    "w2": ("layers", "feed_forward", "w2"),
    "w3": ("layers", "feed_forward", "w3"),
    "y_embedder": ("y_embedder", "linear"),
}
_NAMES = {path: name for name, path in TARGETS.items()}
LEAVES = ("lora_a", "lora_b", "lora_m")


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which matrices have adapters, and of what size. `alpha`/rank scales what they add.

    Attributes:
      rank_pattern: ranks of the targets that have another than `rank`.
      dora: whether the lengths of the columns are trained too.
      init_adapter: file or folder of the adapters that training starts from; "": from nothing.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dora: bool = False
    init_adapter: str = ""

    def __post_init__(self):
        for field in ("rank", "alpha"):
            if not getattr(self, field) > 0:
                raise ValueError(f"lora.{field}={getattr(self, field)} must be positive")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            raise ValueError(f"lora.targets={self.targets} must be some of {list(TARGETS)}")
        for name, rank in self.rank_pattern.items():
            if name not in self.targets:
                raise ValueError(
                    f"lora.rank_pattern.{name}={rank}: it must name one of lora.targets, "
                    f"{list(self.targets)}"
                )
            if rank != int(rank) or rank <= 0:
                raise ValueError(f"lora.rank_pattern.{name}={rank} must be a positive integer")

    def rank_of(self, target: str) -> int:
        """Width of a target's adapter."""
        return int(self.rank_pattern.get(target, self.rank))

    def scale_of(self, path: tuple[str, ...]) -> float:
        """Factor of A·B of the matrix at a path (of the module, or of a leaf in it)."""
        name = _NAMES[path if path in _NAMES else path[:-1]]
        return self.alpha / self.rank_of(name)


class LoRALinear(nnx.Module):
    """A linear map and its adapter. Takes the place of an nnx.Linear."""

    def __init__(self, linear: nnx.Linear, lora: LoRA, target: str, *, rngs: nnx.Rngs):
        *stack, width, out = linear.kernel.shape
        bound, rank = width**-0.5, lora.rank_of(target)
        self.kernel, self.dtype = linear.kernel, linear.dtype or jnp.float32
        self.bias, self.scale = linear.bias, lora.scale_of(TARGETS[target])
        shape = (*stack, width, rank)
        start = jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        self.lora_a = nnx.Param(start)
        self.lora_b = nnx.Param(jnp.zeros((*stack, rank, out)))
        self.lora_m = nnx.Param(jnp.ones((*stack, out))) if lora.dora else None

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        x, kernel, a, b = (
            value.astype(self.dtype)
            for value in (x, self.kernel[...], self.lora_a[...], self.lora_b[...])
        )
        y = x @ kernel + self.scale * ((x @ a) @ b)
        if self.lora_m is not None:
            matrices = self.kernel[...], self.lora_a[...], self.lora_b[...]
            # A constant in the gradient, as in section 4.3 of the paper.
            stretch = jax.lax.stop_gradient(_stretch(*matrices, self.scale))
            y = y * (self.lora_m[...] * stretch).astype(self.dtype)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def add_lora(network: nnx.Module, lora: LoRA, *, rngs: nnx.Rngs) -> None:
    """Gives the targets of a network their adapters, in place."""
    for name in lora.targets:
        *path, last = TARGETS[name]
        module = network
        for key in path:
            module = getattr(module, key)
        setattr(module, last, LoRALinear(getattr(module, last), lora, name, rngs=rngs))


def split_lora(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of a network with adapters → the adapters, and the network's own."""
    adapters, own = {}, {}
    for key, value in params.items():
        if isinstance(value, dict):
            inner = split_lora(value)
            for tree, part in zip((adapters, own), inner, strict=True):
                if part:
                    tree[key] = part
        else:
            (adapters if key in LEAVES else own)[key] = value
    return adapters, own


def join(some: dict[str, Any], others: dict[str, Any] | None) -> dict[str, Any]:
    """One nested dict of two without a leaf in common; the inverse of `split_lora`."""
    joined = dict(some)
    for key, value in (others or {}).items():
        joined[key] = join(joined[key], value) if key in joined else value
    return joined


def merged(
    kernel: Float[Array | np.ndarray, "*n i o"],
    a: Float[Array, "*n i r"],
    b: Float[Array, "*n r o"],
    scale: float,
    m: Float[Array, "*n o"] | None = None,
) -> Float[Array, "*n i o"]:
    """Matrices with their adapters added, in their own dtype; summed in float32.

    Args:
      m: of DoRA: the lengths of the columns, as multiples of those of `kernel`.
    """
    kernel = jnp.asarray(kernel)
    whole = _sum(kernel, a, b, scale)
    if m is not None:
        whole = whole * (m * _stretch(kernel, a, b, scale))[..., None, :]
    return whole.astype(kernel.dtype)


def _sum(kernel: Array, a: Array, b: Array, scale: float) -> Array:
    added = jnp.einsum("...ir,...ro->...io", a, b, precision="highest")
    return kernel.astype(jnp.float32) + scale * added


def _stretch(kernel: Array, a: Array, b: Array, scale: float) -> Float[Array, "*n o"]:
    """By how much the columns of `kernel` are longer than with the adapter; 1 for empty ones."""
    before = jnp.linalg.norm(kernel.astype(jnp.float32), axis=-2)
    after = jnp.linalg.norm(_sum(kernel, a, b, scale), axis=-2)
    return jnp.where(after > 0, before / jnp.where(after > 0, after, 1.0), 1.0)
