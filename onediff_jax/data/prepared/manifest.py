"""The manifest of a prepared folder: what is in it, where from, and how to tell that it is whole.

It is written when all parts are done; a folder without one is not finished. It holds no times and
no machine's names: the same data, prepared again in any way, gives the same file. Its fields:

    plan            everything that determines the output; encoders among it, by their hashes
    training        what a config needs to train on the folder:
        encoder     data.encoder: "light", or the autoencoder's folder as it was given
        text        text.kind ("hashed", or "cached" with embeddings), text.folder as it was given
                    ("" without), max_length (tokens, of cached prompts)
        groups      task group → {"frames", "tokens"}: the smallest slot that holds its examples
        slots       (group, frames, tokens), …: kinds of slots that hold every example
    tasks           task → records in "train" and "held_out", fewest and most pictures ("frames"),
                    "sizes" as WIDTHxHEIGHT in pixels
    sizes           WIDTHxHEIGHT → records
    held_out        the share that was held out: the plan's, or what spares one (split.py)
    records, bytes, enlarged, uncaptioned, merged, bad, not_read     counts
    loss            of records, how many are "masked", "is_reg", "repeated"; where there are such
    files, index    every file with its bytes and SHA-256, its counts, and whether each record of
                    it stands alone with one picture, which decides its side of the split
    inputs_sha256   of everything that was read
    empty_text      embedding of the empty prompt
    sha256          of the content, which a run compares; checksum, over all of this file
"""

import collections
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from onediff_jax.data.prepared.bucket import Bucket
from onediff_jax.data.prepared.parts import part_file, part_name, read_part, survey
from onediff_jax.data.prepared.plan import READABLE, Plan
from onediff_jax.data.prepared.split import share_for
from onediff_jax.data.prepared.writer import MANIFEST_FILE, PLAN_FILE
from onediff_jax.data.sources.base import Source
from onediff_jax.data.sources.report import Report
from onediff_jax.files import FileError, is_remote, read_json, replace_file, text_hash, write_json
from onediff_jax.tasks.definitions import TaskSet

FILE = MANIFEST_FILE
BAD_FILE = "bad_records.jsonl"
PASSED_FILE = "not_read.jsonl"


class PreparedError(ValueError):
    """A folder that is not a whole prepared folder, or not the one it was; the message says why."""


def begin(folder: Path, fields: dict[str, Any]) -> None:
    """Claims a folder for a preparation; one that was started with the same fields goes on.

    A plan that does not parse any more, is empty or gone, is written again: the manifest of a
    folder that was finished holds a copy, and every part knows the plan that made it.

    Raises PreparedError when the folder holds something else, or another preparation: the fields
    that differ are named.
    """
    file = folder / PLAN_FILE
    found = _plan_of(file)
    old = found or _plan_of(folder / FILE, "plan")
    there = sorted(p.name for p in folder.iterdir() if p.name != ".lock") if folder.exists() else []
    if old is None and there and PLAN_FILE not in there:
        raise PreparedError(
            f"{folder} is not empty: {there[:5]}, and has no {PLAN_FILE}; choose another --out"
        )
    if differ := _differences(old, fields) if old else []:
        raise PreparedError(
            f"{folder} holds another preparation, says its {PLAN_FILE if found else FILE}:\n  "
            + "\n  ".join(map(_say_difference, differ))
            + "\nChoose another --out, or remove this one."
        )
    if not found:
        write_json(file, fields, indent=1)


def _plan_of(file: Path, *parts: str) -> dict[str, Any] | None:
    """The plan that a file holds, below these names; None where it cannot be read."""
    try:
        value = read_json(file)
        for part in parts:
            value = value[part]
        return value if "format_version" in value else None
    except (FileError, KeyError, TypeError):
        return None


def parts_left(
    folder: Path, shards: list[str], source: Source | None = None, plan_sha256: str | None = None
) -> list[int]:
    """Numbers of the source's shards whose part is not done, see parts.survey."""
    return list(survey(folder, shards, source, plan_sha256))


def read_reports(
    folder: Path, shards: list[str], max_share: float, left: Sequence[int] = ()
) -> Report:
    """The records of all parts that are done, good and bad, in the order of the source.

    Args:
      left: numbers of parts that are not, whatever lies there.
    """
    report = Report(max_share)
    for part in _parts(folder, shards, left):
        report.merge(Report.from_json(part["report"], max_share))
    return report


def finish(folder: Path, plan: Plan, fields: dict[str, Any], empty_text=None) -> dict[str, Any]:
    """Writes the lists of bad records and of what was not read, and the manifest of a folder whose
    parts are all done.

    Args:
      empty_text: (l, d) float32 list of lists, the cached embedding of the empty prompt.

    Raises TooManyBadRecords above the plan's share; ValueError when a wanted task has no record.
    """
    shards = plan.source.shards()
    report = read_reports(folder, shards, plan.max_bad_share)
    _write_lines(folder / BAD_FILE, ([b.key, b.reason, b.detail] for b in report.bad))
    report.check()
    parts = list(_parts(folder, shards))
    passed = [line for part in parts for line in part["passed_over"]]
    _write_lines(folder / PASSED_FILE, passed)
    files = [file for part in parts for file in part["files"]]
    tasks = _count(files)
    if missing := [task for task in plan.fitting.tasks if task not in tasks]:
        raise ValueError(f"no example gives tasks {missing}; the source has {sorted(tasks)}")
    if not files:
        raise ValueError(f"{folder}: the source has no good record\n{report.table()}")
    sizes = collections.Counter()
    for file in files:
        sizes.update(file["sizes"])
    inputs = [[path, known[0]] for part in parts for path, known in part["inputs"].items()]
    manifest = {
        "plan": fields,
        "training": {
            **plan.training,
            "groups": _groups(tasks, plan.fitting.definitions),
            "slots": _slots(tasks, plan.fitting.definitions),
        },
        "records": sum(file["records"] for file in files),
        "bytes": sum(file["bytes"] for file in files),
        "enlarged": sum(file["enlarged"] for file in files),
        "uncaptioned": sum(file.get("uncaptioned", 0) for file in files),
        "tasks": dict(sorted(tasks.items())),
        "sizes": dict(sorted(sizes.items())),
        "bad": report.counts(),
        "not_read": dict(sorted(collections.Counter(why for _, why in passed).items())),
        "merged": sum(part["merged"] for part in parts),
        "held_out": max(part["held_out"] for part in parts),
        "held_out_names": sorted({name for part in parts for name in part["held_out_names"]}),
        "inputs_sha256": text_hash([inputs, [part["content"] for part in parts]]),
        "index": [part["index"] for part in parts],
        "files": files,
        "empty_text": empty_text,
    }
    if loss := _loss(files):
        manifest["loss"] = loss
    manifest["sha256"] = content_hash(manifest)
    manifest["checksum"] = text_hash(manifest)
    write_json(folder / FILE, manifest, indent=1)
    return manifest


def spare_one(folder: Path, plan: Plan) -> tuple[Plan, list[int]]:
    """What holds out one group or picture where the share took none: the plan with the share that
    does, and the numbers of the parts to be written again by it; none where one is held out."""
    shards = plan.source.shards()
    parts = list(_parts(folder, shards))
    taken = any(file["split"] == "held_out" for part in parts for file in part["files"])
    if not plan.spare_one or not plan.held_out or plan.held_out_names or taken:
        return plan, []
    places = [[line["place"] for line in read_index(folder / p["index"]["file"])] for p in parts]
    distinct = {place for part in places for place in part}
    if len(distinct) < 2:
        return plan, []
    lowest = min(distinct)
    changed = dataclasses.replace(plan, held_out=share_for(lowest))
    return changed, [number for number, part in enumerate(places) if lowest in part]


def read_index(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of an index file: key, file, position and, since version 4, place (split.py), since
    5 pictures."""
    with open(file, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _count(files: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Task → its records per split, the fewest and most frames, and the sizes."""
    tasks: dict[str, dict] = {}
    for file in files:
        low, high = file["frames"]
        task = tasks.setdefault(
            file["task"], {"train": 0, "held_out": 0, "frames": [low, high], "sizes": []}
        )
        task[file["split"]] += file["records"]
        task["frames"] = [min(low, task["frames"][0]), max(high, task["frames"][1])]
        task["sizes"] = sorted({*task["sizes"], *file["sizes"]})
    return tasks


def _loss(files: list[dict[str, Any]]) -> dict[str, int]:
    """How many records have a mask, a prior's weight, or are repeated; what none has is left."""
    counts = {n: sum(file.get(n, 0) for file in files) for n in ("masked", "is_reg", "repeated")}
    return {name: count for name, count in counts.items() if count}


def _groups(tasks: dict[str, dict[str, Any]], definitions: TaskSet) -> dict[str, dict[str, int]]:
    """Task group → frames (rays counted) and tokens per frame that hold every example of it."""
    groups: dict[str, dict[str, int]] = {}
    for name, facts in tasks.items():
        task = definitions.task(name)
        room = groups.setdefault(task.group, {"frames": 0, "tokens": 0})
        frames = facts["frames"][1] * task.per_picture
        tokens = max(math.prod(map(int, size.split("x"))) // 256 for size in facts["sizes"])
        room["frames"], room["tokens"] = max(room["frames"], frames), max(room["tokens"], tokens)
    return dict(sorted(groups.items()))


def _slots(tasks: dict[str, dict[str, Any]], definitions: TaskSet) -> list[list]:
    """The kinds of slots, (group, frames, tokens per frame), that hold every example: one per task
    group; of "i2i", whose bundles have one length each, one per number of frames."""
    room: dict[tuple[str, int], list[int]] = {}
    for name in tasks:
        (group, facts), *_ = _groups({name: tasks[name]}, definitions).items()
        kind = (group, facts["frames"] if group == "i2i" else 0)
        most = room.setdefault(kind, [0, 0])
        most[:] = max(most[0], facts["frames"]), max(most[1], facts["tokens"])
    return [[group, *most] for (group, _), most in sorted(room.items())]


def _write_lines(file: Path, values: Iterable[Any]) -> None:
    replace_file(file, "".join(json.dumps(value) + "\n" for value in values).encode())


def content_hash(manifest: dict[str, Any]) -> str:
    """SHA-256 over the hashes of all files, and what the numbers in them mean."""
    content = [manifest["plan"]["encoders"], manifest["empty_text"]]
    content += [[file["file"], file["sha256"]] for file in manifest["files"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: str | Path, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a finished folder.

    Args:
      verify: its sums must fit what it says.

    Raises PreparedError when there is none, it does not parse, is of another version, or is not as
    it was written.
    """
    if is_remote(folder):
        try:
            folder = Bucket(str(folder)).manifest()
        except Exception as error:  # a store's own kinds
            raise PreparedError(
                f"{folder} cannot be reached ({type(error).__name__}: {error})"
            ) from error
    file = Path(folder) / FILE
    if not file.exists():
        state = (
            "is not finished: run prepare again"
            if (Path(folder) / PLAN_FILE).exists()
            else ("is no prepared folder")
        )
        raise PreparedError(f"{folder} has no {FILE}; it {state}")
    try:
        manifest = read_json(file)
        version = manifest["plan"]["format_version"]
    except FileError as error:
        raise PreparedError(
            f"{error}; run prepare again, which goes on with what is whole"
        ) from error
    except (KeyError, TypeError) as error:
        raise PreparedError(f"{file} cannot be read: {error!r}") from error
    if version not in READABLE:
        raise PreparedError(f"{file} has format_version={version}; readable are {READABLE}")
    if verify and not is_as_written(manifest):
        raise PreparedError(
            f"{file} was changed after prepare wrote it: its sums do not fit. Take the original, "
            "or remove it and run prepare again, which goes on with what is whole"
        )
    return manifest


def is_as_written(manifest: dict[str, Any]) -> bool:
    """Whether the sums of a manifest fit what it says; versions before 4 have one over the files
    alone."""
    if content_hash(manifest) != manifest["sha256"]:
        return False
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return manifest["plan"]["format_version"] < 4 or manifest.get("checksum") == text_hash(rest)


def _parts(folder: Path, shards: list[str], left: Sequence[int] = ()):
    for number in sorted(set(range(len(shards))) - set(left)):
        name = part_name(number, len(shards))
        if part_file(folder, name).exists():
            try:
                yield read_part(folder, name)
            except ValueError as error:
                raise PreparedError(f"{folder}: {error}; run prepare again") from None


def _say_difference(difference: tuple[str, Any, Any]) -> str:
    name, old, new = difference
    if name.endswith("names_sha256"):
        return f"{name}: there are other files, or files of other names, than then"
    return f"{name}: {old!r} there, {new!r} now"


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(field, old, new) wherever two trees of JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return found
    return [] if old == new else [(prefix.rstrip("."), old, new)]
