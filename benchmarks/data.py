"""Rows per second from prepared shards, against torch's DataLoader over WebDataset.

    python benchmarks/data.py --out=DIR [--pictures=2000] [--records=100000] [--rows=10000]

Both sides hold the same pictures of 256 × 256, one to a row, read by two workers each (processes of
torch, threads here), in turn, in one run:

    webdataset bare     tars of JPEG files and captions → uint8 pictures and captions, no rows yet
    webdataset rows     the same → rows: latents as tokens, positions, masks, text embeddings
    prepared pixels     shards of pixels → the same rows
    prepared latents    shards of posteriors → the same rows, the posterior sampled

CPU is the time that all processes and threads of a side use per row: what a host with other numbers
of cores needs, and what a busy machine disturbs least. Ratios are medians over the rounds, in which
the sides take turns. Then, from prepared latents alone: the time to the first row of 100,000
records (of 64 × 64, to fit on a disk), and the memory over 10,000 rows. Needs torch and webdataset.
"""

import argparse
import dataclasses
import functools
import io
import json
import os
import resource
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker is a thread: BLAS must not add its own

import numpy as np
from PIL import Image

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.pipeline import Draws, mix_groups, row_batches
from onediff_jax.data.prepared import local, manifest
from onediff_jax.data.prepared.dataset import PreparedData, open_folders
from onediff_jax.data.prepared.fit import Fitting
from onediff_jax.data.prepared.plan import Encoders, Plan
from onediff_jax.data.rows import Placed, RowPacker
from onediff_jax.data.sources.base import RawExample, rng_for
from onediff_jax.models.codec import LightCodec
from onediff_jax.models.layout import RowLayout, Slot
from onediff_jax.models.text_hash import HashedTextEncoder

SIDE, PER_SHARD, BATCH, WORKERS = 256, 500, 16, 2
LAYOUT = RowLayout((Slot("t2i", 1, (SIDE // 16) ** 2),))
PACKER = RowPacker(LAYOUT, HashedTextEncoder(512, 128))


@functools.cache
def picture(number: int, side: int) -> np.ndarray:
    """A picture with smooth regions, edges and grain, about as many JPEG bytes as a photograph."""
    rng = rng_for("picture", number)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
    image = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-20, 21, (side // 2, side // 2, 1)).repeat(2, 0).repeat(2, 1)
    top, left = rng.integers(0, side // 2, 2)
    image[top : top + side // 3, left : left + side // 4] = rng.integers(0, 256, 3)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def caption(number: int) -> str:
    return (
        f"a picture, number {number}, with a box of one colour in front of a wall of many colours"
    )


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures as a source; `distinct` of them, repeated under other names."""

    count: int
    distinct: int
    side: int = SIDE

    def shards(self) -> list[str]:
        return [str(start) for start in range(0, self.count, PER_SHARD)]

    def describe(self) -> dict:
        return dataclasses.asdict(self)

    def read(self, shard: str) -> Iterator[RawExample]:
        for number in range(int(shard), min(int(shard) + PER_SHARD, self.count)):
            image = picture(number % self.distinct, self.side)
            yield RawExample(
                f"{number:07d}", "text2image", (image,), ((caption(number % self.distinct),),)
            )


class Moments:
    """The light codec in the shape of an autoencoder's posterior: the same bytes to read."""

    batch = 1

    def identity(self) -> dict:
        return {"kind": "autoencoder", "scaling_factor": 1.0, "sha256": "benchmark"}

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        mean = LightCodec().encode(pictures).astype(np.float16)
        return np.concatenate([mean, np.full_like(mean, -6.0)], -1)


def prepare(folder: Path, count: int, distinct: int, encoders: Encoders, side: int = SIDE) -> None:
    """What the prepare command does."""
    fitting = Fitting((), ("1:1",), (side // 16) ** 2)
    plan = Plan(Pictures(count, distinct, side), fitting, 0.0, 0.0)
    with local.claim(folder):
        fields = plan.fields(encoders)
        manifest.begin(folder, fields)
        local.run(plan, encoders, folder, 1)
        manifest.finish(folder, plan, fields)


def write_tars(folder: Path, count: int, entry: Callable[[int], tuple[str, bytes]]) -> None:
    """WebDataset shards of one file per picture beside its caption."""
    folder.mkdir(parents=True)
    for start in range(0, count, PER_SHARD):
        with tarfile.open(folder / f"{start:07d}.tar", "w") as tar:
            for number in range(start, min(start + PER_SHARD, count)):
                suffix, data = entry(number)
                for name, content in ((suffix, data), ("txt", caption(number).encode())):
                    member = tarfile.TarInfo(f"{number:07d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def jpeg(number: int) -> tuple[str, bytes]:
    data = io.BytesIO()
    Image.fromarray(picture(number, SIDE)).save(data, "JPEG", quality=90)
    return "jpg", data.getvalue()


def web_rows(folder: Path, packed: bool) -> Iterator[int]:
    """Pictures per batch, from torch's DataLoader over WebDataset, without end."""
    import torch
    import webdataset

    codec = LightCodec()

    def bare(sample):
        image = np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))
        return torch.from_numpy(image.copy()), sample["txt"].decode()

    def row(sample):
        image = np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))
        prompt = f"[[text2image]] {sample['txt'].decode()}"
        example = Encoded("text2image", prompt, (codec.encode(image),))
        arrays = PACKER([Placed(example, (True,), True, prompt)])
        return [torch.from_numpy(arrays[name]) for name in sorted(arrays)]

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000)
    loader = torch.utils.data.DataLoader(
        dataset.map(row if packed else bare).repeat(),
        batch_size=BATCH,
        num_workers=WORKERS,
        prefetch_factor=4,
    )
    for batch in loader:
        yield len(batch[0])


def prepared_rows(folder: Path) -> Iterator[int]:
    """Rows per batch, as training reads them."""
    data = PreparedData(open_folders((str(folder),)), LAYOUT, "train", LightCodec(), False)
    groups = mix_groups(
        {"text2image": data.examples("text2image", held_out=False)}, {"text2image": 1.0}, 0
    )
    batches = row_batches(
        groups, PACKER, Draws(0.5, 0.1), seed=0, batch_size=BATCH, threads=WORKERS, prefetch=8
    )
    try:
        for batch in batches:
            yield len(batch["tokens"])
    finally:
        batches.close()


def measure(rows: Iterator[int], seconds: float) -> tuple[float, float]:
    """Rows per second, and CPU milliseconds per row of this process and its children."""
    begin = cpu_seconds()
    warm, total = 0, 0
    while warm < 1000:  # workers started, buffers filled
        warm += next(rows)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += next(rows)
    elapsed = time.perf_counter() - start
    rows.close()  # ends the children, whose time counts from then on
    total = warm + count
    return count / elapsed, 1000 * (cpu_seconds() - begin) / total


def cpu_seconds() -> float:
    """Of this process and of children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def resident_mib() -> float:
    """Memory of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for 1 GB of files")
    parser.add_argument("--skip_rates", action="store_true", help="large folder only")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    result = {} if args.skip_rates else compare(args)
    if args.records:
        result |= measure_large(args.out / "large", args.records, args.rows)
    print(json.dumps(result, indent=1))


def compare(args: argparse.Namespace) -> dict:
    """Rates and CPU per row of every side."""
    prepare(args.out / "pixels", args.pictures, args.pictures, Encoders())
    prepare(args.out / "latents", args.pictures, args.pictures, Encoders(Moments()))
    write_tars(args.out / "jpg", args.pictures, jpeg)
    sides = {
        "webdataset bare": lambda: web_rows(args.out / "jpg", packed=False),
        "webdataset rows": lambda: web_rows(args.out / "jpg", packed=True),
        "prepared pixels": lambda: prepared_rows(args.out / "pixels"),
        "prepared latents": lambda: prepared_rows(args.out / "latents"),
    }
    found: dict[str, list] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, rows in sides.items():
            found[name].append(measure(rows(), args.seconds))
    rates = {name: float(np.median([rate for rate, _ in found[name]])) for name in sides}
    cpu = {name: float(np.median([cost for _, cost in found[name]])) for name in sides}
    for name in sides:
        each = [round(rate) for rate, _ in found[name]]
        print(f"{name:18} {rates[name]:7,.0f} rows/s  {cpu[name]:6.2f} ms CPU per row   {each}")
    result = {"rows_per_second": rates, "cpu_ms_per_row": cpu}
    for name in ("pixels", "latents"):
        pairs = zip(found[f"prepared {name}"], found["webdataset rows"], strict=True)
        ratios = [ours / theirs for (ours, _), (theirs, _) in pairs]
        result[f"{name}_over_webdataset_rows"] = float(np.median(ratios))
    return result


def measure_large(folder: Path, records: int, rows: int) -> dict:
    """The first row of many records, and the memory while many rows are read."""
    prepare(folder, records, 50, Encoders(Moments()), side=64)
    begin, began = time.perf_counter(), cpu_seconds()
    stream = prepared_rows(folder)
    next(stream)
    first, first_cpu = time.perf_counter() - begin, cpu_seconds() - began
    count, used = 0, []
    while count < rows:
        count += next(stream)
        if count % (BATCH * 25) == 0:
            used.append(resident_mib())
    stream.close()
    half = len(used) // 2
    return {
        "records": records,
        "first_row_seconds": first,
        "first_row_cpu_seconds": first_cpu,
        "memory_mib": {"first": used[0], "half": used[half], "last": used[-1]},
    }


if __name__ == "__main__":
    main()
