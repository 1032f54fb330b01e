"""Which dimension of which parameter lies on which mesh axis: rules by path, in one place."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# The first dimension of everything under `layers` is the layer; matrices are (in, out). Which
# dimension fsdp cuts decides whether XLA scatters the sum of a gradient or sums the whole of it on
# every device, as seen in what it compiles for TPUs: the input dimension of large matrices, and
# the output dimension of the text's, which have few tokens. Where several partitions are given,
# the first of which every axis divides its dimension counts.
RULES: tuple[tuple[str, tuple[P, ...]], ...] = (
    (r"layers/attention/(wq|wk|wv)/kernel", (P(None, "fsdp", "tensor"),)),
    (
        r"layers/attention/(wk_y|wv_y)/kernel",
        (P(None, None, ("tensor", "fsdp")), P(None, "fsdp", "tensor")),
    ),
    (r"layers/attention/wo/kernel", (P(None, ("tensor", "fsdp")),)),
    (r"layers/feed_forward/(w1|w3)/kernel", (P(None, "fsdp", "tensor"),)),
    (r"layers/feed_forward/w2/kernel", (P(None, ("tensor", "fsdp")),)),
    # Its output is cut in four: split over tensor too, XLA (jax 0.10.2) gave wrong numbers.
    (r"layers/adaLN_modulation/linear/kernel", (P(None, "fsdp"),)),
    (r"(x_embedder|t_embedder/linear[12]|y_embedder/linear)/kernel", (P(None, "fsdp"),)),
    (r"final_layer/adaLN_modulation/linear/kernel", (P(None, "fsdp"),)),
    (r"final_layer/linear/kernel", (P("fsdp", None),)),
    (r".*/(bias|scale|weight|gate)", (P(),)),
    (r".*/lora_[abm]", (P(),)),
)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The partition of one parameter; axes that do not divide their dimension are left out.

    Raises ValueError when not exactly one rule matches the path.
    """
    matches = [specs for pattern, specs in RULES if re.fullmatch(pattern, path)]
    if len(matches) != 1:
        raise ValueError(f"{len(matches)} sharding rules match {path}; exactly one must")
    kept = [
        P(*(_dividing(axes, shape[dim], mesh) for dim, axes in enumerate(s))) for s in matches[0]
    ]
    return next((new for new, spec in zip(kept, matches[0], strict=True) if new == spec), kept[-1])


def _dividing(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh) -> Any:
    """Of the axes over which a rule cuts a dimension those that cut it in equal parts."""
    kept: list[str] = []
    for axis in (axes,) if isinstance(axes, str) else axes or ():
        if size % math.prod(mesh.shape[name] for name in (*kept, axis)) == 0:
            kept.append(axis)
    return kept[0] if len(kept) == 1 else tuple(kept) or None


def path_name(path) -> str:
    """The dict keys at the end of a jax key path as a/b/c: what comes before is the optimizer's."""
    names: list[str] = []
    for key in reversed(path):
        if not isinstance(key, jax.tree_util.DictKey):
            break
        names.append(str(key.key))
    return "/".join(reversed(names))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Shardings of a TrainState (or its shapes): optimizer moments and EMA lie like the params.

    What has another shape than its parameter, as factored moments have, is on every device whole.
    """
    shapes = _shapes(getattr(state, "params", state))

    def one(path, leaf):
        name = path_name(path)
        whole = not name or not leaf.ndim or shapes[name] != leaf.shape
        return NamedSharding(mesh, P() if whole else spec_of(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, state)


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): leaf.shape for path, leaf in leaves}


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """The function, traced with the mesh set: kernels inside see how arrays are split."""

    @functools.wraps(function)
    def traced(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced
