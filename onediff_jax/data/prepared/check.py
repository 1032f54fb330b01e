"""Verifying a prepared folder: every file, every record, against the manifest and the index."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from onediff_jax.data.prepared.manifest import PASSED_FILE, is_as_written, read_manifest
from onediff_jax.data.prepared.parts import damage
from onediff_jax.data.prepared.record import Record, from_bytes
from onediff_jax.data.prepared.split import split_of
from onediff_jax.files import file_hash
from onediff_jax.tasks.own import own_tasks

_AT_ONCE = 256  # records in memory


@dataclasses.dataclass
class Checked:
    """What was found: a line per problem, and per file the hashes of its (task, key) names."""

    problems: list[str]
    names: np.ndarray


def check_folder(folder: str | Path, workers: int = 1) -> tuple[list[str], str]:
    """Reads everything.

    Returns:
      The problems, one line each (none: the folder is whole), and a table of what there is.

    Raises PreparedError when there is no readable manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, verify=False)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(_check_file, folder, manifest, f) for f in manifest["files"]]
        checked = [job.result() for job in jobs]
    problems = [problem for c in checked for problem in c.problems]
    problems += _check_index(folder, manifest)
    names, counts = np.unique(np.concatenate([c.names for c in checked]), return_counts=True)
    if twice := int((counts > 1).sum()):
        problems.append(f"{twice} of {len(names)} examples have the task and key of another one")
    if not is_as_written(manifest):
        problems.append("manifest.json was changed: its sums do not fit what it says")
    return problems, table(manifest)


def _check_file(folder: Path, manifest: dict[str, Any], facts: dict[str, Any]) -> Checked:
    path, problems, names = folder / facts["file"], [], []
    if not path.exists():
        return Checked([f"{facts['file']}: missing"], np.zeros(0, np.uint64))
    if path.stat().st_size != facts["bytes"]:
        problems.append(f"{facts['file']}: {path.stat().st_size} bytes, not {facts['bytes']}")
    elif file_hash(path) != facts["sha256"]:
        problems.append(f"{facts['file']}: its sha256 is not the manifest's")
    try:
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
        total = reader.num_records()
        if total != facts["records"]:
            problems.append(f"{facts['file']}: {total} records, not {facts['records']}")
        for start in range(0, total, _AT_ONCE):
            for place, data in enumerate(reader.read(start, min(start + _AT_ONCE, total)), start):
                record = from_bytes(data)
                if wrong := _wrong(record, manifest, facts):
                    problems.append(f"{facts['file']}, record {place} ({record.key}): {wrong}")
                name = f"{record.task}\0{record.key}".encode("utf-8", "surrogatepass")
                digest = hashlib.blake2b(name, digest_size=8).digest()
                names.append(int.from_bytes(digest, "little"))
        reader.close()
    except (ValueError, RuntimeError, IndexError) as error:
        problems.append(f"{facts['file']}: cannot be read: {error}")
    return Checked(problems, np.array(names, np.uint64))


def _wrong(record: Record, manifest: dict[str, Any], facts: dict[str, Any]) -> str:
    """What is wrong with a record that parses; empty if nothing."""
    if record.task != facts["task"]:
        return f"task {record.task}"
    asked = manifest["plan"]["held_out"]
    share = max(asked, manifest.get("held_out", asked))
    by_name = manifest["plan"].get("held_out_names")
    if not by_name and split_of(record.split_key, share) != facts["split"]:
        return f"its group or key belongs to the other split than {facts['split']}"
    pixels = manifest["plan"]["encoders"]["pictures"]["kind"] == "pixels"
    dtype = np.uint8 if pixels else np.float16
    if any(frame.dtype != dtype or frame.ndim != 3 for frame in record.frames):
        return f"frames that are not {np.dtype(dtype)} (H, W, C)"
    if not pixels and not all(np.isfinite(frame).all() for frame in record.frames):
        return "latents that are not finite"
    try:
        task = own_tasks(manifest["plan"].get("own_tasks", {})).task(record.task)
        task.picture_roles(len(record.frames))
    except ValueError as error:
        return str(error)
    return "no cameras" if task.rays and record.cameras is None else ""


def _check_index(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Every file's records, in the index, in their order."""
    found: collections.Counter = collections.Counter()
    problems = [why for fact in manifest.get("index", ()) if (why := damage(folder, [fact]))]
    for file in sorted((folder / "index").glob("*.jsonl")):
        try:
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                if entry["position"] != found[entry["file"]]:
                    problems.append(f"{file.name}: {entry['file']} is out of order")
                    break
                found[entry["file"]] += 1
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"index/{file.name}: cannot be read: {error}")
    for facts in manifest["files"]:
        if found[facts["file"]] != facts["records"]:
            problems.append(f"index: {found[facts['file']]} records of {facts['file']}")
    return problems


def not_read(folder: Path, names: int = 3) -> str:
    """What lies in the source and is part of no record: per reason its number and first names."""
    found: dict[str, list[str]] = {}
    for line in (folder / PASSED_FILE).read_text().splitlines():
        name, why = json.loads(line)
        found.setdefault(why, []).append(name)
    lines = []
    for why, left in found.items():
        more = ", …" if len(left) > names else ""
        lines.append(f"not read: {len(left):,} ({why}): {', '.join(left[:names])}{more}")
    return "\n".join(lines)


def table(manifest: dict[str, Any]) -> str:
    """Tasks and splits, with records, frames, sizes and bytes, then the totals."""
    lines = [f"{'task':20} {'train':>10} {'held out':>10} {'frames':>8} {'MiB':>9}  sizes"]
    size_of: collections.Counter = collections.Counter()
    for file in manifest["files"]:
        size_of[file["task"]] += file["bytes"]
    for task, facts in manifest["tasks"].items():
        low, high = facts["frames"]
        frames = str(low) if low == high else f"{low}–{high}"
        lines.append(
            f"{task:20} {facts['train']:>10,} {facts['held_out']:>10,} {frames:>8} "
            f"{size_of[task] / 2**20:>9,.1f}  {', '.join(facts['sizes'])}"
        )
    if not any(facts["held_out"] for facts in manifest["tasks"].values()):
        lines.append("nothing is held out: --held_out=SHARE or --held_out_list=FILE keeps some")
    if manifest.get("merged"):
        lines.append(f"{manifest['merged']:,} rows gave their captions to an earlier row's picture")
    if bare := manifest.get("uncaptioned"):
        lines.append(f"{bare:,} of {manifest['records']:,} records have no caption")
    encoders = manifest["plan"]["encoders"]
    text = encoders["text"]["kind"] if encoders["text"] else "captions only"
    lines.append(
        f"{manifest['records']:,} records in {len(manifest['files'])} files, "
        f"{manifest['bytes'] / 2**20:,.1f} MiB; pictures: {encoders['pictures']['kind']}; "
        f"text: {text}; {manifest['enlarged']:,} enlarged; "
        f"{sum(manifest['bad'].values()):,} bad records {manifest['bad'] or ''}".rstrip()
    )
    return "\n".join(lines)
