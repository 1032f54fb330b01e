"""Low-rank adapters (LoRA, arXiv 2106.09685) for the matrices of the transformer's layers.

y = x·W + (alpha/rank)·(x·A)·B, with W as it is and A (in, rank), B (rank, out) trained; B starts at
zero, so training starts at the network that W describes. Adapters are leaves `lora_a` and `lora_b`
beside the `kernel` of their matrix, stacked over the layers like it: taking them out of the
parameters leaves the network's own.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# Matrices that can have an adapter, and the module of a layer each is in.
TARGETS = {
    "wq": "attention",
    "wk": "attention",
    "wv": "attention",
    "wo": "attention",
    "wk_y": "attention",
    "wv_y": "attention",
    "w1": "feed_forward",
    "w2": "feed_forward",
    "w3": "feed_forward",
}


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which matrices have adapters, and of what size. `alpha`/`rank` scales what they add."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    def __post_init__(self):
        for field in ("rank", "alpha"):
            if not getattr(self, field) > 0:
                raise ValueError(f"lora.{field}={getattr(self, field)} must be positive")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            raise ValueError(f"lora.targets={self.targets} must be some of {list(TARGETS)}")

    @property
    def scale(self) -> float:
        """Factor of A·B."""
        return self.alpha / self.rank


class LoRALinear(nnx.Module):
    """A linear map without bias, and its adapter. Takes the place of an nnx.Linear."""

    def __init__(self, linear: nnx.Linear, lora: LoRA, *, rngs: nnx.Rngs):
        *stack, width, out = linear.kernel.shape
        bound = width**-0.5
        self.kernel, self.dtype, self.scale = linear.kernel, linear.dtype, lora.scale
        shape = (*stack, width, lora.rank)
        start = jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        self.lora_a = nnx.Param(start)
        self.lora_b = nnx.Param(jnp.zeros((*stack, lora.rank, out)))

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        x, kernel, a, b = (
            value.astype(self.dtype)
            for value in (x, self.kernel[...], self.lora_a[...], self.lora_b[...])
        )
        return x @ kernel + self.scale * ((x @ a) @ b)


def add_lora(layers: nnx.Module, lora: LoRA, *, rngs: nnx.Rngs) -> None:
    """Gives the targets of a network's stacked layers their adapters, in place."""
    for name in lora.targets:
        module = getattr(layers, TARGETS[name])
        setattr(module, name, LoRALinear(getattr(module, name), lora, rngs=rngs))


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
            (adapters if key in ("lora_a", "lora_b") else own)[key] = value
    return adapters, own


def join(some: dict[str, Any], others: dict[str, Any] | None) -> dict[str, Any]:
    """One nested dict of two without a leaf in common; the inverse of `split_lora`."""
    joined = dict(some)
    for key, value in (others or {}).items():
        joined[key] = join(joined[key], value) if key in joined else value
    return joined


def merged(
    kernel: Float[Array, "n i o"], a: Float[Array, "n i r"], b: Float[Array, "n r o"], scale: float
) -> Float[Array, "n i o"]:
    """Stacked matrices with their adapters added, in their own dtype; summed in float32."""
    added = jnp.einsum("nir,nro->nio", a, b, precision="highest")
    return (kernel.astype(jnp.float32) + scale * added).astype(kernel.dtype)
