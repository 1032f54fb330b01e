"""A source of every kind of example, from the shard's and example's numbers alone."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onediff_jax.data.prepared import local, manifest
from onediff_jax.data.prepared.fit import Fitting
from onediff_jax.data.prepared.plan import Plan
from onediff_jax.data.sources.base import BadRecord, RawExample, rng_for
from onediff_jax.tasks.cameras import orbit_cameras
from onediff_jax.tasks.definitions import get_task

REGIONS = ("semanticmap2image", "boundingbox2image")
KINDS = ("text2image", "faceid", "multiview", "semanticmap2image", "subject_driven", "bad")


@dataclasses.dataclass(frozen=True)
class FakeSource:
    """`parts` shards of `each` examples that take the kinds in turn; faceid has `views`."""

    parts: int = 3
    each: int = 12
    kinds: tuple[str, ...] = KINDS
    size: tuple[int, int] = (50, 70)
    views: int = 4

    def shards(self) -> list[str]:
        return [f"s{number}" for number in range(self.parts)]

    def describe(self) -> dict:
        return {"format": "fake", **dataclasses.asdict(self)}

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        for number in range(self.each):
            key = f"{shard}/{number}"
            yield self.example(key, self.kinds[number % len(self.kinds)])

    def example(self, key: str, kind: str) -> RawExample | BadRecord:
        rng = rng_for(key)

        def pictures(count):
            small = rng.integers(0, 256, (count, 5, 7, 3), np.uint8)
            big = small.repeat(self.size[0] // 5, 1).repeat(self.size[1] // 7, 2)
            return tuple(big)

        if kind == "bad":
            return BadRecord(key, "broken_picture", "made so")
        if kind == "text2image":
            return RawExample(key, kind, pictures(1), ((f"one {key}", f"two {key}", "drei"),))
        if kind == "faceid":
            captions = (("target",), ("source a", "source b"), (), ())
            return RawExample(key, kind, pictures(self.views), captions[: self.views])
        if kind == "subject_driven":
            return RawExample(key, kind, pictures(2), (("on grass",), ("on sand",)), item="cup")
        if get_task(kind).group == "i2i":
            regions = (("red", "cat"),) if kind in REGIONS else ()
            return RawExample(key, kind, pictures(2), (("a cat",), ()), regions=regions)
        cameras = orbit_cameras([0, 20, 40, 60], [10] * 4, 1.7)
        return RawExample(key, kind, pictures(4), ((),) * 4, cameras=cameras)


def make_plan(source=None, *, tasks=(), aspects=("1:1", "4:3"), tokens=16, **changes) -> Plan:
    changes = {"held_out": 0.3, "max_bad_share": 0.5} | changes
    return Plan(source or FakeSource(), Fitting(tuple(tasks), aspects, tokens), **changes)


def prepare(folder: Path, plan: Plan | None = None, workers: int = 1) -> dict:
    """What the command does, in this process; returns the manifest."""
    plan = plan or make_plan()
    encoders = plan.make_encoders()
    with local.claim(folder):
        fields = plan.fields(encoders)
        manifest.begin(folder, fields)
        local.run(plan, encoders, folder, workers)
        empty = encoders.text([""])[0].astype(np.float32).tolist() if encoders.text else None
        return manifest.finish(folder, plan, fields, empty)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
