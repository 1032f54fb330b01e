"""Writing one part of a prepared folder: one shard of the source, whole or not at all.

    DIR/records/TASK/SPLIT-00003-of-00010.array_record    the records
    DIR/index/00003-of-00010.jsonl                        one line per record: key, file, position
    DIR/parts/00003-of-00010.json                         counts, hashes and bad records; comes last

Everything is written beside its place and renamed. A part whose JSON file is there and true
(parts.py) is done, so a preparation that was killed goes on with the others, and nothing depends on
what came before.
"""

import collections
import contextlib
import dataclasses
import errno
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from onediff_jax.data.prepared.parts import part_file, sign
from onediff_jax.data.prepared.plan import Encoders, Plan
from onediff_jax.data.prepared.record import Record, prompt_choices, prompt_of, to_bytes
from onediff_jax.data.prepared.split import picture_keys, place_of
from onediff_jax.data.sources import journal
from onediff_jax.data.sources.base import BadRecord, RawExample, content_of, printable
from onediff_jax.data.sources.report import Report
from onediff_jax.files import file_hash, full_disk_named, sync_file, sync_folder, write_json
from onediff_jax.tasks.definitions import TaskSet

MANIFEST_FILE = "manifest.json"
PLAN_FILE = "plan.json"
# One record per chunk, for random access, and stored as it is: noise-like latents and photographs
# do not shrink, and reading stays a copy.
WRITER_OPTIONS = "group_size:1,uncompressed"


def write_part(
    plan: Plan,
    encoders: Encoders,
    shard: str,
    name: str,
    folder: Path,
    tick: Callable[[int], None] = lambda examples: None,
) -> dict[str, Any]:
    """Reads one shard of the source and writes its part; returns the part's counts.

    Args:
      shard: of the source.
      name: of the part.
      tick: told about every example that was read.

    Raises TooManyBadRecords as soon as the shard alone, past 1,000 records, is too bad.
    """
    report = Report(plan.max_bad_share)
    _forget(folder, name)
    matched: set[str] = set()
    with _disk_named(folder), journal.keep() as notes, _Files(folder, name) as files:
        fitted = _fitted(plan, _read(plan, shard, tick), report)
        for record, counts in _encoded(fitted, encoders, plan.fitting.definitions):
            files.write(record, plan.split.side(record), counts)
            matched |= plan.split.matches(record)
        written, index = files.finish()
    part = {
        "shard": shard,
        "content": content_of(plan.source, shard),
        "plan_sha256": plan_hash(folder),
        "files": written,
        "index": index,
        "inputs": {path: [c.sha256, *c.stamp] for path, c in sorted(notes.inputs.items())},
        "passed_over": [[printable(name), why] for name, why in notes.passed_over],
        "merged": notes.merged,
        "held_out": plan.held_out,
        "held_out_names": sorted(matched),
        "report": report.to_json(),
    }
    with _disk_named(folder):
        part_file(folder, name).parent.mkdir(exist_ok=True)
        write_json(part_file(folder, name), sign(part), indent=1)
    return part


@contextlib.contextmanager
def _disk_named(folder: Path) -> Iterator[None]:
    """Says of a full disk which folder it is, whoever noticed: the writer of records is not Python
    and has an error of its own."""
    with full_disk_named(folder):
        try:
            yield
        except RuntimeError as error:
            if "No space left" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def plan_hash(folder: Path) -> str | None:
    """SHA-256 of the folder's plan.json; None without one."""
    file = folder / PLAN_FILE
    return file_hash(file) if file.exists() else None


def _forget(folder: Path, name: str) -> None:
    """Takes away what an earlier start made of a part: it may have files that this one has not."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    part_file(folder, name).unlink(missing_ok=True)
    for file in folder.glob(f"records/*/*-{name}.array_record"):
        file.unlink()


def _read(plan: Plan, shard: str, tick) -> Iterator[RawExample | BadRecord]:
    """The source's records; one whose key was there before is bad."""
    seen = set()
    for example in plan.source.read(shard):
        tick(1)
        if not isinstance(example, BadRecord):
            name = (example.task, example.key)
            if name in seen:
                example = BadRecord(example.key, "duplicate_key", f"twice in shard {shard}")
            seen.add(name)
        yield example


def _fitted(
    plan: Plan, examples: Iterator[RawExample | BadRecord], report: Report
) -> Iterator[tuple[Record, dict]]:
    """Records with pictures of training size and what the manifest counts of each; bad ones are
    reported."""
    for example in examples:
        if not isinstance(example, BadRecord):
            try:
                keys = picture_keys(example)
                alone = keys[0] if example.group is None else None
                records = [
                    dataclasses.replace(record, split_by=alone, pictures=keys)
                    for record in plan.fitting(example)
                ]
                for record in records:
                    prompt_of(record, ["" for _ in record.captions], plan.fitting.definitions)
            except ValueError as error:
                example = BadRecord(example.key, "bad_labels", str(error))
        report.add(example)
        if isinstance(example, BadRecord):
            report.check(final=False)
            continue
        smallest = min(min(i.shape[:2]) for i in example.images if i is not None)
        for record in records:
            height, width = record.frames[0].shape[:2]
            enlarged = smallest < min(height, width)
            counts = {"enlarged": enlarged, "uncaptioned": not record.captions[0]}
            yield record, {"size": f"{width}x{height}", **counts}


def _encoded(
    records: Iterator[tuple[Record, dict]], encoders: Encoders, tasks: TaskSet
) -> Iterator[tuple[Record, dict]]:
    """The same records, in order, with pictures and prompts encoded a batch at a time."""
    if encoders.pictures is None and encoders.text is None:
        yield from records
        return
    together = 4 * encoders.pictures.batch if encoders.pictures else 32
    for group in _groups(records, together, lambda item: len(item[0].frames)):
        yield from _encode(group, encoders, tasks)


def _groups(items: Iterator, size: int, weight: Callable[[Any], int]) -> Iterator[list]:
    """Lists of items, in order, each as soon as its weights add up to `size`."""
    group, total = [], 0
    for item in items:
        group.append(item)
        total += weight(item)
        if total >= size:
            yield group
            group, total = [], 0
    if group:
        yield group


def _encode(
    group: list[tuple[Record, dict]], encoders: Encoders, tasks: TaskSet
) -> list[tuple[Record, dict]]:
    records = [record for record, _ in group]
    if encoders.text is not None:
        choices = [prompt_choices(record, tasks) for record in records]
        found = iter(encoders.text([prompt for prompts in choices for prompt in prompts]))
        records = [
            dataclasses.replace(r, texts=tuple(next(found) for _ in prompts))
            for r, prompts in zip(records, choices, strict=True)
        ]
    if encoders.pictures is not None:
        records = _encode_pictures(records, encoders.pictures)
    return [(record, counts) for record, (_, counts) in zip(records, group, strict=True)]


def _encode_pictures(records: list[Record], encoder) -> list[Record]:
    """Batches hold pictures of one size; the last one of a size is filled up with its first."""
    of_size = collections.defaultdict(list)
    for r, record in enumerate(records):
        for f, frame in enumerate(record.frames):
            of_size[frame.shape].append((r, f))
    encoded: list[list] = [list(record.frames) for record in records]
    for places in of_size.values():
        for start in range(0, len(places), encoder.batch):
            some = places[start : start + encoder.batch]
            filled = some + some[:1] * (encoder.batch - len(some))
            moments = encoder(np.stack([records[r].frames[f] for r, f in filled]))
            for (r, f), frame in zip(some, moments, strict=False):
                encoded[r][f] = frame
    return [dataclasses.replace(r, frames=tuple(e)) for r, e in zip(records, encoded, strict=True)]


class _Files:
    """The files of one part while they are written: one per task and split, and the index."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name
        self._open: dict[str, Any] = {}  # file → its writer
        self._facts: dict[str, dict] = {}
        self._index_file = folder / "index" / f"{name}.jsonl"
        self._index_file.parent.mkdir(parents=True, exist_ok=True)
        self._index = open(_beside(self._index_file), "w")  # noqa: SIM115 - closed by close

    def write(self, record: Record, split: str, counts: dict) -> None:
        file = f"records/{record.task}/{split}-{self._name}.array_record"
        if file not in self._open:
            path = self._folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open[file] = ArrayRecordWriter(str(_beside(path)), WRITER_OPTIONS)
            frames = len(record.frames)
            self._facts[file] = {
                "file": file,
                "task": record.task,
                "split": split,
                "records": 0,
                "frames": [frames, frames],
                "sizes": {},
                "enlarged": 0,
                "uncaptioned": 0,
                "alone": True,
            }
        facts = self._facts[file]
        place = place_of(record.split_key)
        pictures = [place_of(key) for key in record.pictures]
        line = {"key": record.key, "file": file, "position": facts["records"], "place": place}
        line["pictures"] = pictures
        if record.repeats > 1:
            line["repeats"] = record.repeats
        self._index.write(json.dumps(line) + "\n")
        self._open[file].write(to_bytes(record))
        low, high = facts["frames"]
        facts["frames"] = [min(low, len(record.frames)), max(high, len(record.frames))]
        facts["records"] += 1
        facts["sizes"][counts["size"]] = facts["sizes"].get(counts["size"], 0) + 1
        facts["enlarged"] += counts["enlarged"]
        facts["uncaptioned"] += counts["uncaptioned"]
        facts["alone"] &= pictures == [place]
        for name, has in (
            ("masked", record.mask is not None),
            ("is_reg", record.is_reg),
            ("repeated", record.repeats > 1),
        ):
            if has:
                facts[name] = facts.get(name, 0) + 1

    def finish(self) -> tuple[list[dict], dict]:
        """Closes, hashes and renames all files; returns what is known of each, and of the index."""
        for file, writer in self._open.items():
            writer.close()
            beside, facts = _beside(self._folder / file), self._facts[file]
            facts |= {"bytes": beside.stat().st_size, "sha256": file_hash(beside)}
            _put(beside, self._folder / file)
        self._open = {}
        self._index.close()
        beside = _beside(self._index_file)
        index = {
            "file": str(self._index_file.relative_to(self._folder)),
            "bytes": beside.stat().st_size,
            "sha256": file_hash(beside),
        }
        _put(beside, self._index_file)
        return [self._facts[file] for file in sorted(self._facts)], index

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *error) -> None:
        """Leaves nothing half-written behind after an error, and says no second one."""
        for file, writer in self._open.items():
            with contextlib.suppress(Exception):  # closing flushes, onto a disk that may be full
                writer.close()
            _beside(self._folder / file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._index.close()
        _beside(self._index_file).unlink(missing_ok=True)


def _put(beside: Path, file: Path) -> None:
    """Gives a file its name; both are on the disk on return."""
    sync_file(beside)
    beside.replace(file)
    sync_folder(file.parent)


def _beside(path: Path) -> Path:
    # Host and process keep apart two workers that were given the same part.
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
