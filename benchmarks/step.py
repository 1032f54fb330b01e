"""Where the time of a train step goes; what scanned layers, soft cap and rounding change.

    python benchmarks/step.py [--preset=tiny] [--rounds=10]

Everything runs in turn on one batch of the preset, with the same parameters:

    self-attention, text attention (with its keys and values), feed-forward
                      a stack of only that, as deep as the model, forward and backward
    projections       a stack of whole attention layers less these two: projections, norms, rotary
                      positions
    everything else   the gradient of the loss alone less all of the above: adaLN, norms, embedders
    optimizer + EMA   the step less that gradient
    codec, text       what the pipeline's threads do for the step's rows, beside it

Last, the training loop itself with a transfer to the devices that takes as long as half a step: as
it is, and with every batch placed only when the step before it is done.

Differences carry the noise of both sides. Model FLOPs are the matrix products of the loss, times
three. The other ratios are of gradients of the loss alone.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import jax
import preset
from layer_parts import stacks
from timing import Cost, in_turn, table

from onediff_jax.experiment.build import make_experiment
from onediff_jax.models.layers import operands
from onediff_jax.parallel.xla_flags import compiler_options
from onediff_jax.run.loop import _Run, train
from onediff_jax.run.train_step import flow_loss, product_operands
from onediff_jax.scaling.flops import matmul_flops


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, measures, prints two tables and a conclusion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=preset.PRESETS, default="tiny")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    rounds = 1 if args.smoke else args.rounds
    config = preset.load(args.preset, smoke=args.smoke)
    training = preset.Training(config)
    batch, state, key = training.batch(), training.first_state(), jax.random.key(0)
    scanned = config.model.unroll == 1
    layers, other = ("scanned", "unrolled") if scanned else ("unrolled", "scanned")
    changes = {
        "gradient": {},
        other: {"model__unroll": 0 if scanned else 1},
        "no soft cap": {"model__attention_softcap": None},
        "unrounded": {"train__products": "dtype"},
    }

    def step():
        nonlocal state
        state, metrics = training.step(state, batch)
        jax.block_until_ready((state, metrics))

    def loss(experiment):
        def run(params, batch, key):
            with operands(product_operands(experiment.config)):
                return flow_loss(params, batch, key, experiment)[0]

        return run

    def gradient(change):
        changed = make_experiment(preset.load(args.preset, smoke=args.smoke, **change))
        options = compiler_options(jax.default_backend())
        compiled = jax.jit(jax.grad(loss(changed)), compiler_options=options)
        return lambda: jax.block_until_ready(compiled(state.params, batch, key))

    experiment = training.experiment
    flops = 3 * matmul_flops(jax.make_jaxpr(loss(experiment))(state.params, batch, key)).total
    rows = config.train.batch_rows * config.train.accumulate
    row = training.bundles()
    pictures = [f for bundle in row for f in bundle.frames if f.dtype == "uint8"]
    prompts = [bundle.prompt for bundle in row]
    runs = {
        "step": step,
        **{name: gradient(change) for name, change in changes.items()},
        **stacks(experiment, jax.tree.map(lambda a: a.copy(), state.params), batch),
        "codec": lambda: [experiment.codec.encode(p) for p in pictures * rows],
        "text": lambda: [experiment.text_encoder(prompts) for _ in range(rows)],
    }
    cost = in_turn(runs, rounds)
    report(args.preset, cost | {layers: cost["gradient"]}, flops)
    report_overlap(args.preset, smoke=args.smoke, transfer=cost["step"].wall / 2)


def report_overlap(name: str, *, smoke: bool, transfer: float) -> None:
    """Trains with transfers of so many seconds, overlapped and not; prints what a step takes."""
    overlapped, waiting = (
        loop_seconds(name, smoke=smoke, transfer=transfer, wait=wait) for wait in (False, True)
    )
    print()
    rows = (("overlapped", 1000 * overlapped), ("one after the other", 1000 * waiting))
    table((f"{name}, a transfer of {1000 * transfer:.3g} ms", "ms per step"), rows)
    print(
        f"\nA step of the loop takes {overlapped / waiting:.2f}× as long where the next batch is "
        "placed while the step runs as where it waits for its end."
    )


def loop_seconds(name: str, *, smoke: bool, transfer: float, wait: bool) -> float:
    """Seconds per step of a short run, the median of its reports; `wait`: nothing overlaps."""
    steps = 4 if smoke else 60
    changes = {"train__steps": steps, "log__every_steps": max(steps // 6, 1)}
    changes |= {"log__sample_every": 0, "log__held_out_at": (), "optim__warmup_steps": 1}
    config = preset.load(name, smoke=smoke, **changes, log__held_out_batches=1)
    place = _Run.to_devices

    def slowly(run, batch, rows):
        if wait:
            run.results.settle()
        time.sleep(transfer)
        return place(run, batch, rows)

    with tempfile.TemporaryDirectory() as workdir, mock.patch.object(_Run, "to_devices", slowly):
        train(config, workdir)
        return preset.step_seconds(Path(workdir))


def report(name: str, cost: dict[str, Cost], flops: int) -> None:
    """Prints what `in_turn` found."""
    whole, parts = cost["step"], ("self-attention", "text attention", "feed-forward")
    split = {part: cost[part] for part in parts}
    split["projections"] = cost["attention layer"] - cost["self-attention"] - cost["text attention"]
    split["everything else"] = cost["gradient"] - cost["attention layer"] - cost["feed-forward"]
    split["optimizer + EMA"] = whole - cost["gradient"]
    split["the step"] = whole
    split |= {"beside it: codec": cost["codec"], "beside it: text": cost["text"]}
    table(
        (name, "ms", "of the step", "CPU ms", "of the step"),
        (
            (part, 1000 * c.wall, c.wall / whole.wall, 1000 * c.cpu, c.cpu / whole.cpu)
            for part, c in split.items()
        ),
    )
    print()
    pairs = {
        "layers scanned ÷ unrolled": (cost["scanned"], cost["unrolled"]),
        "with ÷ without soft cap": (cost["gradient"], cost["no soft cap"]),
        "train.products as set ÷ dtype": (cost["gradient"], cost["unrounded"]),
    }
    table(
        ("forward and backward", "ms ÷ ms", "CPU ÷ CPU"),
        ((pair, a.wall / b.wall, a.cpu / b.cpu) for pair, (a, b) in pairs.items()),
    )
    largest = max(parts, key=lambda part: split[part].cpu)
    print(
        f"\nA step of {name} takes {1000 * whole.wall:.0f} ms for {flops / 1e9:.3g} GFLOP of model "
        f"matrix products, {flops / whole.wall / 1e9:.3g} GFLOP/s; of the parts of a layer "
        f"{largest} takes most. Forward and backward take "
        f"{cost['scanned'].wall / cost['unrolled'].wall:.2f}× as long with scanned layers as with "
        f"unrolled ones, {cost['gradient'].wall / cost['no soft cap'].wall:.2f}× with the soft "
        f"cap as without, and {cost['gradient'].wall / cost['unrounded'].wall:.2f}× with "
        "train.products as set as with dtype."
    )


if __name__ == "__main__":
    main()
