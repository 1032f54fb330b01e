"""What the backward pass of a layer keeps and what it computes again."""

from collections.abc import Callable
from typing import Literal

import jax

Remat = Literal["none", "feed_forward", "mixed", "attention", "kernels", "full"]
# Of a layer's named values those that are kept. Recomputed matrix products, as a share of the
# dense ones of a step at the released shape: feed_forward 17 %, mixed 20 %, attention 25 %, the
# others 33 %; "kernels" keeps what attention computed, so that its kernels run once.
SAVED: dict[str, tuple[str, ...]] = {
    "feed_forward": ("qkv", "text", "attention", "wo", "w2"),
    "mixed": ("qkv", "text", "attention", "w2"),
    "attention": ("qkv", "text", "attention", "wo"),
    "kernels": ("attention",),
    "full": (),
}
REMATS = ("none", *SAVED)


def check_remat(name: str) -> None:
    """Raises ValueError for an unknown name."""
    if name not in REMATS:
        raise ValueError(f"model.remat={name!r} must be one of {REMATS}")


def rematerialised(layer: Callable, remat: Remat) -> Callable:
    """The layer with what `remat` says to recompute."""
    if remat == "none":
        return layer
    return jax.checkpoint(
        layer, policy=jax.checkpoint_policies.save_only_these_names(*SAVED[remat])
    )
