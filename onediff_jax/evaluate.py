"""How good a model is: on held-out examples, on benchmarks, or files of any other system.

    python -m onediff_jax.evaluate --source=WORKDIR|FOLDER --out=DIR [--tasks=image2depth,…]
    python -m onediff_jax.evaluate --predictions=FOLDER --benchmark=NAME:FOLDER --out=DIR

Writes DIR/metrics.json, DIR/report.md and DIR/report.html, and prints the table. With --check it
exits with code 1 when something that is required of a trained model does not hold.
docs/evaluation.md says what is measured and how.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from onediff_jax import exits
from onediff_jax.evaluation.benchmarks.depth import ALIGNMENTS
from onediff_jax.evaluation.benchmarks.registry import BENCHMARKS, benchmark_of
from onediff_jax.evaluation.benchmarks.scoring import score_predictions
from onediff_jax.evaluation.report import FILES, Report, table, write_report
from onediff_jax.evaluation.scores.required import Check, HeldOutLoss, checks, held_out_loss
from onediff_jax.evaluation.scores.table import check_lines, markdown_table, report
from onediff_jax.evaluation.scoring import Evaluation, Settings, evaluate, world_of
from onediff_jax.sampling.source import Source, load_source
from onediff_jax.sampling.source_tasks import tasks_of_source

_FILES = ("report.md", "samples.png", "metrics.json")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(1, f"error: {message}\n")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    defaults = Settings()
    parser = _Parser(prog="python -m onediff_jax.evaluate", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--source", help="workdir of a run, or an exported folder")
    add("--out", required=True, help="folder for metrics.json, report.md and report.html")
    add("--predictions", help="files of any system in the benchmark's layout, instead of --source")
    add(
        "--benchmark",
        help=f"NAME:FOLDER, several with commas; names: {', '.join(BENCHMARKS)}",
    )
    add("--align", choices=ALIGNMENTS, default="auto", help="of depth to the truth; default: auto")
    add("--allow_missing", action="store_true", help="score although predictions are missing")
    add("--limit", type=int, help="only the first so many examples of each benchmark or folder")
    add("--tasks", help="comma-separated directions, e.g. image2depth; default: all trained")
    add("--scenes", type=int, default=defaults.scenes, help="held-out scenes per direction")
    add("--steps", type=int, default=defaults.steps, help="Euler steps")
    add("--guidance", type=float, default=defaults.guidance, help="of the prompt; 1 is off")
    add("--seed", type=int, default=defaults.seed, help="of the starting noise")
    add("--ema", type=_true_or_false, default=True, help="average weights (true) or raw (false)")
    step = "of a run's checkpoint; default: the newest"
    add("--step", "--checkpoint_step", type=int, help=step)
    add("--check", action="store_true", help="exit with code 1 when a requirement does not hold")
    return parser.parse_args(argv)


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
    return text.lower() == "true"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code. Bad input is one message and code 1."""
    options = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        if options.limit is not None and options.limit <= 0:
            raise ValueError(f"--limit={options.limit} must be positive")
        if options.predictions is not None:
            return _score_files(options)
        if options.source is None:
            raise ValueError("give --source (a model), or --predictions with --benchmark (files)")
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.of_error(error).code


def _score_files(options: argparse.Namespace) -> int:
    """--predictions: files of any system; no model, no jax."""
    if options.source is not None or options.benchmark is None:
        raise ValueError("--predictions goes with --benchmark=NAME:FOLDER, and not with --source")
    name, folder = benchmark_of(options.benchmark)
    out = _writable(Path(options.out))
    began = time.monotonic()
    scored = score_predictions(
        name,
        folder,
        Path(options.predictions),
        options={"align": options.align},
        allow_missing=options.allow_missing,
        limit=options.limit,
        progress=lambda things, total: tqdm(things, f"scoring {name}", total, dynamic_ncols=True),
    )
    rows = [row for part in scored for row in part.rows]
    notes = [note for part in scored for note in part.notes]
    seconds = time.monotonic() - began
    facts = [
        f"predictions: {options.predictions}",
        f"benchmark: {name} in {folder}; {seconds:.0f} s",
    ]
    settings = {k: getattr(options, k) for k in ("benchmark", "align", "allow_missing", "limit")}
    values = {
        "source": options.predictions,
        "step": None,
        "ema": None,
        "settings": settings,
        "missing": {part.rows[0].data: part.missing for part in scored if part.missing},
        "items": {part.rows[0].data: part.per_item for part in scored if part.per_item},
        "seconds": round(seconds, 1),
    }
    write_report(
        out, Report(f"{name}: {Path(options.predictions).name}", facts, rows, notes, values=values)
    )
    print(table(rows))
    print("\n".join(f"note: {note}" for note in notes))
    print(f"{seconds:.0f} s; wrote {', '.join(FILES)} in {out}")
    return 0


def _run(options: argparse.Namespace) -> int:
    tasks = None
    if options.tasks is not None:
        tasks = tuple(name.strip() for name in options.tasks.split(",") if name.strip())
        if not tasks:
            raise ValueError("--tasks names no task; leave it out for all")
        for name in tasks:
            tasks_of_source(options.source).find_direction(name)
    settings = Settings(tasks, options.scenes, options.steps, options.guidance, options.seed)
    out = _writable(Path(options.out))
    began = time.monotonic()
    source = load_source(options.source, ema=options.ema, step=options.step)
    weights = "average (EMA)" if options.ema else "raw"
    what = f"step {source.step}, {weights} weights" if source.step is not None else "an export"
    print(f"{source.path}: {what}", flush=True)
    found = evaluate(source, settings)
    losses = _losses(source, found)
    required = checks(found.rows, losses)
    seconds = time.monotonic() - began
    scenes = (
        f"{settings.scenes} held-out scenes per task, world level {world_of(source.experiment)[1]}"
    )
    chosen = f"{settings.steps} Euler steps, guidance {settings.guidance:g}, seed {settings.seed}"
    facts = [
        f"source: `{source.path}`, {what}",
        f"{scenes}; {chosen}; {seconds:.0f} s",
    ]
    name = source.experiment.config.name
    text = report(f"Evaluation of {name}", facts, found.rows, losses, required)
    (out / "report.md").write_text(text)
    Image.fromarray(found.sheet).save(out / "samples.png")
    values = {
        "source": str(source.path),
        "step": source.step,
        "ema": options.ema,
        "settings": dataclasses.asdict(settings),
        "seconds": round(seconds, 1),
        **_as_json(found, losses, required),
    }
    (out / "metrics.json").write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    print(markdown_table(found.rows))
    print(f"\n{check_lines(required)}\n\n{seconds:.0f} s; wrote {', '.join(_FILES)} in {out}")
    failed = [c for c in required if not c.passed]
    if options.check and (failed or not required):
        reason = check_lines(failed) or "nothing that was evaluated has a requirement"
        print(f"error: --check failed\n{reason}", file=sys.stderr)
        return 1
    return 0


def _writable(out: Path) -> Path:
    """The folder, made if needed; raises ValueError when it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return out
    except OSError as error:
        raise ValueError(f"out {out} cannot be written: {error.strerror}") from error


def _losses(source: Source, found: Evaluation) -> HeldOutLoss | None:
    """Held-out losses of the run, of the tasks that were evaluated."""
    losses = held_out_loss(source.path / "metrics.jsonl", source.step)
    if losses is None:
        return None
    directions = source.experiment.tasks
    tasks = {directions.find_direction(row.task)[0].name for row in found.rows}

    def only(values):
        return {name: value for name, value in values.items() if name in tasks}

    return dataclasses.replace(losses, early=only(losses.early), late=only(losses.late))


def _as_json(found: Evaluation, losses: HeldOutLoss | None, required: Sequence[Check]) -> dict:
    rows = [
        {
            "task": row.task,
            "metric": row.metric,
            "better": "higher" if row.higher else "lower",
            "model": _finite(row.model),
            "controls": {name: _finite(value) for name, value in row.controls.items()},
            "upper_bound": {name: _finite(value) for name, value in row.ceilings.items()},
            "beats_all": row.beats_all,
        }
        for row in found.rows
    ]
    return {
        "rows": rows,
        "held_out_loss": losses and {**dataclasses.asdict(losses), "ratio": losses.ratios()},
        "required": [dataclasses.asdict(check) for check in required],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
