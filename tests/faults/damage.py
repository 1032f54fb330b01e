"""Damaged files: flipped, cut, emptied, with an empty value, removed; folders half removed."""

import json
import shutil
from pathlib import Path

from tests.faults import commands
from tests.faults.commands import Command, run

HALF = 0.5


def damage(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """Of a file of what the command made, of a run that was stopped after step 8."""
    folder = place / command.name
    if command.name == "train":
        rounds.stopped(folder)
    else:
        shutil.copytree(rounds.straight(command), folder)
    where, file = _damage(rounds.rng, kind, folder)
    result, said = rounds.again(command, folder, place, None)
    if result == "refused" and where in said:
        if file.is_dir():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)  # as the message says
        result, more = rounds.again(command, folder, place, None)
        result, said = ("refused", said) if result == "identical" else (result, more)
    elif result == "refused":
        result = "refused, not by name"
    return where, result, said


def of_source(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """Of a file of the run that is exported or evaluated: the same result, or refused by name."""
    source, out = place / "source", place / "out"
    shutil.copytree(rounds.whole, source)
    where, _ = _damage(rounds.rng, kind.removeprefix("source "), source)
    made = {"export": commands.exporting, "evaluate": commands.evaluating}[command.name](source)
    ended = run(made, out, place / "log")
    if problem := ended.problem():
        return where, problem.split(" ")[0].rstrip(":"), problem
    if ended.code == 0:
        same = made.result(out) == rounds.want[command.name]
        return where, ("identical" if same else "wrong"), ended.said
    if ended.code != 1 or str(source) not in ended.err:
        return where, "refused, not by name", ended.said
    return where, "refused", ended.said


def _damage(rng, kind: str, folder: Path) -> tuple[str, Path]:
    """What was damaged, relative to the folder, and its path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    if kind == "json":
        files = [p for p in files if p.suffix == ".json"]
    file = files[int(rng.integers(len(files)))]
    if kind != "json" and rng.random() < HALF:  # most bytes are those of arrays
        file = max(files, key=lambda p: (p.stat().st_size, _step(p)))
    if kind == "halved":
        below = sorted(p for p in folder.rglob("*") if p.is_dir() and any(p.iterdir()))
        file = below[int(rng.integers(len(below)))]
        for inner in sorted(p for p in file.rglob("*") if p.is_file()):
            if rng.random() < HALF:
                inner.unlink()
        return str(file.relative_to(folder)), file
    content = bytearray(file.read_bytes())
    if kind == "flip":
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    if kind == "json":
        values = ({}, [], None, "", 0)
        content = bytearray(json.dumps(values[int(rng.integers(len(values)))]).encode())
    size = {"cut": len(content) // 2, "empty": 0}.get(kind, len(content))
    file.write_bytes(bytes(content[:size]))
    if kind == "remove":
        file.unlink()
    return str(file.relative_to(folder)), file


def _step(file: Path) -> int:
    """Of the checkpoint that a file is of."""
    return max((int(name) for name in file.parts if name.isdigit()), default=0)
