"""How fast and how large reading and writing released weights is, beside copying the same file.

    python benchmarks/interop.py [--scale=0.05] [--dir=FOLDER]

Makes a folder of the released layout with random weights (--scale 1 is the released shape: 2.8 B
parameters, 11.2 GB in float32; --scale is the share of its layers, at least one), then measures on
it, in one process and in this order:

    copy      the file, read and written in pieces of 16 MiB, and synced: what the disk can do
    read      every parameter made from the file (turned, layers stacked), one after the other
    convert   read, then written into another folder and synced, in float32 and in bfloat16

Speeds are bytes of the source file over seconds. Memory is the peak of the process's anonymous
memory (RssAnon) above what it was before; pages of the mapped file are the kernel's cache. On a CPU
a parameter that was just made counts too, so the numbers are those of streaming. The cache is warm
for all: the file was just written.
"""

import argparse
import dataclasses
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
from flax import traverse_util

from onediff_jax.interop.config import config_json, write_config
from onediff_jax.interop.model import param_shapes
from onediff_jax.interop.safetensors_io import STEM
from onediff_jax.interop.weights import open_weights, weight_bytes, write_weights
from onediff_jax.models.nextdit import NextDiTConfig

PIECE = 2**24


class Memory:
    """Peak of this process's anonymous memory above the start, sampled every 5 ms, in GiB."""

    def __enter__(self):
        self.start = self.peak = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.005):
            self.peak = max(self.peak, anonymous_bytes())

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()

    @property
    def gib(self) -> float:
        """The peak so far."""
        return (self.peak - self.start) / 2**30


def anonymous_bytes() -> int:
    """RssAnon of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon: this benchmark runs on Linux")


def copy(source: Path, target: Path) -> None:
    """Copies and syncs a file through memory."""
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        while piece := read.read(PIECE):
            write.write(piece)
        os.fsync(write.fileno())


def sync(folder: Path) -> None:
    """Waits until the files of a folder are on disk."""
    for file in folder.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def measure(name: str, size: int, run: Callable[[], None]) -> dict:
    """Runs once; prints and returns seconds, GB/s of `size` and peak memory."""
    with Memory() as memory:
        began = time.perf_counter()
        run()
        seconds = time.perf_counter() - began
    found = {"seconds": seconds, "gb_per_s": size / seconds / 1e9, "peak_gib": memory.gib}
    print(f"{name:18} {seconds:7.1f} s  {found['gb_per_s']:5.2f} GB/s  {memory.gib:5.2f} GiB")
    return found


def main() -> None:
    """Parses flags, measures, and prints one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.05, help="share of the released layers")
    parser.add_argument("--dir", help="where to write; default the system's temporary folder")
    flags = parser.parse_args()
    released = NextDiTConfig()
    config = dataclasses.replace(released, depth=max(1, round(released.depth * flags.scale)))
    shapes = param_shapes(config)
    size = weight_bytes(shapes, "float32")
    with tempfile.TemporaryDirectory(dir=flags.dir, prefix="interop-") as base:
        free = shutil.disk_usage(base).free
        if free < 2.2 * size:
            parser.error(f"{base} has {free / 1e9:.1f} GB free, and {2.2 * size / 1e9:.1f} needed")
        print(f"{config.depth} layers, {size / 1e9:.2f} GB in float32, in {base}")
        print(json.dumps(run(Path(base), config, shapes, size)))


def run(base: Path, config: NextDiTConfig, shapes: dict, size: int) -> dict:
    """All measurements; the results by name."""
    source, target = base / "source", base / "target"
    flat = traverse_util.flatten_dict(shapes)
    options = {"max_shard_bytes": 10**12}

    def write(folder, leaf, dtype="float32"):
        folder.mkdir()
        write_weights(folder, shapes, leaf, dtype=dtype, **options)
        write_config(folder, config_json(config))
        sync(folder)

    def random(path):
        return jax.random.normal(jax.random.key(hash(path) % 2**31), flat[path].shape)

    write(source, random)
    results = {"layers": config.depth, "bytes": size}
    file = source / f"{STEM}.safetensors"
    results["copy"] = measure("copy", size, lambda: copy(file, base / "copy"))
    (base / "copy").unlink()

    def read():
        leaf = open_weights(source, shapes)
        for path in flat:
            leaf(path).block_until_ready()

    results["read"] = measure("read", size, read)
    for dtype in ("float32", "bfloat16"):

        def convert(dtype=dtype):
            write(target, open_weights(source, shapes), dtype)

        results[f"convert {dtype}"] = measure(f"convert to {dtype}", size, convert)
        shutil.rmtree(target)
    return results


if __name__ == "__main__":
    main()
