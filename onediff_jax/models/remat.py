"""What the backward pass of a layer keeps and what it computes again."""

from collections.abc import Callable
from typing import Literal

import jax

Remat = Literal["none", "feed_forward", "mixed", "attention", "kernels", "full"]
# Of a layer's named values those that are kept. At the released shape that repeats of the dense
# products of a step: feed_forward 17 % (w1, w3), mixed 20 % (wo too), attention 25 % (w1, w2, w3),
# kernels 32 % (all but the keys and values), full 33 %; all but "full" run the kernels of
# self-attention once forward. Text attention is repeated: half a percent of a step.
SAVED: dict[str, tuple[str, ...]] = {
    "feed_forward": ("adaln", "q", "kv", "text", "attention", "wo", "w2"),
    "mixed": ("adaln", "q", "kv", "text", "attention", "w2"),
    "attention": ("adaln", "q", "kv", "text", "attention", "wo"),
    "kernels": ("adaln", "kv", "text", "attention"),
    "full": (),
}
REMATS = ("none", *SAVED)


def check_remat(name: str) -> None:
    """Raises ValueError for an unknown name."""
    if name not in REMATS:
        raise ValueError(f"model.remat={name!r} must be one of {REMATS}")


def rematerialised(layer: Callable, remat: Remat | str) -> Callable:
    """The layer with what `remat` says to recompute."""
    if remat == "none":
        return layer
    return jax.checkpoint(
        layer, policy=jax.checkpoint_policies.save_only_these_names(*SAVED[remat])
    )
