"""Rounds of faults by hand: python -m tests.faults --rounds=100 --seed=0 [--only=train:kill,…].

Prints a line per round as JSON and a table at the end; exit code 1 where a round went wrong.
"""

import argparse
import collections
import dataclasses
import json
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.faults.commands import close_server
from tests.faults.kinds import KINDS
from tests.faults.rounds import Outcome, Rounds

GOOD = ("identical", "refused", "untried")


def main() -> int:
    """Runs the rounds; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    choices = [f"{command}:{kind}" for command in KINDS for kind in KINDS[command]]
    parser.add_argument("--only", default="", help=f"of {', '.join(choices)}; in turn")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    counts: collections.Counter = collections.Counter()
    try:
        rounds = Rounds(folder, options.seed)
        only = options.only.split(",") if options.only else []
        if unknown := set(only) - set(choices):
            parser.error(f"--only={','.join(sorted(unknown))}: choose from {', '.join(choices)}")
        for number in range(options.rounds):
            chosen = only[number % len(only)] if only else ":"
            try:
                outcome = rounds.round(*chosen.split(":"))
            except Exception as error:  # of the harness itself
                traceback.print_exc()
                outcome = Outcome(*(*chosen.split(":"), "")[:2], "", "broken", repr(error), 0.0)
            counts[outcome.command, outcome.kind, outcome.result] += 1
            print(json.dumps(dataclasses.asdict(outcome)), flush=True)
    finally:
        close_server()
        shutil.rmtree(folder, ignore_errors=True)
    for (command, kind, result), count in sorted(counts.items()):
        print(f"{command:8} {kind:13} {result:20} {count}")
    return int(any(result not in GOOD for _, _, result in counts))


if __name__ == "__main__":
    sys.exit(main())
