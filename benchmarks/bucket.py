"""Pictures per second from a prepared folder in an object store, which is simulated.

    python benchmarks/bucket.py [--pictures=1200] [--per_file=50] [--block=50]

The store is a folder on this machine behind fsspec whose every request takes 60 ms, and whose every
stream gives 100 MB/s. The folder holds posteriors of pictures of 512 × 512 (32 channels at 1/8,
float16). Eight threads read rows of one picture each, in the order of the stream, through an empty
cache that holds a third of the folder; the first batch is waited for apart.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from onediff_jax.data.codec import LightCodec
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.pipeline import Draws, mix_groups, row_batches
from onediff_jax.data.prepared import local, manifest
from onediff_jax.data.prepared.dataset import PreparedData, open_folders
from onediff_jax.data.prepared.fit import Fitting
from onediff_jax.data.prepared.plan import Encoders, Plan
from onediff_jax.data.rows import RowPacker
from onediff_jax.data.sources.base import RawExample, rng_for
from onediff_jax.data.text_hash import HashedTextEncoder

REQUEST, STREAM, THREADS, BATCH, NEEDED = 0.060, 100e6, 8, 8, 40


class SlowStore(LocalFileSystem):
    """A folder as a distant store: a wait per request, and a bandwidth per stream."""

    protocol = "slow"

    def _open(self, path, mode="rb", **options):
        opened = super()._open(path, mode, **options)
        read = opened.f.read

        def slowly(size=-1):
            time.sleep(REQUEST)
            data = read(size)
            time.sleep(len(data) / STREAM)
            return data

        opened.read = slowly
        return opened


class Noise:
    """In the place of an autoencoder: every posterior is the same noise."""

    batch = 8

    def __init__(self):
        shape = (64, 64, 32)
        self._found = np.random.default_rng(0).standard_normal(shape).astype(np.float16)

    def identity(self) -> dict:
        return {"kind": "autoencoder", "sha256": "noise", "scaling_factor": 1.0}

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return np.repeat(self._found[None], len(pictures), 0)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of one colour each."""

    parts: int
    each: int

    def shards(self) -> list[str]:
        return [f"{number:05d}" for number in range(self.parts)]

    def describe(self) -> dict:
        return {"format": "benchmark", **dataclasses.asdict(self)}

    def read(self, shard: str) -> Iterator[RawExample]:
        for number in range(self.each):
            color = rng_for(shard, number).integers(0, 256, (1, 1, 3), np.uint8)
            picture = np.broadcast_to(color, (512, 512, 3))
            yield RawExample(f"{shard}/{number}", "text2image", (picture,), (("a colour",),))


def make(folder: Path, pictures: int, per_file: int) -> None:
    """Writes a prepared folder of as many posteriors."""
    source = Pictures(pictures // per_file, per_file)
    encoders = Encoders(pictures=Noise())
    plan = Plan(source, Fitting((), ("1:1",), 1024), 0.0, 0.0, lambda: encoders)
    folder.mkdir(parents=True)
    fields = plan.fields(encoders)
    manifest.begin(folder, fields)
    local.run(plan, encoders, folder, 2)
    manifest.finish(folder, plan, fields)


def measure(address: str, block: int, limit: float, rows: int) -> tuple[float, float]:
    """(seconds to the first batch, pictures per second after it)."""
    layout = RowLayout((Slot("t2i", 1, 1024),))
    folders = open_folders((address,), limit / 2**30)
    data = PreparedData(folders, layout, "train", LightCodec(), False)
    sources = {"text2image": data.examples("text2image", held_out=False)}
    groups = mix_groups(sources, {"text2image": 1.0}, 0, block=block)
    packer = RowPacker(layout, HashedTextEncoder(16, 16))
    stream = row_batches(
        groups, packer, Draws(0.5, 0.1), seed=0, batch_size=BATCH, threads=THREADS, prefetch=8
    )
    began = time.perf_counter()
    next(stream)
    first = time.perf_counter() - began
    began = time.perf_counter()
    count = rows // BATCH
    for _ in range(count):
        next(stream)
    speed = count * BATCH / (time.perf_counter() - began)
    stream.close()
    return first, speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1200)
    parser.add_argument("--per_file", type=int, default=50)
    parser.add_argument("--block", type=int, default=50)
    asked = parser.parse_args()
    fsspec.register_implementation("slow", SlowStore, clobber=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        folder = Path(root) / "folder"
        make(folder, asked.pictures, asked.per_file)
        size = sum(file.stat().st_size for file in folder.rglob("*.array_record"))
        print(f"{size / 1e6:.0f} MB in {asked.pictures // asked.per_file} files")
        for block in (asked.block, 0):
            os.environ["XDG_CACHE_HOME"] = f"{root}/cache-{block}"
            first, speed = measure(f"slow://{folder}", block, size / 3, asked.pictures)
            print(
                f"block={block}: first batch after {first:.1f} s, then {speed:.0f} pictures/s "
                f"({NEEDED} needed)"
            )


if __name__ == "__main__":
    main()
