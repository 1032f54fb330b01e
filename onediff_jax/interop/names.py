"""How the released PyTorch tensors map onto our parameters.

A released tensor is `layers.3.attention.wq.weight`, shape (out, in). Ours is the leaf
("layers", "attention", "wq", "kernel") of a nested dict, shape (depth, in, out): layers are stacked
on a leading axis, matrices transposed, everything else as it is.
"""

import dataclasses

Path = tuple[str, ...]

# Modules whose released name is not our path joined with dots.
_MODULES = {
    "t_embedder.mlp.0": ("t_embedder", "linear1"),
    "t_embedder.mlp.2": ("t_embedder", "linear2"),
    "y_embedder.0": ("y_embedder", "norm"),
    "y_embedder.1": ("y_embedder", "linear"),
    "final_layer.adaLN_modulation.1": ("final_layer", "adaLN_modulation", "linear"),
    "layers.adaLN_modulation.1": ("layers", "adaLN_modulation", "linear"),
}
_PATHS = {path: name for name, path in _MODULES.items()}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a released tensor goes: leaf path, layer index (None outside layers), transposed."""

    path: Path
    layer: int | None
    transpose: bool


def to_place(name: str, ndim: int) -> Place:
    """The place of a released tensor name with `ndim` dimensions."""
    parts = name.split(".")
    layer = None
    if parts[0] == "layers":
        layer = int(parts.pop(1))
    module, leaf = ".".join(parts[:-1]), parts[-1]
    path = _MODULES.get(module, tuple(module.split(".")) if module else ())
    norm = path and ("norm" in path[-1])
    if leaf == "weight" and ndim == 2:
        leaf = "kernel"
    elif leaf == "weight" and norm and not _is_rms(path):
        leaf = "scale"
    return Place((*path, leaf), layer, ndim == 2)


def to_name(path: Path, layer: int | None) -> str:
    """The released name of a leaf (of one layer)."""
    module, leaf = path[:-1], path[-1]
    name = _PATHS.get(module, ".".join(module))
    if layer is not None:
        name = name.replace("layers", f"layers.{layer}", 1)
    return f"{name}.{ {'kernel': 'weight', 'scale': 'weight'}.get(leaf, leaf) }"


def _is_rms(path: Path) -> bool:
    """RMSNorms call their weight `weight`; LayerNorms call it `scale`."""
    return path[0] == "layers" and len(path) == 2
