"""What a checkpoint costs the loop: written in the background, and waited for.

    python benchmarks/checkpoint.py [--preset=tiny] [--steps=5] [--rounds=8] [--dir=FOLDER]

In turn: steps, a save left to the background while the steps go on, and a save that is waited for.
"Blocked" is how long the loop stands still; in the background it is for the copy that the steps may
not change. CPU is the time that all of a save takes, wherever it runs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import preset
from timing import in_turn, table

from onediff_jax.run.checkpoint import CHECKPOINTS, Checkpoints


class Loop:
    """A training loop with a state that goes on; `blocked` and `left` are seconds, by kind."""

    def __init__(self, training: preset.Training, folder: Path, steps: int):
        self.training, self.steps, self.saved = training, steps, 0
        self.batch, self.state = training.batch(), training.first_state()
        self.checkpoints = Checkpoints(folder, keep_last=1)
        self.blocked: dict[str, list[float]] = {"background": [], "waited for": []}
        self.left: list[float] = []

    def run(self, kind: str = "none") -> None:
        """The steps, after a save of that kind."""
        if kind != "none":
            self.saved += 1
            began = time.perf_counter()
            self.checkpoints.save(self.saved, self.state, {"batches": self.saved})
            if kind == "waited for":
                self.checkpoints.wait()
            self.blocked[kind].append(time.perf_counter() - began)
        for _ in range(self.steps):
            self.state, metrics = self.training.step(self.state, self.batch)
            jax.block_until_ready(metrics["loss"])

    def finish(self) -> None:
        """Waits for the background, so that the next loop starts with nothing to write."""
        began = time.perf_counter()
        self.checkpoints.wait()
        self.left.append(time.perf_counter() - began)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints a table and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=preset.PRESETS, default="tiny")
    parser.add_argument("--steps", type=int, default=20, help="per loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", help="where to write; default the system's temporary folder")
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.steps, args.rounds = 2, 1

    config = preset.load(args.preset, smoke=args.smoke)
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="checkpoint-") as folder:
        loop = Loop(preset.Training(config), Path(folder), args.steps)
        cost = in_turn(
            {
                "no save": loop.run,
                "background": lambda: loop.run("background"),
                "(its end)": loop.finish,
                "waited for": lambda: loop.run("waited for"),
            },
            args.rounds,
        )
        loop.checkpoints.close()
        last = Path(folder) / CHECKPOINTS / str(loop.saved)
        size = sum(file.stat().st_size for file in last.rglob("*") if file.is_file())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(loop.state))
    plain = cost["no save"]
    step = plain.wall / args.steps
    blocked = {name: statistics.median(times[1:]) for name, times in loop.blocked.items()}
    rows = [
        (
            name,
            1000 * blocked[name],
            blocked[name] / step,
            1000 * (cost[name].wall - plain.wall),
            (cost[name].wall - plain.wall) / step,
            1000 * (cost[name].cpu - plain.cpu),
        )
        for name in blocked
    ]
    table((args.preset, "blocked, ms", "steps", "whole, ms", "steps", "CPU ms"), rows)
    left = 1000 * statistics.median(loop.left[1:])
    print(
        f"\nA save blocks the loop for {blocked['background'] / step:.2f} steps of "
        f"{1000 * step:.0f} ms in the background and {blocked['waited for'] / step:.2f} when "
        f"waited for; it writes {size / 1e6:.1f} MB for {held / 1e6:.1f} MB of state. After "
        f"{args.steps} steps {left:.0f} ms of writing were left."
    )


if __name__ == "__main__":
    main()
