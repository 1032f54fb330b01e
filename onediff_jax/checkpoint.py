"""Looks after the checkpoints of a workdir.

    python -m onediff_jax.checkpoint list   DIR            steps, sizes, times
    python -m onediff_jax.checkpoint show   DIR [--step N] what one holds, by array, and its run
    python -m onediff_jax.checkpoint verify DIR [--step N] reads all of it, compares checksums
    python -m onediff_jax.checkpoint repair DIR            sets damaged ones aside, by name, and
                                                           removes what killed saves left

Exit code 1 when verify finds damage. Only repair changes anything, and it deletes no checkpoint.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onediff_jax import exits


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m onediff_jax.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=("list", "show", "verify", "repair"))
    parser.add_argument("workdir", metavar="DIR", help="workdir of a run")
    parser.add_argument("--step", type=int, help="of one checkpoint; default all, show: the newest")
    options = parser.parse_args(arguments)
    commands = {"list": _list, "show": _show, "verify": _verify, "repair": _repair}
    try:
        return commands[options.command](options.workdir, options.step)
    except (ValueError, OSError) as error:
        exits.fail(error)


def _steps(workdir: str, step: int | None) -> tuple[Any, list[int]]:
    """The folder of the checkpoints, and the steps asked for."""
    from onediff_jax.run.checkpoint import CHECKPOINTS, CheckpointError, complete_steps
    from onediff_jax.run.workdir import run_folder

    folder = run_folder(workdir) / CHECKPOINTS
    if not folder.is_dir():
        raise CheckpointError(f"{workdir} has no folder {CHECKPOINTS}: no workdir, or a new one")
    steps = complete_steps(folder)
    if step is not None and step not in steps:
        raise CheckpointError(f"no checkpoint of step {step} in {folder}; there are {steps}")
    return folder, steps if step is None else [step]


def _list(workdir: str, step: int | None) -> int:
    folder, steps = _steps(workdir, step)
    for number in steps:
        print(
            f"{number:>10}  {_size(folder / str(number)) / 1e6:>10.1f} MB  {_told(folder, number)}"
        )
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not entry.name.isdigit():
            print(f"{entry.name:>10}  {_size(entry) / 1e6:>10.1f} MB  does not count")
    return 0


def _told(folder: Path, step: int) -> str:
    from onediff_jax.run.checkpoint import DamagedError, read_about

    made = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / str(step)).stat().st_mtime))
    try:
        about = read_about(folder / str(step))
    except DamagedError as error:
        return f"DAMAGED: {error}"
    if about is None:
        return f"{made}  without checksums: of an earlier version"
    versions = about.get("versions", {})
    return f"{made}  {about['processes']} processes  jax {versions.get('jax', '?')}"


def _show(workdir: str, step: int | None) -> int:
    from onediff_jax.run.checkpoint import read_about

    folder, steps = _steps(workdir, step)
    if not steps:
        print(f"no checkpoint in {folder}")
        return 0
    folder = folder / str(steps[-1])
    about = read_about(folder) or {}
    print(f"{folder}: {_told(folder.parent, steps[-1])}")
    total = 0
    for name, leaf in _leaves(folder):
        total += math.prod(leaf.shape)
        shape = "×".join(map(str, leaf.shape)) or "scalar"
        print(f"  {name}  {shape}  {leaf.dtype}  {about.get('arrays', {}).get(name, '-')}")
    print(f"{total:,} numbers")
    for name, value in sorted(about.get("versions", {}).items()):
        print(f"  {name} {value}")
    return 0


def _leaves(folder: Path) -> list[tuple[str, Any]]:
    import jax

    from onediff_jax.run.checkpoint import stored_shapes
    from onediff_jax.run.checksum import path_name

    leaves = jax.tree_util.tree_leaves_with_path(stored_shapes(folder))
    return [(path_name(path), leaf) for path, leaf in leaves if hasattr(leaf, "shape")]


def _verify(workdir: str, step: int | None) -> int:
    damaged = 0
    for number, problem in _checked(*_steps(workdir, step)):
        print(f"{number:>10}  {problem or 'whole'}", flush=True)
        damaged += problem.startswith("DAMAGED")
    return exits.BAD_INPUT.code if damaged else exits.FINISHED.code


def _checked(folder: Path, steps: Sequence[int]) -> Iterator[tuple[int, str]]:
    """(step, "" or what is wrong) of every checkpoint."""
    import jax

    from onediff_jax.run.checkpoint import DamagedError, read, read_about, stored_shapes

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for number in steps:
        try:
            wanted = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                stored_shapes(folder / str(number)),
            )
            read(folder / str(number), wanted)
            old = read_about(folder / str(number)) is None
            yield number, "readable; it has no checksums to compare with" if old else ""
        except DamagedError as error:
            yield number, f"DAMAGED: {error}"


def _repair(workdir: str, step: int | None) -> int:
    from onediff_jax.run.checkpoint import Checkpoints, set_aside
    from onediff_jax.run.workdir import Workdir, load_config

    folder, steps = _steps(workdir, step)
    claimed = Workdir(workdir, load_config(workdir), write=False)  # nobody trains meanwhile
    try:
        for note in claimed.notes:
            print(note)
        if claimed.notes:
            claimed.begin()
        for number, problem in list(_checked(folder, steps)):
            if problem.startswith("DAMAGED"):
                print(f"{number}: {problem}\n  set aside as {set_aside(folder / str(number))}")
            else:
                print(f"{number}: {problem or 'whole'}")
        before = {entry.name for entry in folder.iterdir()}
        Checkpoints(workdir).close()  # removes what killed saves left
        for name in sorted(before - {entry.name for entry in folder.iterdir()}):
            print(f"{name}: removed, what a save that did not end had left")
    finally:
        claimed.release()
    return 0


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    with exits.foreseen():
        sys.exit(main())
