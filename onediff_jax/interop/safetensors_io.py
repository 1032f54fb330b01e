"""Writing safetensors tensor by tensor: one file, or shards with an index.

The sizes are known beforehand, so the files are laid out first and every tensor then goes to its
place, in any order. A tensor is written while the next one is made: what must be in memory are two.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np

from onediff_jax.models.loading import fill

# Of the weights in a file; the names are those of the command line, the codes the format's.
DTYPES = {
    "float32": (np.dtype(np.float32), "F32"),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), "BF16"),
    "float16": (np.dtype(np.float16), "F16"),
}
STEM = "diffusion_pytorch_model"


class SafetensorsWriter:
    """Writes tensors of one dtype into a folder; a context manager.

    Args:
      folder: must exist.
      shapes: of every tensor, by name.
      dtype: "float32", "bfloat16" or "float16".
      max_shard_bytes: of tensors per file; a larger tensor gets a file of its own.
      notes: further strings of the header's metadata.
      stem: of the files: {stem}.safetensors, or {stem}-00001-of-00003.safetensors and
        {stem}.safetensors.index.json.

    Raises ValueError for an unknown dtype or a max_shard_bytes that is not positive; on a normal
    exit, for tensors that were not written.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: str,
        *,
        max_shard_bytes: int,
        stem: str = STEM,
        notes: Mapping[str, str] | None = None,
    ):
        self.dtype, code = DTYPES[check_dtype(dtype)]
        if max_shard_bytes <= 0:
            raise ValueError(f"{max_shard_bytes=} must be positive")
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._missing, self._notes = set(self._shapes), dict(notes or {})
        self._places: dict[str, tuple[int, int]] = {}  # name → file number, offset in bytes
        shards = split_shards(self._shapes, self.dtype.itemsize, max_shard_bytes)
        self.files = [folder / name for name in _file_names(stem, len(shards))]
        self.bytes = sum(self._size(name) for name in shapes)
        # Two buffers for all: fresh memory costs more than turning a matrix does.
        largest = max(map(self._size, shapes), default=0)
        self._buffers = [np.empty(largest, np.uint8) for _ in range(2)]
        self._thread, self._writing = ThreadPoolExecutor(1), Future()
        self._writing.set_result(None)
        self._open: list[int] = []
        try:
            for file, names in zip(self.files, shards, strict=True):
                self._lay_out(file, names, code)
        except BaseException:
            self._close()
            raise
        if len(shards) > 1:
            weight_map = {
                name: self.files[number].name for name, (number, _) in self._places.items()
            }
            index = {"metadata": {"total_size": self.bytes}, "weight_map": weight_map}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")

    def write(self, name: str, tensor: np.ndarray) -> None:
        """Writes one tensor, converted to the file's dtype.

        Raises ValueError for an unknown name, another shape, a second time, or a number that the
        dtype cannot hold; OSError where this tensor or the one before could not be written.
        """
        if name not in self._missing:
            raise ValueError(f"tensor {name!r} was not planned, or is already written")
        if tensor.shape != self._shapes[name]:
            raise ValueError(f"{name} has shape {tensor.shape}, planned {self._shapes[name]}")
        size = self._size(name)
        buffer = self._buffers[0][:size]
        self._buffers.reverse()
        data = buffer.view(self.dtype).reshape(tensor.shape)
        with np.errstate(over="ignore"):
            fill(data, tensor)
        if self.dtype == np.float16 and np.isinf(data).any() and np.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers beyond float16; choose bfloat16 or float32")
        number, offset = self._places[name]
        self._writing.result()  # the other buffer is free from now on
        self._writing = self._thread.submit(_write_all, self._open[number], buffer.data, offset)
        self._missing.remove(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._writing.result()
        finally:
            self._close()
        if kind is None and self._missing:
            raise ValueError(f"tensors were not written: {sorted(self._missing)}")

    def _size(self, name: str) -> int:
        return int(np.prod(self._shapes[name], dtype=np.int64)) * self.dtype.itemsize

    def _lay_out(self, file: Path, names: list[str], code: str) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt", **self._notes}}
        end, begins = 0, {}
        for name in names:
            begins[name], end = end, end + self._size(name)
            header[name] = {
                "dtype": code,
                "shape": list(self._shapes[name]),
                "data_offsets": [begins[name], end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        number = len(self._open)
        for name in names:
            self._places[name] = (number, start + begins[name])
        self._open.append(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644))
        _write_all(self._open[number], memoryview(len(text).to_bytes(8, "little") + text), 0)
        os.ftruncate(self._open[number], start + end)

    def _close(self) -> None:
        self._thread.shutdown()
        for handle in self._open:
            os.close(handle)
        self._open = []


def check_dtype(dtype: str) -> str:
    """The dtype, when it is one that files can have; otherwise ValueError with the choices."""
    if dtype not in DTYPES:
        raise ValueError(f"{dtype=} must be one of {list(DTYPES)}")
    return dtype


def split_shards(
    shapes: Mapping[str, tuple[int, ...]], itemsize: int, max_bytes: int
) -> list[list[str]]:
    """Names in order, in groups of at most max_bytes; a larger tensor is a group of its own."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * itemsize
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _file_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]


def _write_all(handle: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(handle, data, offset)  # at most 2 GiB at a time
        if hasattr(os, "posix_fadvise"):  # the disk starts now, not when memory is full of it
            os.posix_fadvise(handle, offset, written, os.POSIX_FADV_DONTNEED)
        data, offset = data[written:], offset + written
