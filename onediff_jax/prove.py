"""Proves on your machine that your run survives: kills it, starts it again, compares every bit.

    python -m onediff_jax.prove --config=FILE [--kills=10] [--steps=N] [--config.key=value …]

Trains --steps steps in one go, and the same again while it is killed --kills times at random
moments. Prints "bit-identical" or what differs (exit code 1). The steps and the checkpoint interval
are made small; everything else is as the config says. Both runs lie in a temporary folder (--dir).
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from onediff_jax import exits
from onediff_jax.files import read_json

_LIMIT = 3600  # seconds until a start that neither ends nor saves counts as hanging


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the proof; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m onediff_jax.prove",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40, help="of the runs that are compared")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--dir", help="where the runs lie; default the temporary folder")
    options, of_config = parser.parse_known_args(arguments)
    if not any(flag.startswith("--config=") for flag in of_config):
        parser.error("--config=FILE is required, e.g. --config=configs/t2i_multitask.py")
    if options.kills < 1 or options.steps < 2:
        parser.error("--kills must be ≥ 1 and --steps ≥ 2")
    every = max(1, options.steps // 8)
    of_config += [
        f"--config.train.steps={options.steps}",
        f"--config.checkpoint.every_steps={every}",
    ]
    try:
        with tempfile.TemporaryDirectory(prefix="onediff_prove_", dir=options.dir) as folder:
            return _prove(Path(folder), of_config, options)
    except (ValueError, OSError) as error:
        exits.fail(error)


def _prove(folder: Path, of_config: list[str], options: argparse.Namespace) -> int:
    whole, killed = folder / "whole", folder / "killed"
    began = time.monotonic()
    _finish(_start(of_config, whole, folder), folder)
    seconds = time.monotonic() - began
    print(f"in one go: {options.steps} steps in {seconds:.0f} s", flush=True)
    rng = random.Random(options.seed)
    for number in range(1, options.kills + 1):
        process = _start(of_config, killed, folder)
        try:
            code = process.wait(timeout=rng.uniform(0.2, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        print(f"kill {number}: {_told(killed, code)}", flush=True)
        if code not in (None, 0):
            raise ValueError(f"the run ended by itself with exit code {code}: {_log(folder)}")
    _finish(_start(of_config, killed, folder), folder)
    one, other = (_sums(run, options.steps) for run in (whole, killed))
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    if differ:
        more = f" and {len(differ) - 10} more" if len(differ) > 10 else ""
        print(f"DIFFERENT in {len(differ)} of {len(one)} arrays: {', '.join(differ[:10])}{more}")
        return exits.BAD_INPUT.code
    print(f"bit-identical: {len(one)} arrays after {options.steps} steps, {options.kills} kills")
    return exits.FINISHED.code


def _start(of_config: list[str], workdir: Path, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "onediff_jax.main", *of_config, f"--workdir={workdir}"]
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)


def _finish(process: subprocess.Popen, folder: Path) -> None:
    try:
        code = process.wait(timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise ValueError(f"a start did not end within {_LIMIT} s: {_log(folder)}") from None
    if code:
        raise ValueError(f"the run ended with exit code {code}: {_log(folder)}")


def _told(workdir: Path, code: int | None) -> str:
    if code == 0:
        return "the run had ended before"
    folder = workdir / "checkpoints"
    steps = [int(e.name) for e in folder.iterdir() if e.name.isdigit()] if folder.is_dir() else []
    return f"the newest checkpoint is {max(steps, default='none')}"


def _sums(workdir: Path, step: int) -> dict[str, str]:
    return read_json(workdir / "checkpoints" / str(step) / "sums.json")["arrays"]


def _log(folder: Path) -> str:
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    with exits.foreseen():
        sys.exit(main())
