"""What the model card of a run says beside its tasks: samples, figures, how it was trained."""

import re
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from onediff_jax.evaluation.report import table
from onediff_jax.evaluation.results import read_rows
from onediff_jax.evaluation.steps import at_chosen_steps
from onediff_jax.exporting.place import ExportError
from onediff_jax.files import read_object
from onediff_jax.run.workdir import versions

SAMPLES = "samples.png"
_HUB_ID = re.compile(r"[\w-]+/[\w.-]+")
_LICENSE = re.compile(r"[a-z0-9.-]+")


def check_license(name: str) -> None:
    """Raises ValueError for what is no identifier of a licence, as the hub names them."""
    if name and not _LICENSE.fullmatch(name):
        raise ValueError(f"license={name!r} must be an identifier like apache-2.0 or cc-by-nc-4.0")


def find_evaluation(source: Path, named: str | None, *, step: int, ema: bool) -> Path | None:
    """The evaluation of the exported weights: `named`, else that in the workdir, else None.

    Raises ExportError where the named folder has none of these weights.
    """
    folder = Path(named) if named else source / "evaluation"
    if not named and not (folder / "metrics.json").is_file():
        return None
    try:
        measured = read_object(folder / "metrics.json", "rows")
    except (ValueError, OSError) as error:
        if named is None:
            return None
        raise ExportError(f"--evaluation={folder} is no evaluation: {error}") from error
    found = measured.get("step"), measured.get("ema")
    if found == (step, ema):
        return folder
    if named is None:
        return None
    kinds = {True: "averaged", False: "raw", None: "unknown"}
    raise ExportError(
        f"--evaluation={folder} measured the {kinds[found[1]]} weights of step {found[0]}, and the "
        f"{kinds[ema]} ones of step {step} are exported"
    )


def chosen_steps(evaluation: Path | None) -> dict[str, int]:
    """Direction → Euler steps, where the evaluation tried several numbers."""
    if evaluation is None:
        return {}
    found = read_object(evaluation / "metrics.json", "rows").get("chosen_steps", {})
    return {name: int(steps) for name, steps in found.items()}


def front_matter(
    base: str, license: str, *, samples: bool = False, relation: str = "finetune"
) -> str:
    """Lines of the card's YAML that the hub reads: licence, base model, an example.

    Args:
      base: what training started from; only a hub id is told.
      relation: of the weights to it, as the hub names it.
    """
    lines = [f"license: {license}"] if license else []
    if _is_hub_id(base):
        lines += [f"base_model: {base}", f"base_model_relation: {relation}"]
    if samples:
        lines += ["widget:", '- text: "held-out examples of every task"']
        lines += ["  output:", f"    url: {SAMPLES}"]
    return "".join(f"{line}\n" for line in lines)


def sections(folder: Path, config: ConfigDict, evaluation: Path | None) -> str:
    """Sections of Markdown for the card in `folder`, to which the sheet of samples is copied."""
    parts = []
    if evaluation is not None and (evaluation / SAMPLES).is_file():
        shutil.copyfile(evaluation / SAMPLES, folder / SAMPLES)
        parts += ["## Samples", f"![Held-out examples of every task]({SAMPLES})"]
    if evaluation is not None:
        measured = read_object(evaluation / "metrics.json", "rows")
        rows = at_chosen_steps(read_rows(evaluation), chosen_steps(evaluation))
        parts += ["## How good it is", _conditions(measured), table(rows)]
    parts += ["## Training", _training(config)]
    return "\n\n".join(parts) + "\n"


def _is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def _conditions(measured: dict[str, Any]) -> str:
    rows, settings = measured["rows"], measured.get("settings", {})
    protocols = sorted({str(row["protocol"]) for row in rows})
    told = [f"guidance {settings['guidance']:g}"] if "guidance" in settings else []
    told += [f"seed {settings['seed']}"] if "seed" in settings else []
    return (
        f"Measured with `python -m onediff_jax.evaluate` ({', '.join([*told, *protocols])}); "
        "intervals are bootstrapped, 95 %. Controls are what one gets without learning."
    )


def _training(config: ConfigDict) -> str:
    """Data and settings, without the folders of the machine that it ran on."""
    data, train, optim, flow = config.data, config.train, config.optim, config.flow
    if data.name == "world":
        pictures = f"the embedded world ({data.level}), {data.scenes:,} scenes per task"
    else:
        names = [f"{Path(folder).name} (weight {weight:g})" for folder, weight in data.folders]
        pictures = ", ".join(names)
    start = config.init_from
    base = start if _is_hub_id(start) else Path(start).name
    tasks = ", ".join(f"{name} {weight:g}" for name, weight in data.tasks.items() if weight)
    slots = ", ".join(f"{count} × {group} of {n}" for group, count, n, _ in config.rows)
    rows = [
        ("data", pictures),
        ("starts from", base or "random values"),
        ("a step", f"{train.batch_rows * train.accumulate} rows of {slots} frames"),
        ("optimizer", f"{optim.name}, peak {optim.learning_rate:g}, {optim.schedule}"),
        ("noise", f"{flow.distribution}, shift {flow.shift:g}"),
        ("weights of tasks, within their group", tasks),
        ("seed", str(config.seed)),
        (
            "versions, at the export",
            ", ".join(f"{name} {version}" for name, version in versions().items()),
        ),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines, "", "`onediff_jax.json` has every setting."])
