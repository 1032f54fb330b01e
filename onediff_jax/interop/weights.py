"""Weights of the released layout, in and out, one array at a time."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from onediff_jax.interop.config import PretrainedError
from onediff_jax.interop.names import Path as LeafPath
from onediff_jax.interop.names import to_name
from onediff_jax.interop.safetensors_io import DTYPES, STEM, SafetensorsWriter
from onediff_jax.models import loading


def sources(shapes: Mapping[str, Any]) -> dict[LeafPath, loading.Source]:
    """Where each of our arrays (shapes: nested dict) comes from among the released tensors."""
    found = {}
    leaves: dict[LeafPath, Any] = traverse_util.flatten_dict(dict(shapes))
    for path, leaf in leaves.items():
        stacked = path[0] == "layers"
        layers = range(leaf.shape[0]) if stacked else [None]
        shape = leaf.shape[1:] if stacked else leaf.shape
        axes = (1, 0) if path[-1] == "kernel" else tuple(range(len(shape)))
        names = tuple(to_name(path, layer) for layer in layers)
        released = tuple(shape[axis] for axis in axes)
        found[path] = loading.Source(names, released, axes, stacked)
    return found


def read_weights(
    folder: Path, shapes: Mapping[str, Any], shardings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The parameters of a transformer folder; arguments and errors are those of `open_weights`."""
    leaf = open_weights(folder, shapes, shardings)
    paths = traverse_util.flatten_dict(dict(shapes))
    return traverse_util.unflatten_dict({path: leaf(path) for path in paths})


def open_weights(
    folder: Path, shapes: Mapping[str, Any], shardings: Mapping[str, Any] | None = None
) -> Callable[[LeafPath], jax.Array]:
    """Checks the files of a transformer folder; returns what reads one parameter, given its path.

    Args:
      folder: with diffusion_pytorch_model.safetensors, or its shards and index.
      shapes: nested dict of jax.ShapeDtypeStruct; weights are converted to their dtypes.
      shardings: the same tree of shardings, or None for the default device.

    The files are memory-mapped: the host holds one parameter (of all layers) at a time, and of it
    what its devices need. Raises PretrainedError: damaged or foreign files, a pickle, or a list of
    every tensor that is missing, unexpected, misshapen or not a float.
    """
    try:
        tensors = loading.read_tensors(folder, STEM)
        return loading.open_params(shapes, sources(shapes), tensors, folder, shardings)
    except ValueError as error:
        raise PretrainedError(str(error)) from error
    except (KeyError, TypeError, OSError) as error:
        raise PretrainedError(
            f"the weights in {folder} cannot be read ({type(error).__name__}: {error})"
        ) from error


def write_weights(
    folder: Path,
    shapes: Mapping[str, Any],
    leaf: Callable[[LeafPath], jax.Array],
    *,
    dtype: str,
    max_shard_bytes: int,
) -> None:
    """Writes parameters as released tensors.

    Args:
      folder: an existing one.
      shapes: nested dict of what has a shape.
      leaf: gives the array of a path. Called once each, in order; only one is held at a time.
      dtype, max_shard_bytes: as in SafetensorsWriter, whose errors are raised.
    """
    places = sources(shapes)
    planned = {name: source.shape for source in places.values() for name in source.names}
    with SafetensorsWriter(
        folder,
        dict(sorted(planned.items(), key=lambda item: _natural(item[0]))),
        dtype,
        max_shard_bytes=max_shard_bytes,
    ) as writer:
        for path, source in places.items():
            part = _parts(leaf(path), source.stacked)
            for layer, name in enumerate(source.names):
                writer.write(name, part(layer).transpose(source.axes))
            del part  # before the next one is made


def weight_bytes(shapes: Mapping[str, Any], dtype: str) -> int:
    """Bytes of the parameters in a file."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)) * DTYPES[dtype][0].itemsize


def _parts(array: jax.Array, stacked: bool) -> Callable[[int], np.ndarray]:
    """What brings a layer of an array (or all of it) to the host."""
    if array.is_fully_replicated:  # as on one device: one transfer, and none from a CPU
        host = np.asarray(array.addressable_data(0))
        return lambda layer: host[layer] if stacked else host
    return lambda layer: np.asarray(array[layer] if stacked else array)


def _natural(name: str) -> tuple:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))
