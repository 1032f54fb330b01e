"""What a change of a preset does to what it learns in the same time.

    python benchmarks/learning.py --out=DIR [--minutes=5] [--seeds=3] [--variants=FILE.json]

Every variant trains from scratch with every seed, alone on the machine, for as many steps as its
own speed makes in the time (a short run before tells; compilation is not counted), and is measured
on the same held-out scenes. FILE.json replaces the variants below: {"NAME": {"section.field":
VALUE, …}, …}; what they are compared with is the preset itself. Killed and run again it goes on
with what is missing.

Prints every measure of the preset, mean over the seeds, and for each variant the mean difference,
with its 95 % interval (Student's t, paired by seed) where there are several; + and − mark those
that the interval tells from nothing. learning.png in --out shows the same.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import preset
from scipy import stats
from timing import progress, table

from onediff_jax.evaluate import main as evaluate
from onediff_jax.evaluation.results import Result, read_rows
from onediff_jax.run.loop import train

BASE = "the preset"
# One token is 8 × 8 pixels here, in rows of the same pictures.
FINE = (("t2i", 2, 1, 64), ("i2i", 6, 2, 64), ("identity", 1, 3, 64), ("multiview", 1, 6, 64))
VARIANTS: dict[str, dict[str, Any]] = {
    "products in float32": {"train.products": "dtype"},
    "adamw": {"optim.name": "adamw"},
    "fine patches, narrow": {
        "model.patch_size": 1,
        "model.hidden_size": 96,
        "model.num_heads": 4,
        "model.num_kv_heads": 2,
        "rows": FINE,
    },
    "deep, narrow": {"model.depth": 8, "model.hidden_size": 144, "model.num_heads": 6,
                     "model.num_kv_heads": 3},
    "all heads have keys": {"model.num_kv_heads": 8},
    "half the rows a step": {"train.batch_rows": 2},
    "shift 1": {"flow.shift": 1.0},
    "longer average": {"ema.max_decay": 0.998},
    "equal tasks": {"data.tasks.depth2image": 1.0, "data.tasks.semanticmap2image": 1.0},
}  # fmt: skip
PROBE = 40  # steps that tell the speed


def main(argv: Sequence[str] | None = None) -> None:
    """Parses flags, trains and measures what is missing, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=preset.PRESETS, default="tiny")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", type=Path, help="JSON; default: those in this file")
    parser.add_argument("--scenes", type=int, default=48, help="held-out, per direction")
    parser.add_argument("--out", type=Path, help="keeps the runs; default: a temporary folder")
    parser.add_argument("--smoke", action="store_true", help="only shows that it runs")
    args = parser.parse_args(argv)
    variants = json.loads(args.variants.read_text()) if args.variants else VARIANTS
    if args.smoke:
        args.seeds, args.scenes, variants = 1, 1, {}
    with contextlib.ExitStack() as opened:
        out = args.out or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        found = {
            name: [measured(args, out, name, changes, seed) for seed in range(args.seeds)]
            for name, changes in {BASE: {}, **variants}.items()
        }
        report(args, found)
        if variants:
            plot(out / "learning.png", found)


def measured(
    args: argparse.Namespace, out: Path, name: str, changes: Mapping[str, Any], seed: int
) -> dict[str, Result]:
    """One variant with one seed, trained and evaluated unless that was done: measure → result."""
    folder = out / name.replace(" ", "_") / str(seed)
    if not (folder / "evaluation" / "metrics.json").exists():
        changes = {key.replace(".", "__"): value for key, value in changes.items()}
        quiet = {"log__sample_every": 0, "log__held_out_at": (), "seed": seed}

        def config(steps: int):
            config = preset.load(args.preset, smoke=args.smoke, **changes | quiet)
            with config.unlocked():
                config.train.steps = steps
                config.log.every_steps = max(1, min(config.log.every_steps, steps // 4))
                config.optim.warmup_steps = min(config.optim.warmup_steps, steps // 2)
            return config

        with contextlib.redirect_stdout(sys.stderr):
            begun = folder / "config.json"
            if args.smoke:
                steps = 2
            elif begun.exists():  # killed: it goes on to where it was going
                steps = json.loads(begun.read_text())["train"]["steps"]
            else:
                with tempfile.TemporaryDirectory() as probe:
                    train(config(PROBE), probe)
                    steps = round(60 * args.minutes / preset.step_seconds(Path(probe)))
            progress(f"{name}, seed {seed}: {steps} steps")
            train(config(steps), folder)
            flags = ["--tasks=image2depth", "--steps=1"] if args.smoke else ["--steps=8"]
            flags += [f"--scenes={args.scenes}", f"--source={folder}"]
            if evaluate([*flags, f"--out={folder / 'evaluation'}"]):
                raise SystemExit(f"{folder} could not be evaluated")
    rows = read_rows(folder / "evaluation")
    return {f"{row.task} {row.metric}": row for row in rows}


def difference(base: Sequence[float], other: Sequence[float]) -> tuple[float, float | None]:
    """Mean of other − base, paired, and half the width of its 95 % interval; None for one pair."""
    pairs = [b - a for a, b in zip(base, other, strict=True)]
    mean = statistics.fmean(pairs)
    if len(pairs) < 2:
        return mean, None
    spread = statistics.stdev(pairs) / len(pairs) ** 0.5
    return mean, float(stats.t.ppf(0.975, len(pairs) - 1)) * spread


def compared(
    found: Mapping[str, Sequence[Mapping[str, Result]]], name: str, measure: str
) -> tuple[float, float | None]:
    """`difference` of a variant to the preset in one measure."""
    values = ([seed[measure].value for seed in found[kind]] for kind in (BASE, name))
    return difference(*values)


def report(args: argparse.Namespace, found: Mapping[str, Sequence[Mapping[str, Result]]]) -> None:
    """Prints the table and a conclusion."""
    first, names = found[BASE][0], [name for name in found if name != BASE]
    rows, gains = [], dict.fromkeys(names, 0)
    for measure, result in first.items():
        if not all(measure in seed for seeds in found.values() for seed in seeds):
            continue  # another shape of rows may lack a task
        cells: list[object] = []
        for name in names:
            mean, half = compared(found, name, measure)
            sign = 1 if result.better == "higher" else -1
            sure = half is not None and abs(mean) > half
            gains[name] += sure and (1 if sign * mean > 0 else -1)
            mark = ("+" if sign * mean > 0 else "−") if sure else ""
            cells.append(f"{mean:.3g}" + ("" if half is None else f" ± {half:.2g} {mark}").rstrip())
        mean = statistics.fmean(seed[measure].value for seed in found[BASE])
        rows.append((f"{measure} {'↑' if result.better == 'higher' else '↓'}", mean, *cells))
    table((args.preset, BASE, *names), rows)
    with_controls = [m for m, row in first.items() if row.controls]
    print()
    beaten = {
        name: statistics.fmean(sum(s[m].beats_all for m in with_controls if m in s) for s in seeds)
        for name, seeds in found.items()
    }
    table(
        ("variant", f"of {len(with_controls)} lines beat every control", "better less worse lines"),
        ((name, count, gains.get(name, 0)) for name, count in beaten.items()),
    )
    best = max(beaten, key=lambda name: (beaten[name], gains.get(name, 0)))
    print(
        f"\nIn {args.minutes:g} minutes of training, {args.seeds} seeds each, {best} beats every "
        f"control on the most lines, {beaten[best]:.1f} of {len(with_controls)}."
    )


def plot(file: Path, found: Mapping[str, Sequence[Mapping[str, Result]]]) -> None:
    """Differences in percent of the preset's value, better to the right, one panel a variant."""
    import matplotlib.pyplot as plt

    names = [name for name in found if name != BASE]
    measures = [m for m in found[BASE][0] if all(m in s for seeds in found.values() for s in seeds)]
    width, height = 2.2 * len(names) + 3, 0.24 * len(measures) + 1.2
    figure, axes = plt.subplots(
        1, len(names), sharey=True, squeeze=False, figsize=(width, height), layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        for place, measure in enumerate(measures):
            base = statistics.fmean(seed[measure].value for seed in found[BASE]) or 1.0
            sign = 1 if found[BASE][0][measure].better == "higher" else -1
            mean, half = compared(found, name, measure)
            scale = 100 * sign / abs(base)
            colour = "tab:green" if sign * mean > 0 else "tab:red"
            axis.errorbar(mean * scale, place, xerr=abs((half or 0) * scale), fmt="o", color=colour)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("% better")
    axes[0][0].set_yticks(range(len(measures)), measures, fontsize=8)
    axes[0][0].invert_yaxis()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
