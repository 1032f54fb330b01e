"""Rows per second from prepared shards, against torch's DataLoader over WebDataset.

    python benchmarks/data.py [--out=DIR] [--pictures=4000] [--records=100000] [--rows=10000]

Both hold the same pictures, one to a row, and give the same rows (latents as tokens, positions,
masks, text embeddings), read by two workers each, which are processes:

    webdataset, JPEG       tars of JPEG files and captions
    webdataset, latents    tars of posteriors (.npy) and captions
    prepared, pixels       shards of pixels and captions
    prepared, latents      shards of posteriors and captions
        …, in this process the same without workers, by one thread
    prepared, 512 × 512    shards of posteriors at 512 × 512 and 80 tokens of a T5-XL: what the
                           paper's stages read; the others are of 256 × 256

The sides take turns, in one run. CPU is the time that all processes and threads of a side use per
row, once they run: what hosts with other numbers of cores need, and what a busy machine disturbs
least. Then, from shards of small pictures: the time to the first rows of many records, and the
memory over many rows. Needs torch and webdataset.
"""

import argparse
import dataclasses
import functools
import io
import multiprocessing
import os
import resource
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker is one core: BLAS must not add its own

import ml_dtypes
import numpy as np
from PIL import Image
from timing import progress, table

from onediff_jax.data.codec import LightCodec
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.pipeline import Draws, mix_groups, row_batches
from onediff_jax.data.prepared import local, manifest
from onediff_jax.data.prepared.dataset import CachedText, PreparedData, open_folders
from onediff_jax.data.prepared.fit import Fitting
from onediff_jax.data.prepared.plan import Encoders, Plan
from onediff_jax.data.prepared.reader import Decoding, Stored
from onediff_jax.data.prepared.record import Record
from onediff_jax.data.rows import Placed, RowPacker
from onediff_jax.data.sources.base import RawExample, rng_for
from onediff_jax.data.text_hash import HashedTextEncoder

PER_SHARD, BATCH, WORKERS = 500, 16, 2
DISTINCT = 500  # pictures of 256 × 256; the others repeat them
NEEDED = 40  # pictures of 512 × 512 per second: 4 chips of v5e at 10 each
CAPTION, TEXT_TOKENS, TEXT_WIDTH, TEXT_ROOM = "a box of one colour before a wall", 80, 2048, 300


def packer(side: int, cached: bool) -> RowPacker:
    """Rows of one picture of side × side pixels."""
    empty = np.zeros((1, TEXT_WIDTH))
    text = CachedText(empty, TEXT_ROOM) if cached else HashedTextEncoder(512, 128)
    return RowPacker(RowLayout((Slot("t2i", 1, (side // 16) ** 2),)), text)


@functools.cache
def picture(number: int, side: int) -> np.ndarray:
    """A picture with smooth regions, edges and grain, about as many JPEG bytes as a photograph."""
    rng = rng_for("picture", number)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
    image = np.array(small.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-20, 21, (side // 2, side // 2, 1)).repeat(2, 0).repeat(2, 1)
    top, left = rng.integers(0, side // 2, 2)
    image[top : top + side // 3, left : left + side // 4] = rng.integers(0, 256, 3)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures as a source; `distinct` of them, repeated under other names."""

    count: int
    distinct: int
    side: int

    def shards(self) -> list[str]:
        return [str(start) for start in range(0, self.count, PER_SHARD)]

    def describe(self) -> dict:
        return dataclasses.asdict(self)

    def read(self, shard: str) -> Iterator[RawExample]:
        for number in range(int(shard), min(int(shard) + PER_SHARD, self.count)):
            image = picture(number % self.distinct, self.side)
            yield RawExample(f"{number:07d}", "text2image", (image,), ((CAPTION,),))


class Moments:
    """The light codec in the shape of an autoencoder's posterior: the same bytes to read."""

    batch = 1

    def identity(self) -> dict:
        return {"kind": "autoencoder", "scaling_factor": 1.0, "sha256": "benchmark"}

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        mean = LightCodec().encode(pictures).astype(np.float16)
        return np.concatenate([mean, np.full_like(mean, -6.0)], -1)


class Embeddings:
    """As many bytes as a T5-XL gives for a long caption."""

    def identity(self) -> dict:
        width = {"width": TEXT_WIDTH, "max_length": TEXT_ROOM}
        return {"kind": "t5", "sha256": "benchmark", "tokenizer": "benchmark", **width}

    def __call__(self, prompts: list[str]) -> list[np.ndarray]:
        return [np.ones((TEXT_TOKENS, TEXT_WIDTH), ml_dtypes.bfloat16) for _ in prompts]


def prepare(folder: Path, pictures: Pictures, encoders: Encoders = Encoders()) -> None:  # noqa: B008
    """What the prepare command does."""
    progress(f"preparing {pictures.count:,} pictures of {pictures.side} in {folder.name}")
    fitting = Fitting((), ("1:1",), (pictures.side // 16) ** 2)
    plan = Plan(pictures, fitting, 0.0, 0.0)
    with local.claim(folder):
        fields = plan.fields(encoders)
        manifest.begin(folder, fields)
        local.run(plan, encoders, folder, 1)
        manifest.finish(folder, plan, fields)


def write_tars(folder: Path, count: int, entry: Callable[[int], tuple[str, bytes]]) -> None:
    """WebDataset shards of one file per picture beside its caption."""
    progress(f"writing tars in {folder.name}")
    folder.mkdir(parents=True)
    size = min(PER_SHARD, count // WORKERS)  # a worker without a tar would be an error
    for start in range(0, count, size):
        with tarfile.open(folder / f"{start:07d}.tar", "w") as tar:
            for number in range(start, min(start + size, count)):
                suffix, data = entry(number)
                for name, content in ((suffix, data), ("txt", CAPTION.encode())):
                    member = tarfile.TarInfo(f"{number:07d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def jpeg(number: int) -> tuple[str, bytes]:
    data = io.BytesIO()
    Image.fromarray(picture(number % DISTINCT, 256)).save(data, "JPEG", quality=90)
    return "jpg", data.getvalue()


def posterior(number: int) -> tuple[str, bytes]:
    data = io.BytesIO()
    np.save(data, Moments()(picture(number % DISTINCT, 256)))
    return "npy", data.getvalue()


def web_rows(folder: Path) -> Iterator[int]:
    """Rows per batch from torch's DataLoader over WebDataset, without end."""
    import torch
    import webdataset

    decoding, pack, rng = (
        Decoding(LightCodec(), 1.0, 1),
        packer(256, False),
        np.random.default_rng(),
    )

    def row(sample):
        if "jpg" in sample:
            frame = np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))
        else:
            frame = np.load(io.BytesIO(sample["npy"]))
        captions = ((sample["txt"].decode(),),)
        example = Stored(Record(sample["__key__"], "text2image", captions, (frame,)), decoding)
        drawn = example.draw(rng)
        arrays = pack([Placed(drawn, (True,), True, drawn.prompt)])
        return [torch.from_numpy(arrays[name]) for name in sorted(arrays)]

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000)
    loader = torch.utils.data.DataLoader(
        dataset.map(row).repeat(), batch_size=BATCH, num_workers=WORKERS, prefetch_factor=4
    )
    for batch in loader:
        yield len(batch[0])


def prepared_rows(
    folder: Path, side: int, cached: bool = False, workers: int = WORKERS
) -> Iterator[int]:
    """Rows per batch, as training reads them."""
    pack = packer(side, cached)
    data = PreparedData(open_folders((str(folder),)), pack.layout, "train", LightCodec(), cached)
    sources = {"text2image": data.examples("text2image", held_out=False)}
    batches = row_batches(
        mix_groups(sources, {"text2image": 1.0}, 0),
        pack,
        Draws(0.5, 0.1),
        seed=0,
        batch_size=BATCH,
        workers=workers,
        prefetch=8,
    )
    try:
        for batch in batches:
            yield len(batch["tokens"])
    finally:
        batches.close()


def measure(rows: Iterator[int], seconds: float, warm: int) -> tuple[float, float]:
    """Rows per second, and CPU milliseconds per row of this process and its workers."""
    before = 0
    while before < warm:  # workers started, buffers filled
        before += next(rows)
    start, used, count = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - start < seconds:
        count += next(rows)
    elapsed, used = time.perf_counter() - start, cpu_seconds() - used
    rows.close()
    return count / elapsed, 1000 * used / count


def cpu_seconds() -> float:
    """Of this process and of its workers, since each began."""
    ticks = 0
    for process in (os.getpid(), *(w.pid for w in multiprocessing.active_children())):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mib() -> float:
    """Memory of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def compare(out: Path, args: argparse.Namespace) -> tuple[str, float]:
    """Prints rates and CPU per row; returns a conclusion, and the milliseconds of 512 × 512."""
    many = Pictures(args.pictures, DISTINCT, 256)
    write_tars(out / "jpeg", args.pictures, jpeg)
    write_tars(out / "npy", args.pictures, posterior)
    prepare(out / "pixels", many)
    prepare(out / "latents", many, Encoders(Moments()))
    large = Pictures(args.pictures // 8, 50, 512)
    prepare(out / "stage", large, Encoders(Moments(), Embeddings()))
    alone = "prepared, latents, in this process"
    sides = {
        "webdataset, JPEG": lambda: web_rows(out / "jpeg"),
        "webdataset, latents": lambda: web_rows(out / "npy"),
        "prepared, pixels": lambda: prepared_rows(out / "pixels", 256),
        "prepared, latents": lambda: prepared_rows(out / "latents", 256),
        alone: lambda: prepared_rows(out / "latents", 256, workers=0),
        "prepared, 512 × 512": lambda: prepared_rows(out / "stage", 512, cached=True),
    }
    found: dict[str, list] = {name: [] for name in sides}
    for number in range(args.rounds):
        for name, rows in sides.items():
            progress(f"round {number + 1}/{args.rounds}: {name}")
            found[name].append(measure(rows(), args.seconds, args.warm))

    def middle(name, of, over=None):
        """Median over the rounds of the rate (0) or the CPU time (1), or of their ratios."""
        values = [each[of] for each in found[name]]
        if over is not None:
            values = [v / each[of] for v, each in zip(values, found[over], strict=True)]
        return statistics.median(values)

    web = list(sides)[:2]
    header = ("side", "rows per s", "CPU ms per row", *(f"rows per s ÷ {name}" for name in web))
    cells = (
        (name, middle(name, 0), middle(name, 1), *(middle(name, 0, over) for over in web))
        for name in sides
    )
    table(header, cells)
    ours = list(sides)[2:4]
    said = (
        f"Prepared shards give {middle(ours[0], 0, web[0]):.1f}× (pixels) and "
        f"{middle(ours[1], 0, web[0]):.1f}× (latents) the rows of WebDataset with JPEG files, and "
        f"{middle(ours[1], 0, web[1]):.1f}× those of WebDataset with the same latents; without "
        f"workers {middle(alone, 0, web[0]):.1f}× and {middle(alone, 0, web[1]):.1f}×."
    )
    return said, middle("prepared, 512 × 512", 1)


def measure_large(folder: Path, records: int, rows: int) -> float:
    """Prints the time to the first rows and the memory over many; returns the growth in MiB."""
    prepare(folder, Pictures(records, 50, 32))
    began = time.perf_counter()
    stream = prepared_rows(folder, 256, workers=0)  # whose memory is all in this process
    next(stream)
    first, count, used = time.perf_counter() - began, BATCH, []
    while count < rows:
        count += next(stream)
        used.append(resident_mib())
    stream.close()
    print()
    # The first tenth fills buffers, and the list of open files.
    begin, half, end = (used[int(place * (len(used) - 1))] for place in (0.1, 0.55, 1.0))
    table(
        ("records", "s to the first rows", "rows read", "MiB at 10 %", "MiB at 55 %", "MiB at end"),
        [(f"{records:,}", first, f"{count:,}", begin, half, end)],
    )
    return end - begin


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints tables and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, help="folder for 2 GB of files; default a temporary one"
    )
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--warm", type=int, default=500, help="rows before each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.pictures, args.records, args.rows, args.rounds = 40, 300, 100, 1
        args.seconds, args.warm = 0.1, 16
    out = Path(tempfile.mkdtemp(prefix="benchmark-data-", dir=args.out))
    try:
        said, cost = compare(out, args)
        grown = measure_large(out / "large", args.records, args.rows)
    finally:
        shutil.rmtree(out)
    cores = NEEDED * cost / 1000
    print(
        f"\n{said} Memory changed by {grown:.1f} MiB over the rows. {NEEDED} pictures of 512 × 512 "
        f"per second keep {cores:.2f} cores busy."
    )


if __name__ == "__main__":
    main()
