"""What a checkpoint costs the loop: written in the background, and waited for.

    python benchmarks/checkpoint.py [--preset=tiny] [--steps=5] [--rounds=8] [--dir=FOLDER]

In turn: steps, a save left to the background while the steps go on, and a save that is waited for.
"Blocked" is how long the loop stands still; in the background it is for the copy that the steps may
not change. CPU is the time that all of a save takes, wherever it runs. Then the parts of a save
that only safety needs, and how soon a run that was stopped makes its next step (--restarts=0: not).
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import preset
from timing import in_turn, table

from onediff_jax.run import checkpoint
from onediff_jax.run.checkpoint import CHECKPOINTS, Checkpoints
from onediff_jax.run.checksum import checksums

EVERY = 100  # steps between two saves, for the share that they take


class Loop:
    """A training loop with a state that goes on; `blocked` and `left` are seconds, by kind."""

    def __init__(self, training: preset.Training, folder: Path, steps: int):
        self.training, self.steps, self.saved = training, steps, 0
        self.batch, self.state = training.batch(), training.first_state()
        self.checkpoints = Checkpoints(folder, keep_last=1)
        self.blocked: dict[str, list[float]] = {"background": [], "waited for": []}
        self.left: list[float] = []
        self.safety: dict[str, list[float]] = {"checksums": [], "syncing": []}
        self._sync = checkpoint.sync_tree
        checkpoint.sync_tree = self._timed_sync

    def _timed_sync(self, folder: Path) -> None:
        began = time.perf_counter()
        self._sync(folder)
        self.safety["syncing"].append(time.perf_counter() - began)

    def hash(self) -> None:
        """The checksums alone."""
        began = time.perf_counter()
        jax.block_until_ready(checksums(self.state))
        self.safety["checksums"].append(time.perf_counter() - began)

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

    def close(self) -> None:
        """Ends the writing."""
        self.checkpoints.close()
        checkpoint.sync_tree = self._sync


def restart(config: str, folder: Path) -> tuple[float, float]:
    """Seconds from the start of a stopped run to its first new step, and of CPU up to its end."""
    command = [sys.executable, "-m", "onediff_jax.main", f"--config={config}"]
    command += [f"--workdir={folder}", "--config.log.every_steps=1"]
    taken = cpu = 0.0
    for _ in range(2):  # the first fills the cache of compiled programs
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=preset.CONFIG.parents[1], env=os.environ
        )
        for line in process.stdout:
            if line.startswith("step "):
                break
        taken = time.perf_counter() - began
        process.terminate()
        process.communicate()
        cpu = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
    return taken, cpu


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints a table and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=preset.PRESETS, default="tiny")
    parser.add_argument("--steps", type=int, default=20, help="per loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", help="where to write; default the system's temporary folder")
    parser.add_argument("--restarts", type=int, default=3, help="of a run, of which the best")
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.steps, args.rounds, args.restarts = 2, 1, 0

    config = preset.load(args.preset, smoke=args.smoke)
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="checkpoint-") as folder:
        loop = Loop(preset.Training(config), Path(folder), args.steps)
        cost = in_turn(
            {
                "no save": loop.run,
                "background": lambda: loop.run("background"),
                "(its end)": loop.finish,
                "waited for": lambda: loop.run("waited for"),
                "(checksums)": loop.hash,
            },
            args.rounds,
        )
        loop.close()
        last = Path(folder) / CHECKPOINTS / str(loop.saved)
        size = sum(file.stat().st_size for file in last.rglob("*") if file.is_file())
        named = f"{preset.CONFIG}:{args.preset}"
        again = [restart(named, Path(folder) / f"run-{n}") for n in range(args.restarts)]
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
    whole = statistics.median(loop.blocked["waited for"][1:])
    print()
    parts = {name: statistics.median(times[1:]) for name, times in loop.safety.items()}
    table(
        ("of a save that is waited for", "ms", "share"),
        [(name, 1000 * seconds, seconds / whole) for name, seconds in parts.items()],
    )
    left = 1000 * statistics.median(loop.left[1:])
    print(
        f"\nA save blocks the loop for {blocked['background'] / step:.2f} steps of "
        f"{1000 * step:.0f} ms in the background and {blocked['waited for'] / step:.2f} when "
        f"waited for; it writes {size / 1e6:.1f} MB for {held / 1e6:.1f} MB of state. After "
        f"{args.steps} steps {left:.0f} ms of writing were left. One every {EVERY} steps takes "
        f"{max(cost['background'].wall - plain.wall, 0) / (EVERY * step):.1%} of their time."
    )
    if again:
        wall, cpu = min(again)
        print(
            f"A run that was stopped makes its first new step {wall:.1f} s after it is started, "
            f"with {cpu:.1f} s of CPU up to its end (warm cache; the best of {len(again)})."
        )


if __name__ == "__main__":
    main()
