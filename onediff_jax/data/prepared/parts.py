"""The parts of a prepared folder: what is known of each, and whether it is whole and still true.

A part is one shard of the source. Its JSON file is written last and holds the hashes of all that
the part consists of and of all that it was made from, and a sum over itself:

    shard, content     the source's shard, and what `content_of` says of it
    plan_sha256        of plan.json
    files, index       what was written, with bytes and SHA-256
    inputs             path → [SHA-256 or null where there was no file, stamp…], see journal.Content
    passed_over        [name, why] of what the shard's place holds and no record took
    held_out, held_out_names     the share that was held out, or the names of the list that it has
    merged, report     rows that became part of others; good and bad records
"""

import concurrent.futures
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import Source, content_of
from onediff_jax.data.sources.journal import Content
from onediff_jax.files import FileError, file_hash, read_json, text_hash

_THREADS = 8  # that compare hashes: the files may be far away
_NOT_MADE = "not made yet"


def part_name(number: int, parts: int) -> str:
    """The name of a part, e.g. 00003-of-00010."""
    return f"{number:05d}-of-{parts:05d}"


def part_file(folder: Path, name: str) -> Path:
    """Where a part's counts are, once it is done."""
    return folder / "parts" / f"{name}.json"


def sign(part: dict[str, Any]) -> dict[str, Any]:
    """The same with a sum over all of it."""
    return {**part, "sha256": _sum(part)}


def read_part(folder: Path, name: str) -> dict[str, Any]:
    """What is known of a part that was written.

    Raises:
      ValueError: its file is not there, does not parse, or is not as it was written.
    """
    file = part_file(folder, name)
    place = file.relative_to(folder)
    if not file.exists():
        raise ValueError(_NOT_MADE)
    try:
        part = read_json(file)
    except FileError as error:
        raise ValueError(str(error).replace(str(file), str(place))) from None
    if not isinstance(part, dict) or part.get("sha256") != _sum(part):
        raise ValueError(f"{place} is damaged: its sum is another one")
    return part


def survey(
    folder: Path, shards: list[str], source: Source | None = None, plan_sha256: str | None = None
) -> dict[int, str]:
    """The parts that are to be made, and why: not made yet, damaged, or of data that changed.

    Args:
      source: what the parts are compared with; None: only what was written is.
      plan_sha256: of the plan that they must be made by.

    Returns:
      Number of the part → why, in order; parts that are whole and true are not among them.
    """

    def reason(number: int) -> str:
        name = part_name(number, len(shards))
        try:
            part = read_part(folder, name)
        except ValueError as error:
            return str(error)
        if plan_sha256 is not None and part["plan_sha256"] != plan_sha256:
            return "made by another plan"
        if source is not None and (why := _changed(part, source, shards[number])):
            return why
        return damage(folder, [*part["files"], part["index"]])

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        reasons = pool.map(reason, range(len(shards)))
        return {number: why for number, why in enumerate(reasons) if why}


def describe_left(left: dict[int, str], parts: int, shown: int = 10) -> list[str]:
    """A line per part that is made again, by name."""
    again = [(number, why) for number, why in left.items() if why != _NOT_MADE]
    lines = [f"part {part_name(n, parts)} is made again: {why}" for n, why in again[:shown]]
    return lines + [f"… and {len(again) - shown} more parts"] * (len(again) > shown)


def damage(folder: Path, facts: Iterable[dict[str, Any]]) -> str:
    """The first file that is not as it was written, and how; empty if none."""
    for fact in facts:
        path = folder / fact["file"]
        try:
            size = path.stat().st_size
            if size != fact["bytes"]:
                return f"{fact['file']} has {size} bytes, not {fact['bytes']}"
            if file_hash(path) != fact["sha256"]:
                return f"{fact['file']} is damaged: its sha256 is another one"
        except FileNotFoundError:
            return f"{fact['file']} is missing"
        except (OSError, FileError) as error:
            return f"{fact['file']} cannot be read: {error}"
    return ""


def _changed(part: dict[str, Any], source: Source, shard: str) -> str:
    """What of a part's data is not what it was made from; empty if nothing."""
    if part["shard"] != shard:
        return f"it was made of shard {part['shard']}"
    if part["content"] != content_of(source, shard):
        return f"the rows of {shard} changed"
    found = []
    for path, (sha256, *stamp) in part["inputs"].items():
        if not files.is_unchanged(path, Content(sha256, tuple(stamp))):
            found.append(path)
    more = f" and {len(found) - 1} more files" if len(found) > 1 else ""
    return f"{found[0]}{more} changed" if found else ""


def _sum(part: dict[str, Any]) -> str:
    rest = {name: value for name, value in part.items() if name != "sha256"}
    return text_hash(rest)
