"""Reading a folder of published weights: config.json plus safetensors, single or sharded.

The tensors are memory-mapped, so reading a folder costs no memory until a tensor is converted,
and everything is checked before the first conversion: every missing, unexpected, misshapen or
non-float tensor is listed in one error.
"""

import dataclasses
import gc
import json
import logging
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util

from onediff_jax.files import open_regular, read_json, read_object

# All are read, so that a quantised file is reported by name; only _WEIGHT_DTYPES are accepted.
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
_WEIGHT_DTYPES = tuple(_DTYPES[name] for name in ("F32", "F16", "BF16"))
COMPUTE_DTYPES = ("float32", "bfloat16")
VARIANTS = ("fp32", "fp16", "bf16")  # names of variants that are precisions, the finest first
_TILE = 256  # sides of the pieces in which a transposed matrix is copied
_ALIGNMENT = 64  # bytes; where a host array starts at a multiple, a CPU array needs no copy


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one of our arrays comes from.

    names: one tensor, or one per layer when `stacked`. shape: each tensor's shape in the file.
    axes: the transpose that precedes the reshape to our shape.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    stacked: bool = False


def compute_dtype(dtype) -> jnp.dtype:
    """The checked compute dtype; ValueError for anything but float32 and bfloat16."""
    name = jnp.dtype(dtype).name
    if name not in COMPUTE_DTYPES:
        raise ValueError(f"dtype={name!r} is not a compute dtype; choose one of {COMPUTE_DTYPES}")
    return jnp.dtype(name)


def matmul_precision(dtype) -> jax.lax.Precision | None:
    """Full precision for float32: accelerators would otherwise round its products to tf32/bf16."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def read_config(folder) -> dict:
    """config.json of `folder` as a dict. ValueError when it is missing or not a JSON object."""
    path = pathlib.Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} has no config.json: it is not a folder of a saved model")
    return read_object(path)


def read_tensors(folder, stem: str) -> dict[str, np.ndarray]:
    """All tensors of `<stem>.safetensors`, or of the shards its index names, memory-mapped; where
    there is neither, those of a variant (`weight_files`).

    Errors (ValueError): no such file, a pickle only, a tensor in a shard other than the index says.
    """
    files, index = weight_files(folder, stem)
    if index is None:
        return _read_file(files[0])
    weight_map = _weight_map(index)
    tensors, misplaced = {}, []
    for file in files:
        shard = _read_file(file)
        misplaced += [key for key in shard if weight_map.get(key) != file.name]
        tensors |= shard
    misplaced += [key for key in weight_map if key not in tensors]
    if misplaced:
        raise ValueError(f"{index} does not match its shards: {sorted(set(misplaced))}")
    return tensors


def weight_files(folder, stem: str) -> tuple[list[pathlib.Path], pathlib.Path | None]:
    """The files that hold a folder's weights, and the index of them where there are shards.

    The plain names count where they exist. Without them a variant does, as saved with variant=NAME:
    `<stem>.NAME.safetensors`, or shards with `<stem>.safetensors.index.NAME.json`. Of several the
    most precise one, in the order of VARIANTS; a log line says which was taken.

    Errors (ValueError): no such file, a pickle only, one file and an index of the same name,
    several variants of which none is in VARIANTS, an index that names files that are not there.
    """
    folder = pathlib.Path(folder)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    variants = _variants(names, stem)
    variant = "" if "" in variants else _chosen_variant(folder, stem, set(variants))
    if variant is None:
        raise ValueError(_no_weights(folder, stem, names))
    single, index = variants[variant]
    if single and index:
        raise ValueError(
            f"{str(folder)!r} holds {single} and {index}: one of them is left from an "
            "earlier save, and libraries differ in which they read. Remove the stale one (with the "
            "shards that the index names)"
        )
    if variant:
        logging.warning("%s has no %s.safetensors: %s is read", folder, stem, single or index)
    if single:
        return [folder / single], None
    assert index is not None  # a variant has one of the two, or both
    weight_map = _weight_map(folder / index)
    shards = sorted(set(weight_map.values()))
    for name in shards:
        if name != pathlib.Path(name).name or not (folder / name).is_file():
            raise ValueError(
                f"{folder / index} names the shard {name!r}, which is not in the folder"
            )
    return [folder / name for name in shards], folder / index


def _variants(names: list[str], stem: str) -> dict[str, list[str | None]]:
    """Variant ("": none) → the names of its one file and of its index, None where there is none."""
    forms = (
        re.compile(re.escape(stem) + r"(?:\.([\w-]+))?\.safetensors"),
        re.compile(re.escape(stem) + r"\.safetensors\.index(?:\.([\w-]+))?\.json"),
    )
    found: dict[str, list[str | None]] = {}
    for place, form in enumerate(forms):
        for name in names:
            match = form.fullmatch(name)
            if match and not re.search(r"-\d+-of-\d+", name):
                found.setdefault(match[1] or "", [None, None])[place] = name
    return found


def _chosen_variant(folder: pathlib.Path, stem: str, there: set[str]) -> str | None:
    for name in VARIANTS:
        if name in there:
            return name
    if len(there) > 1:
        raise ValueError(
            f"{str(folder)!r} has no {stem}.safetensors, and several variants: {sorted(there)}. "
            f"Keep the one that is meant, or rename it to {stem}.safetensors"
        )
    return next(iter(there), None)


def _no_weights(folder: pathlib.Path, stem: str, names: list[str]) -> str:
    single = f"{stem}.safetensors"
    pickles = [n for n in names if n.endswith((".bin", ".bin.index.json", ".pt", ".ckpt"))]
    if pickles:
        return (
            f"{str(folder)!r} holds {pickles} and no {single}: these are pickles, which "
            "can run code when they are opened, so they are not read. Save the model again "
            "with save_pretrained(..., safe_serialization=True)"
        )
    return f"{str(folder)!r} has no {single} nor {single}.index.json; found {names}"


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    try:
        return dict(read_json(index)["weight_map"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{index} is not an index of shards: it has no weight_map") from error


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """One safetensors file: 8 bytes of header length, the JSON header, then the raw tensors."""
    open_regular(path).close()  # a FIFO in its place would be waited for
    size = path.stat().st_size
    data = np.memmap(path, np.uint8, mode="r") if size >= 8 else np.zeros(8, np.uint8)
    length = int.from_bytes(data[:8].tobytes(), "little")
    if 8 + length > size:
        raise ValueError(f"{path} is not a whole safetensors file ({size} bytes)")
    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=_once)
    except _TwiceError as error:
        raise ValueError(f"{path} is damaged: its header names {error} twice") from error
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a safetensors file: its header is not a JSON object")
    header.pop("__metadata__", None)
    body, tensors, places = data[8 + length :], {}, []
    for name, entry in header.items():
        try:
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {name} is described by {entry!r}") from error
        if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
            raise ValueError(f"{path} is damaged: {name} has {shape=}, bytes {start} to {end}")
        if kind not in _DTYPES:
            raise ValueError(f"{path}: {name} is {kind}; known are {sorted(_DTYPES)}")
        dtype = _DTYPES[kind]
        if end - start != math.prod(shape) * dtype.itemsize or end > body.size:
            raise ValueError(f"{path} is cut off or damaged: {name} needs bytes {start} to {end}")
        places.append((start, end, name))
        tensors[name] = np.frombuffer(body[start:end], dtype).reshape(shape)
    _check_places(path, sorted(places), body.size)
    return tensors


class _TwiceError(Exception):
    """A name that stands twice in a JSON object."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found


def _check_places(path: pathlib.Path, places: list[tuple[int, int, str]], size: int) -> None:
    """The format's rule: tensors lie one behind the other, from the first byte to the last."""
    before, last = 0, "the header"
    for start, end, name in places:
        if start != before:
            what = "overlaps" if start < before else "leaves bytes unused after"
            raise ValueError(f"{path} is damaged: {name} {what} {last}")
        before, last = end, name
    if before != size:
        raise ValueError(f"{path} is damaged: {size - before} bytes follow {last}")


def load_params(
    shapes: Mapping,
    sources: Mapping[tuple, Source],
    tensors: Mapping[str, np.ndarray],
    where,
    shardings: Mapping | None = None,
) -> dict:
    """Our parameters, filled from a folder's tensors: the nested dict `shapes` with jax arrays.

    Arguments and errors are those of `open_params`. Arrays are made one after the other: beyond
    the result, the host holds one of them.
    """
    param = open_params(shapes, sources, tensors, where, shardings)
    paths = traverse_util.flatten_dict(dict(shapes))
    return traverse_util.unflatten_dict({path: param(path) for path in paths})


def open_params(
    shapes: Mapping,
    sources: Mapping[tuple, Source],
    tensors: Mapping[str, np.ndarray],
    where,
    shardings: Mapping | None = None,
) -> Callable[[tuple], jax.Array]:
    """Checks a folder's tensors and returns what makes one of our parameters from its path.

    shapes: nested dict of jax.ShapeDtypeStruct, the shapes and dtypes to fill. sources: for each
    of its paths, where the array comes from. shardings: the same tree of jax.sharding.Sharding;
    each process then reads what its devices hold. Raises one ValueError that lists every missing,
    unexpected, misshapen or non-float tensor.
    """
    shapes = traverse_util.flatten_dict(dict(shapes))
    shardings = traverse_util.flatten_dict(dict(shardings)) if shardings else {}
    if set(shapes) != set(sources):
        raise ValueError(f"paths without a source: {sorted(set(shapes) ^ set(sources), key=str)}")
    expected = {name: source.shape for source in sources.values() for name in source.names}
    problems = [
        f"missing {name} {shape}" for name, shape in expected.items() if name not in tensors
    ]
    problems += [f"unexpected {name} {tensors[name].shape}" for name in tensors.keys() - expected]
    for name in expected.keys() & tensors.keys():
        if tensors[name].shape != expected[name]:
            problems.append(f"{name} has shape {tensors[name].shape}, not {expected[name]}")
        if tensors[name].dtype not in _WEIGHT_DTYPES:
            names = [dtype.name for dtype in _WEIGHT_DTYPES]
            problems.append(f"{name} has dtype {tensors[name].dtype}, not one of {names}")
    if problems:
        raise ValueError(
            f"{str(where)!r} does not fit its config.json:\n" + "\n".join(sorted(problems))
        )
    leaves: Any = shapes
    places: Any = shardings
    return lambda path: _convert(leaves[path], sources[path], tensors, places.get(path))


def _convert(
    ours: jax.ShapeDtypeStruct, source: Source, tensors, sharding: jax.sharding.Sharding | None
) -> jax.Array:
    def part(index: Any) -> np.ndarray:
        """A part of our array, straight in its final dtype."""
        size = [len(range(*s.indices(n))) for s, n in zip(index, ours.shape, strict=True)]
        gc.collect(0)  # has jax let go of host arrays that it used in place and that are gone
        out = _empty(size, ours.dtype)
        if source.stacked:
            for row, name in zip(out, source.names[index[0]], strict=True):
                fill(row, view(name, ours.shape[1:])[index[1:]])
        else:
            fill(out, view(source.names[0], ours.shape)[index])
        return out

    def view(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return tensors[name].transpose(source.axes).reshape(shape)

    if sharding is None:
        return jax.device_put(part((slice(None),) * len(ours.shape)))
    return jax.make_array_from_callback(ours.shape, sharding, part)


def fill(out: np.ndarray, values: np.ndarray | np.generic) -> None:
    """out[...] = values, converted; a transposed matrix goes in tiles that fit a cache."""
    if values.ndim != 2 or values.strides[0] >= values.strides[1]:
        out[...] = values
        return
    for row in range(0, out.shape[0], _TILE):
        for column in range(0, out.shape[1], _TILE):
            tile = slice(row, row + _TILE), slice(column, column + _TILE)
            out[tile] = values[tile]


def _empty(shape: list[int], dtype: np.dtype) -> np.ndarray:
    """np.empty, aligned: device_put then takes it as it is on CPU."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
