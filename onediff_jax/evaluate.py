"""How good a model is: on held-out examples, on benchmarks, or files of any other system.

    python -m onediff_jax.evaluate --source=WORKDIR|FOLDER --out=DIR [--tasks=image2depth,…]
    python -m onediff_jax.evaluate --predictions=FOLDER --benchmark=NAME:FOLDER --out=DIR
    python -m onediff_jax.evaluate --compare=DIR,DIR --out=DIR
    python -m onediff_jax.evaluate --table=DIR

Writes DIR/metrics.json, DIR/report.md and DIR/report.html, and prints the table. With --check it
exits with code 1 when something that is required of a trained model does not hold.
docs/evaluation.md says what is measured and how.
"""

import argparse
import contextlib
import dataclasses
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from onediff_jax import exits
from onediff_jax.evaluation.benchmarks.depth import ALIGNMENTS
from onediff_jax.evaluation.benchmarks.registry import BENCHMARKS, benchmark_of
from onediff_jax.evaluation.benchmarks.scoring import score_predictions
from onediff_jax.evaluation.compare import compare
from onediff_jax.evaluation.networks import FLAGS, HELP, open_networks
from onediff_jax.evaluation.of_model import Found, on_benchmarks, on_folders, on_world
from onediff_jax.evaluation.report import FILES, Report, table, table_page, write_report
from onediff_jax.evaluation.results import read_rows
from onediff_jax.evaluation.scores.required import HeldOutLoss, checks, held_out_loss
from onediff_jax.evaluation.scores.table import check_lines, loss_table, noise_table
from onediff_jax.evaluation.scoring import Settings
from onediff_jax.evaluation.steps import by_steps, fewest_steps, steps_table
from onediff_jax.evaluation.stored import PART_NAME
from onediff_jax.files import replace_file
from onediff_jax.sampling.source import Source, load_source
from onediff_jax.sampling.source_tasks import tasks_of_source


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(1, f"error: {message}\n")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    defaults = Settings()
    parser = _Parser(prog="python -m onediff_jax.evaluate", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--source", help="workdir of a run, or an exported folder")
    add("--out", help="folder for metrics.json, report.md and report.html")
    add("--table", help="folder of an evaluation: prints its numbers in Markdown, nothing else")
    add("--compare", help="folders of evaluations, with commas: paired differences to the first")
    add("--predictions", help="files of any system in the benchmark's layout, instead of --source")
    add(
        "--benchmark",
        help=f"NAME:FOLDER, several with commas; names: {', '.join(BENCHMARKS)}",
    )
    add("--data", help="prepared folders, several with commas; default: the run's own data")
    add("--write_predictions", action="store_true", help="keep a benchmark's predictions as files")
    add("--align", choices=ALIGNMENTS, default="auto", help="of depth to the truth; default: auto")
    add("--allow_missing", action="store_true", help="score although predictions are missing")
    for flag in FLAGS:
        add(f"--{flag}", help=f"network for measures that need it: {HELP[flag]}")
    add("--limit", type=int, help="only the first so many examples of each benchmark or folder")
    add("--tasks", help="comma-separated directions, e.g. image2depth; default: all trained")
    add("--scenes", type=int, default=defaults.scenes, help="held-out scenes per direction")
    add("--steps", default=str(defaults.steps), help="Euler steps; several with commas")
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
        if options.table is not None:
            print(table(read_rows(Path(options.table))))
            return 0
        if options.out is None:
            raise ValueError("--out is missing: the folder for metrics.json and the report")
        if options.compare is not None:
            return _compare(options)
        if options.predictions is not None:
            return _score_files(options)
        if options.source is None:
            raise ValueError("give --source (a model), or --predictions with --benchmark (files)")
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.of_error(error).code


def _compare(options: argparse.Namespace) -> int:
    """--compare: evaluations that are there, side by side."""
    folders = [Path(part) for part in _listed(options.compare)]
    found = compare(folders)
    out = _writable(Path(options.out))
    replace_file(out / "compare.md", (found + "\n").encode())
    replace_file(out / "compare.html", table_page("Evaluations compared", found).encode())
    print(f"{found}\n\nwrote compare.md, compare.html in {out}")
    return 0


def _score_files(options: argparse.Namespace) -> int:
    """--predictions: files of any system; no model, no jax."""
    if options.source is not None or options.benchmark is None:
        raise ValueError("--predictions goes with --benchmark=NAME:FOLDER, and not with --source")
    if options.data is not None or options.tasks is not None:
        raise ValueError("--data and --tasks are of a model's evaluation, not of --predictions")
    name, folder = benchmark_of(options.benchmark)
    out = _writable(Path(options.out))
    began = time.monotonic()
    scored = score_predictions(
        name,
        folder,
        Path(options.predictions),
        options={"align": options.align, **open_networks(vars(options))},
        allow_missing=options.allow_missing,
        limit=options.limit,
        progress=lambda things, total: tqdm(things, f"scoring {name}", total, dynamic_ncols=True),
    )
    rows = [row for part in scored for row in part.rows]
    notes = [note for part in scored for note in part.notes]
    galleries = [gallery for part in scored for gallery in part.galleries]
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
        "seconds": round(seconds, 1),
    }
    title = f"{name}: {Path(options.predictions).name}"
    write_report(out, Report(title, facts, rows, notes, galleries=galleries, values=values))
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
    steps = _numbers(options.steps)
    worlds = [
        Settings(tasks, options.limit or options.scenes, n, options.guidance, options.seed)
        for n in steps
    ]
    benchmarks = [benchmark_of(text) for text in _listed(options.benchmark)]
    if benchmarks and (options.data is not None or tasks is not None):
        raise ValueError("--benchmark says what is asked: it does not go with --data or --tasks")
    out = _writable(Path(options.out))
    began = time.monotonic()
    source = load_source(options.source, ema=options.ema, step=options.step).on_all_devices()
    weights = "average (EMA)" if options.ema else "raw"
    what = f"step {source.step}, {weights} weights" if source.step is not None else "an export"
    print(f"{source.path}: {what}", flush=True)
    found = _found(options, source, tasks, steps, worlds, benchmarks, out)
    losses = None if benchmarks else _losses(source, {row.task for row in found.rows})
    required = checks(found.world, losses) if found.world else []
    seconds = time.monotonic() - began
    counts = ", ".join(map(str, steps))
    chosen = f"{counts} Euler steps, guidance {options.guidance:g}, seed {options.seed}"
    facts = [
        f"source: {source.path}, {what}",
        *found.facts,
        f"{chosen}; {seconds:.0f} s",
    ]
    sections = []
    if losses and not found.world:
        sections = [("Held-out loss", loss_table(losses))]
    if found.world:
        unknown = "Not known: metrics.jsonl of the run holds fewer than two evaluations up to here."
        sections = [
            ("Held-out loss", loss_table(losses) if losses else unknown),
            (
                "Required of a trained model",
                check_lines(required) or "None of the evaluated tasks has a requirement.",
            ),
        ]
    chosen_steps: dict[str, int] = {}
    if by_steps(found.rows):
        chosen_steps = fewest_steps(found.rows, source.experiment.tasks.perceives)
        sections.append(("Steps", steps_table(found.rows, chosen_steps)))
    if losses and losses.by_noise:
        sections.insert(1, ("Held-out loss by noise level", noise_table(losses)))
    settings = {k: getattr(options, k) for k in _SETTINGS} | {"tasks": tasks, "steps": steps}
    values = {
        "source": str(source.path),
        "step": source.step,
        "ema": options.ema,
        "settings": settings,
        "missing": found.missing,
        "chosen_steps": chosen_steps,
        "seconds": round(seconds, 1),
        "held_out_loss": losses and {**dataclasses.asdict(losses), "ratio": losses.ratios()},
        "required": [dataclasses.asdict(check) for check in required],
    }
    title = f"Evaluation of {source.experiment.config.name}"
    made = Report(title, facts, found.rows, found.notes, sections, found.galleries, values)
    write_report(out, made)
    _clear(out, [] if options.write_predictions or found.kept else found.made)
    print(table(found.rows))
    print("".join(f"\nnote: {note}" for note in found.notes))
    print(f"{check_lines(required)}\n\n{seconds:.0f} s; wrote {', '.join(FILES)} in {out}")
    failed = [c for c in required if not c.passed]
    if options.check and (failed or not required):
        reason = check_lines(failed) or "nothing that was evaluated has a requirement"
        print(f"error: --check failed\n{reason}", file=sys.stderr)
        return 1
    return 0


def _clear(out: Path, predictions: Sequence[Path]) -> None:
    """Removes what is of no use once everything is scored, and nothing that others wrote there."""
    for file in (out / "parts").glob("*.npz"):
        if re.fullmatch(PART_NAME, file.stem):
            file.unlink()
    emptied = [out / "parts"]
    for folder in predictions:
        shutil.rmtree(folder, ignore_errors=True)
        emptied += [parent for parent in folder.parents if out in parent.parents]
    for folder in emptied:
        with contextlib.suppress(OSError):  # it is not there, or holds something else
            folder.rmdir()


_SETTINGS = ("scenes", "limit", "guidance", "seed", "data", "benchmark", "align", "allow_missing")


def _found(options, source: Source, tasks, steps, worlds, benchmarks, out: Path) -> Found:
    """The evaluation on what was asked for; without a word the run's own held-out data."""
    shared = {"steps": steps, "guidance": options.guidance, "seed": options.seed}
    if benchmarks:
        networks = open_networks(vars(options))
        return on_benchmarks(
            source, benchmarks, out, limit=options.limit, networks=networks, **shared
        )
    data = source.experiment.config.data
    folders, split = [Path(p) for p in _listed(options.data)], "held_out"
    if not folders and data.name == "world":
        found = on_world(source, worlds)
        if found.sheet is not None:
            Image.fromarray(found.sheet).save(out / "samples.png")
        return found
    if not folders:
        folders, split = [Path(folder) for folder, _ in data.folders], data.evaluate_on
        if gone := [str(path) for path in folders if not path.is_dir()]:
            raise ValueError(f"the run's own data {gone} is not there; give --data=FOLDER,…")
    limit = options.limit or options.scenes
    return on_folders(source, folders, out, split=split, tasks=tasks, limit=limit, **shared)


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in _listed(text)]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise ValueError(
            f"--steps={text} must be one positive whole number, or several with commas"
        )
    return list(dict.fromkeys(found))


def _writable(out: Path) -> Path:
    """The folder, made if needed; raises ValueError when it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return out
    except OSError as error:
        raise ValueError(f"out {out} cannot be written: {error.strerror}") from error


def _losses(source: Source, directions: Iterable[str]) -> HeldOutLoss | None:
    """Held-out losses of the run, of the tasks that were evaluated."""
    losses = held_out_loss(source.path / "metrics.jsonl", source.step)
    tasks = {source.experiment.tasks.find_direction(name)[0].name for name in directions}

    def only(values):
        return {name: value for name, value in values.items() if name in tasks}

    kinds = ("early", "late", "by_noise")
    return losses and dataclasses.replace(losses, **{k: only(getattr(losses, k)) for k in kinds})


if __name__ == "__main__":
    with exits.foreseen():
        sys.exit(main())
