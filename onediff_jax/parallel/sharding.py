"""Which dimension of which parameter lies on which mesh axis: rules by path, in one place."""

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# The first dimension of everything under `layers` is the layer; matrices are (in, out).
# One weight dimension per mesh axis, so that gradients are reduce-scattered, not all-reduced.
RULES = (
    (r"layers/attention/(wq|wk|wv)/kernel", P(None, "fsdp", "tensor")),
    (r"layers/attention/(wk_y|wv_y)/kernel", P(None, "fsdp", "tensor")),
    (r"layers/attention/wo/kernel", P(None, "tensor", "fsdp")),
    (r"layers/feed_forward/(w1|w3)/kernel", P(None, "fsdp", "tensor")),
    (r"layers/feed_forward/w2/kernel", P(None, "tensor", "fsdp")),
    # Its output is cut in four: split over tensor too, XLA (jax 0.10.2) gave wrong numbers.
    (r"layers/adaLN_modulation/linear/kernel", P(None, "fsdp")),
    (r"(x_embedder|t_embedder/linear[12]|y_embedder/linear)/kernel", P(None, "fsdp")),
    (r"final_layer/adaLN_modulation/linear/kernel", P(None, "fsdp")),
    (r"final_layer/linear/kernel", P("fsdp", None)),
    (r".*/(bias|scale|weight|gate)", P()),
    (r"layers/.*/lora_[ab]", P()),
)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The partition of one parameter; a dimension that an axis does not divide is replicated.

    Raises ValueError when not exactly one rule matches the path.
    """
    matches = [spec for pattern, spec in RULES if re.fullmatch(pattern, path)]
    if len(matches) != 1:
        raise ValueError(f"{len(matches)} sharding rules match {path}; exactly one must")
    axes = [
        axis if axis is not None and shape[dim] % mesh.shape[axis] == 0 else None
        for dim, axis in enumerate(matches[0])
    ]
    return P(*axes)


def path_name(path) -> str:
    """A jax key path as a/b/c, of dict keys only."""
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Shardings of a TrainState (or its shapes): optimizer moments and EMA lie like the params."""

    def one(path, leaf):
        name = path_name(path)
        spec = spec_of(name, leaf.shape, mesh) if name and leaf.ndim else P()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, state)
