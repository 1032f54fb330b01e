"""The manifest of a prepared folder: what is in it, where from, and how to tell that it is whole.

It is written when all parts are done; a folder without one is not finished. It holds no times and
no machine's names: the same data, prepared again in any way, gives the same file.
"""

import collections
import hashlib
import json
from pathlib import Path
from typing import Any

from onediff_jax.data.prepared.plan import READABLE, Plan
from onediff_jax.data.prepared.writer import is_done, part_file, part_name, write_json
from onediff_jax.data.sources.report import Report

FILE = "manifest.json"
BAD_FILE = "bad_records.jsonl"
PLAN_FILE = "plan.json"


class PreparedError(ValueError):
    """A folder that is not a whole prepared folder, or not the one it was; the message says why."""


def begin(folder: Path, fields: dict[str, Any]) -> None:
    """Claims a folder for a preparation; one that was started with the same fields goes on.

    Raises PreparedError when the folder holds something else, or another preparation: the fields
    that differ are named.
    """
    file = folder / PLAN_FILE
    if file.exists():
        differ = _differences(json.loads(file.read_text()), fields)
        if differ:
            raise PreparedError(
                f"{folder} holds another preparation:\n  "
                + "\n  ".join(f"{name}: {old!r} there, {new!r} now" for name, old, new in differ)
                + "\nChoose another --out, or remove this one."
            )
        return
    foreign = [p.name for p in folder.iterdir() if p.name != ".lock"] if folder.exists() else []
    if foreign:
        raise PreparedError(f"{folder} is not empty: {sorted(foreign)[:5]}; choose another --out")
    write_json(file, fields)


def parts_left(folder: Path, shards: list[str]) -> list[int]:
    """Numbers of the source's shards whose part is not done."""
    return [n for n in range(len(shards)) if not is_done(folder, part_name(n, len(shards)))]


def read_reports(folder: Path, shards: list[str], max_share: float) -> Report:
    """The records of all parts that are done, good and bad, in the order of the source."""
    report = Report(max_share)
    for part in _parts(folder, shards):
        report.merge(Report.from_json(part["report"], max_share))
    return report


def finish(folder: Path, plan: Plan, fields: dict[str, Any], empty_text=None) -> dict[str, Any]:
    """Writes the list of bad records and the manifest of a folder whose parts are all done.

    Args:
      empty_text: (l, d) float32 list of lists, the cached embedding of the empty prompt.

    Raises TooManyBadRecords above the plan's share; ValueError when a wanted task has no record.
    """
    shards = plan.source.shards()
    report = read_reports(folder, shards, plan.max_bad_share)
    lines = [json.dumps([b.key, b.reason, b.detail]) + "\n" for b in report.bad]
    (folder / BAD_FILE).write_text("".join(lines))
    report.check()
    files = [file for part in _parts(folder, shards) for file in part["files"]]
    tasks: dict[str, dict] = {}
    sizes: collections.Counter = collections.Counter()
    for file in files:
        low, high = file["frames"]
        task = tasks.setdefault(
            file["task"], {"train": 0, "held_out": 0, "frames": [low, high], "sizes": []}
        )
        task[file["split"]] += file["records"]
        task["frames"] = [min(low, task["frames"][0]), max(high, task["frames"][1])]
        task["sizes"] = sorted({*task["sizes"], *file["sizes"]})
        sizes.update(file["sizes"])
    if missing := [task for task in plan.fitting.tasks if task not in tasks]:
        raise ValueError(f"no example gives tasks {missing}; the source has {sorted(tasks)}")
    if not files:
        raise ValueError(f"{folder}: the source has no good record\n{report.table()}")
    manifest = {
        "plan": fields,
        "records": sum(file["records"] for file in files),
        "bytes": sum(file["bytes"] for file in files),
        "enlarged": sum(file["enlarged"] for file in files),
        "tasks": dict(sorted(tasks.items())),
        "sizes": dict(sorted(sizes.items())),
        "bad": report.counts(),
        "files": files,
        "empty_text": empty_text,
    }
    manifest["sha256"] = content_hash(manifest)
    write_json(folder / FILE, manifest)
    return manifest


def content_hash(manifest: dict[str, Any]) -> str:
    """SHA-256 over the hashes of all files, and what the numbers in them mean."""
    content = [manifest["plan"]["encoders"], manifest["empty_text"]]
    content += [[file["file"], file["sha256"]] for file in manifest["files"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises PreparedError when there is none, it does not parse, or is of another version.
    """
    file = Path(folder) / FILE
    if not file.exists():
        state = (
            "is not finished: run prepare again"
            if (Path(folder) / PLAN_FILE).exists()
            else ("is no prepared folder")
        )
        raise PreparedError(f"{folder} has no {FILE}; it {state}")
    try:
        manifest = json.loads(file.read_text())
        version = manifest["plan"]["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise PreparedError(f"{file} cannot be read: {error!r}") from error
    if version not in READABLE:
        raise PreparedError(f"{file} has format_version={version}; readable are {READABLE}")
    return manifest


def _parts(folder: Path, shards: list[str]):
    for number in range(len(shards)):
        file = part_file(folder, part_name(number, len(shards)))
        if file.exists():
            yield json.loads(file.read_text())


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(field, old, new) wherever two trees of JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return found
    return [] if old == new else [(prefix.rstrip("."), old, new)]
