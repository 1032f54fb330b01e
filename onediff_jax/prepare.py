"""Prepare data for training.

    python -m onediff_jax.prepare --input=PATH --format=FORMAT --out=DIR      read, encode, write
    python -m onediff_jax.prepare --check=DIR                                 verify every record
    python -m onediff_jax.prepare --show=DIR [--out=FILE.png]                 draw random examples

Killed and run again with the same flags it goes on where it was; the output is the same bytes.
"""

import ast
import csv
import functools
import os
import sys
import traceback
from pathlib import Path

from absl import app, flags

from onediff_jax import exits
from onediff_jax.data import annotate
from onediff_jax.data.prepared import beam, check, local, manifest, parts
from onediff_jax.data.prepared.annotated import AnnotatedSource
from onediff_jax.data.prepared.fit import Fitting
from onediff_jax.data.prepared.plan import Encoders, Plan
from onediff_jax.data.prepared.split import read_names
from onediff_jax.data.prepared.workers import WorkerLost
from onediff_jax.data.prepared.writer import plan_hash
from onediff_jax.data.sources.base import BadData
from onediff_jax.data.sources.report import TooManyBadRecords
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet
from onediff_jax.tasks.own import load_own_tasks
from onediff_jax.tasks.roles import get_role

_INPUT = flags.DEFINE_string("input", None, "What to read: a folder, file or pattern.")
_FORMAT = flags.DEFINE_string("format", None, "How it is laid out; an unknown name lists all.")
_OPTION = flags.DEFINE_multi_string("option", [], "NAME=VALUE for the format; repeatable.")
_OUT = flags.DEFINE_string("out", None, "Folder to write; with --show a PNG file.")
_TASKS = flags.DEFINE_list(
    "tasks",
    [],
    "Tasks to write; from plain pictures also those whose condition can be computed. "
    "Default: those of the source.",
)
_OWN_TASKS = flags.DEFINE_string(
    "own_tasks", None, "FILE.json that defines tasks of your own, see docs/own_tasks.md."
)
_ASPECTS = flags.DEFINE_list("aspects", ["1:1", "4:3", "3:4"], "Shapes of pictures, width:height.")
_TOKENS = flags.DEFINE_integer("tokens", None, "Per picture, at most; 1 token is 16 × 16 pixels.")
_RESOLUTION = flags.DEFINE_integer("resolution", None, "Instead: side of a square picture, pixels.")
_ENCODER = flags.DEFINE_string("encoder", "light", "light: store pixels; or an autoencoder folder.")
_TEXT = flags.DEFINE_string("text", "none", "none: store captions; or a T5 folder: embeddings too.")
_ANNOTATE = flags.DEFINE_string(
    "annotate", "", "KIND=MODEL,…: conditions and captions that models find in plain pictures."
)
_ANNOTATE_LABELS = flags.DEFINE_list(
    "annotate_labels", [], "What --annotate=boxes=MODEL looks for; of a model with classes: which."
)
_MAX_LENGTH = flags.DEFINE_integer("max_length", 300, "Tokens per cached prompt.")
_BATCH = flags.DEFINE_integer("batch", 8, "Pictures per device and call of the encoder.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the encoders: float32 or bfloat16.")
_HELD_OUT = flags.DEFINE_float("held_out", 0.01, "Share kept from training, by content.")
_HELD_OUT_LIST = flags.DEFINE_string(
    "held_out_list", None, "Instead: a file of groups, keys or bare file names, one a line."
)
_MAX_BAD = flags.DEFINE_float("max_bad_share", 0.01, "Share of bad records at which it stops.")
_WORKERS = flags.DEFINE_integer(
    "workers", os.cpu_count() or 1, "Processes, or threads with networks."
)
_RUNNER = flags.DEFINE_string("runner", "local", "local, or an Apache Beam runner: DirectRunner, …")
_BEAM = flags.DEFINE_multi_string("beam", [], "A flag for Beam, e.g. --beam=--project=NAME.")
_CHECK = flags.DEFINE_string("check", None, "Prepared folder to verify.")
_OUTSIDE = flags.DEFINE_bool(
    "allow_outside", False, "Rows may name files outside the folder they are relative to, and URLs."
)
_VERBOSE = flags.DEFINE_bool("verbose", False, "Show where an error that nobody foresaw happened.")
_SHOW = flags.DEFINE_string("show", None, "Prepared folder to draw examples of.")


def main(argv: list[str]) -> None:
    """Parses flags; bad input ends with one message and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    try:
        if _CHECK.value:
            _check(Path(_CHECK.value))
        elif _SHOW.value:
            from onediff_jax.evaluation.prepared_sheet import draw_folder

            codec = None
            if _ENCODER.value != "light":
                from onediff_jax.experiment.encoders import AutoencoderCodec

                codec = AutoencoderCodec(_ENCODER.value)
            draw_folder(_SHOW.value, _OUT.value or f"{_SHOW.value}/sheet.png", codec=codec)
        else:
            _prepare()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(exits.INTERRUPTED.code)
    except (TooManyBadRecords, ImportError, BadData, csv.Error) as error:
        sys.exit(f"error: {error}")
    except (ValueError, OSError, WorkerLost) as error:
        exits.fail(error)
    except (TypeError, LookupError, RuntimeError) as error:
        # Nobody foresaw it; what a file made a library say is still one line.
        if _VERBOSE.value:
            traceback.print_exc()
        message = f"{type(error).__name__}: {error} (--verbose shows where)"
        exits.fail(RuntimeError(message))


def _required(flag: flags.FlagHolder) -> str:
    if flag.value is None:
        raise ValueError(f"--{flag.name} is required to prepare (or give --check or --show)")
    return flag.value


def _prepare() -> None:
    out = _required(_OUT)
    plan = _plan()
    encoders = plan.make_encoders()
    folder = Path(out)
    with local.claim(folder):
        fields = plan.fields(encoders)
        manifest.begin(folder, fields)
        shards = plan.source.shards()
        left = parts.survey(folder, shards, plan.source, plan_hash(folder))
        for line in parts.describe_left(left, len(shards)):
            print(line)
        print(f"{len(shards)} parts, {len(shards) - len(left)} of them done; writing to {folder}")
        if _RUNNER.value == "local":
            local.run(plan, encoders, folder, _WORKERS.value, list(left))
        else:
            beam.run(plan, folder, _RUNNER.value, _BEAM.value, list(left))
        spared, again = manifest.spare_one(folder, plan)
        if again:
            print("the share holds out nothing: one group or picture is held out all the same")
            local.run(spared, encoders, folder, _WORKERS.value, again)
        empty = encoders.text([""])[0].astype("float32").tolist() if encoders.text else None
        written = manifest.finish(folder, plan, fields, empty)
    if missing := sorted(plan.held_out_names - set(written["held_out_names"])):
        print(f"--held_out_list names {len(missing)} that no record has: {missing[:5]}")
    if left_over := check.not_read(folder):
        print(left_over)
    print(check.table(written))


def _plan() -> Plan:
    from onediff_jax.data.sources import open_source
    from onediff_jax.data.sources.files import several_splits

    if _TOKENS.value and _RESOLUTION.value:
        raise ValueError(
            f"--tokens={_TOKENS.value} and --resolution={_RESOLUTION.value} are two "
            "ways to say the same; give one"
        )
    if _RESOLUTION.value and (_RESOLUTION.value < 16 or _RESOLUTION.value % 16):
        raise ValueError(f"--resolution={_RESOLUTION.value} must be a positive multiple of 16")
    tokens = _TOKENS.value or (_RESOLUTION.value // 16 if _RESOLUTION.value else 16) ** 2
    models = annotate.parse(_ANNOTATE.value)
    if _ANNOTATE_LABELS.value and "boxes" not in models:
        raise ValueError("--annotate_labels goes with --annotate=boxes=MODEL")
    tasks = BUILT_IN if _OWN_TASKS.value is None else load_own_tasks(_OWN_TASKS.value)
    roles = tuple(annotate.ROLE_OF[kind] for kind in models if kind in annotate.ROLE_OF)
    options = {"allow_outside": _OUTSIDE.value, **_options(_OPTION.value)}
    kind, path = _required(_FORMAT), _required(_INPUT)
    source = open_source(kind, path, tasks=tasks, annotated=roles, **options)
    if mixed := several_splits(path):
        print(f"note: {mixed}")
    _check_obtainable(tasks, roles, options.get("task"))
    given: tuple[str, ...] = ()
    if models:
        labels = {"labels": _ANNOTATE_LABELS.value} if _ANNOTATE_LABELS.value else {}
        source = AnnotatedSource(source, models, tasks=tasks, **labels)
        given = source.gives
    fitting = Fitting(tuple(_TASKS.value), tuple(_ASPECTS.value), tokens, given, tasks)
    autoencoder = None if _ENCODER.value == "light" else _ENCODER.value
    text = None if _TEXT.value == "none" else _TEXT.value
    make = Encoders
    if autoencoder or text:
        from onediff_jax.experiment.encoders import (
            make_encoders,  # loads jax, which pixels do without
        )

        make = functools.partial(
            make_encoders,
            autoencoder,
            text,
            max_length=_MAX_LENGTH.value,
            batch=_BATCH.value,
            dtype=_DTYPE.value,
        )
    training = {
        "encoder": autoencoder or "light",
        "text": {
            "kind": "cached" if text else "hashed",
            "folder": text or "",
            "max_length": _MAX_LENGTH.value if text else None,
        },
    }
    return Plan(
        source,
        fitting,
        _HELD_OUT.value,
        _MAX_BAD.value,
        make,
        held_out_names=read_names(_HELD_OUT_LIST.value) if _HELD_OUT_LIST.value else frozenset(),
        spare_one=not flags.FLAGS["held_out"].present and not _HELD_OUT_LIST.value,
        training=training,
    )


def _check_obtainable(tasks: TaskSet, annotated: tuple[str, ...], of_source: object) -> None:
    """Raises ValueError for a wanted task of one's own whose frames will come from nowhere."""
    for task in tasks.own:
        if task.name not in _TASKS.value or task.name == of_source:
            continue
        for name in task.frames[1:]:
            if not (get_role(name).derived or name in annotated):
                raise ValueError(
                    f"--tasks={task.name}: role {name!r} cannot be derived from a picture; give "
                    f"its files by --format=paired (a folder {name}) or table (a column {name}) "
                    f"with --option=task={task.name}, or find it by --annotate"
                )


def _options(pairs: list[str]) -> dict[str, object]:
    """NAME=VALUE pairs; values that read as Python literals are taken as such."""
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--option={pair} must be NAME=VALUE")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def _check(folder: Path) -> None:
    problems, table = check.check_folder(folder, _WORKERS.value)
    print(table)
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:50])
        raise ValueError(f"{folder} has {len(problems)} problems:\n{shown}")
    print(f"{folder} is whole")


if __name__ == "__main__":
    with exits.foreseen():
        app.run(main)
