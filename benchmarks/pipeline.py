"""Whether data keeps up with training: rows per second delivered, against rows per second consumed.

    python benchmarks/pipeline.py [--preset=tiny] [--batches=20] [--rounds=3]

Three things in turn, in one run, of one preset:

    first epoch   batches of the training stream, of scenes never seen: rendered, encoded, packed
    later epochs  batches of a stream as long, whose scenes are repeats of a few in memory: packed
    train step    the step on one batch that lies on the device

The stream runs with the preset's readers (data.threads). Rows per second are on the clock, with
nothing else of this program running; CPU milliseconds per row are those of all threads.
"""

import argparse
from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import preset
from timing import in_turn, progress, table

from onediff_jax.data.pipeline import BatchIterator, mix_groups, row_batches
from onediff_jax.experiment.build import Experiment

SCENES = 16  # per task, in the stream that stands for later epochs


class Repeated:
    """As many examples as a source has, of which only the first few are different: all in memory.

    A source that is that small itself would not do: grain shuffles few indices slower than many.
    """

    def __init__(self, source: Sequence[Any]):
        self._size, self._kept = len(source), [source[number] for number in range(SCENES)]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self._kept[int(index) % SCENES]


def later_epochs(experiment: Experiment) -> BatchIterator:
    """The training stream with everything in memory."""
    config, sources = experiment.config, {}
    tasks = {name: weight for name, weight in config.data.tasks.items() if weight}
    for name in tasks:
        progress(f"rendering what later epochs keep: {name}")
        sources[name] = Repeated(experiment.encoded(name))
    return row_batches(
        mix_groups(sources, tasks, config.seed),
        experiment.packer,
        experiment.draws,
        seed=config.seed,
        batch_size=config.train.batch_rows * config.train.accumulate,
        threads=config.data.threads,
        prefetch=1,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints a table and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=preset.PRESETS, default="tiny")
    parser.add_argument(
        "--batches",
        type=int,
        default=20,
        help="per run; later epochs, which are fast, ten times that",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    later, steps = 10 * args.batches, args.batches
    if args.smoke:
        args.batches, later, steps, args.rounds = 1, 1, 1, 1

    config = preset.load(args.preset, smoke=args.smoke)
    training = preset.Training(config)
    # As few as possible ready beforehand: those are free, and distort a short run.
    streams = {
        "first epoch": training.experiment.batches(prefetch=1),
        "later epochs": later_epochs(training.experiment),
    }
    rows = config.train.batch_rows * config.train.accumulate
    batch, state = training.batch(), training.first_state()

    def train():
        nonlocal state
        for _ in range(steps):
            state, metrics = training.step(state, batch)
            jax.block_until_ready(metrics["loss"])

    def read(name, count):
        return lambda: [next(streams[name]) for _ in range(count)]

    cost = in_turn(
        {
            "first epoch": read("first epoch", args.batches),
            "later epochs": read("later epochs", later),
            "train step": train,
        },
        args.rounds,
    )
    for stream in streams.values():
        stream.close()
    counts = {"first epoch": args.batches, "later epochs": later, "train step": steps}
    rate = {name: rows * counts[name] / cost[name].wall for name in cost}
    cpu = {name: 1000 * cost[name].cpu / (rows * counts[name]) for name in cost}
    table(
        (args.preset, "rows per s", "÷ train step", "CPU ms per row", "÷ train step"),
        (
            (
                name,
                rate[name],
                rate[name] / rate["train step"],
                cpu[name],
                cpu[name] / cpu["train step"],
            )
            for name in cost
        ),
    )
    first, after = (rate[name] / rate["train step"] for name in list(cost)[:2])
    print(
        f"\nWith {config.data.threads} reader(s) the pipeline delivers {first:.2f}× the rows that "
        f"the {args.preset} step consumes while it renders, and {after:.1f}× from memory."
    )


if __name__ == "__main__":
    main()
