"""What a train step will need and reach on TPUs or GPUs, compiled here and run nowhere.

    python -m onediff_jax.aot --config=configs/paper.py:stage1_512 --topology=v5e:16x16 \\
        [--batch=1024] [--config.mesh.replica=16 …] [--out=FILE.json] [--hlo=FILE.txt]
        [--search[=batch,remat,mesh]]

Prints a table, and JSON to FILE (or after it). Needs libtpu for TPUs, 0.2 GB to download, and jax's
CUDA plugin for GPUs, 2.5 GB; a compile of the released shape takes minutes and 3 GB of memory. Exit
code 1 for bad input, and when the step does not fit the chip.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, compiles, prints; bad input ends with one message and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m onediff_jax.aot",
        description=(__doc__ or "").splitlines()[0],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--topology", required=True, help="e.g. v5e:16x16, v5p:4x4x4, h100:8, h200:4x8, a100-80:8"
    )
    parser.add_argument("--batch", type=int, help="rows per step in place of train.batch_rows")
    parser.add_argument(
        "--search",
        nargs="?",
        const="batch,remat,mesh",
        help="find what of these trains most rows per second; compiles many times",
    )
    parser.add_argument("--out", help="file for the JSON; default: printed after the table")
    parser.add_argument("--hlo", help="file for the text of the compiled program")
    args, rest = parser.parse_known_args(argv)
    try:
        run(args, rest)
    except ValueError as error:
        sys.exit(f"error: {error}")


def run(args: argparse.Namespace, config_arguments: Sequence[str]) -> None:
    """The command with its flags parsed. Raises ValueError for bad input."""
    from onediff_jax.scaling.chips import topology_of
    from onediff_jax.scaling.compilers import ENVIRONMENT

    topology = topology_of(args.topology)
    if args.batch is not None and args.batch <= 0:
        raise ValueError(f"--batch={args.batch} must be positive")
    os.environ |= ENVIRONMENT
    from onediff_jax.experiment.config_flag import read_config

    config = read_config(config_arguments)
    if args.batch is not None:
        config.train.batch_rows = args.batch
    from onediff_jax.scaling.measure import measure
    from onediff_jax.scaling.report import table
    from onediff_jax.scaling.search import search

    if args.search:
        what = args.search.split(",")
        report = search(config, topology, what, lambda c: measure(c, topology), _say)
    else:
        report = measure(config, topology, hlo=args.hlo)
    print(table(report))
    text = json.dumps(report, indent=1)
    if args.out:
        Path(args.out).write_text(text + "\n")
    else:
        print(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from onediff_jax import exits

    with exits.foreseen():
        main()
