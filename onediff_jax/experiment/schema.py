"""The settings of an experiment: every field of a config, once (fields_*.py).

Types, units, ranges and choices, what older runs meant that lack a field, which fields change the
data stream, which may change between two starts of one run: what checks configs, upgrades old ones
(experiment/checks.py) and compares runs asks this table, and docs/settings.md is written from it:

    python -m onediff_jax.experiment.schema > docs/settings.md
"""

from onediff_jax.experiment import fields_data, fields_running, fields_training
from onediff_jax.experiment.field import REQUIRED, Field, Range
from onediff_jax.experiment.fields_training import MOMENTS, STATE_BYTES

SECTIONS = {
    "": "The run",
    "model": "The network and how it is computed",
    "text": "Prompts",
    "data": "Pictures",
    "flow": "Noise levels and the loss",
    "train": "Steps and batches",
    "optim": "The optimizer and the learning rate",
    "ema": "The moving average of the weights, which is what is sampled and exported",
    "checkpoint": "Checkpoints",
    "log": "Metrics, held-out losses, samples, profiles",
    "mesh": "How the devices share the work",
    "lora": "Adapters (only where they are trained; the section may be missing)",
}
OPTIONAL_SECTIONS = ("lora",)
FIELDS = (*fields_data.FIELDS, *fields_training.FIELDS, *fields_running.FIELDS)
BY_PATH = {field.path: field for field in FIELDS}


def section_fields(section: str) -> dict[str, Field]:
    """The fields of a section by name; "" for those of the config itself."""
    return {field.name: field for field in FIELDS if field.section == section}


def field_of(path: str) -> Field | None:
    """The field that a path is of or in ("data.tasks.faceid" is in "data.tasks"); None: unknown."""
    if path in BY_PATH:
        return BY_PATH[path]
    if path.startswith("data.own_tasks."):
        return BY_PATH["data.own_tasks"]
    parent = BY_PATH.get(path.rpartition(".")[0])
    return parent if parent is not None and parent.kind == "weights" else None


def is_free(path: str) -> bool:
    """Whether a field may differ between two starts of one run."""
    field = field_of(path)
    return field is not None and field.free


def is_rounding(path: str) -> bool:
    """Whether a field changes rounding alone."""
    field = field_of(path)
    return field is not None and field.rounding


def table() -> str:
    """The text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Every field of a config. `--config.section.field=VALUE` sets one, `--print` shows them",
        "resolved. *stream*: the field changes which rows are trained on, and a checkpoint goes on",
        "with the same value only; *free*: it may change between two starts of one run;",
        "*rounding*: it may with `--accept_changes`. Older runs that lack a field go on with the",
        "value named last. This page is written from",
        "`onediff_jax/experiment/fields_*.py`.",
    ]
    for section, title in SECTIONS.items():
        lines += ["", f"## {f'{section}: ' if section else ''}{title}", ""]
        lines += ["| field | type | values | what | |", "|---|---|---|---|---|"]
        lines += [_line(field) for field in section_fields(section).values()]
        if section == "optim":
            lines += _state_bytes()
    return "\n".join(lines) + "\n"


def _state_bytes() -> list[str]:
    lines = [
        "",
        "Weights, their moving average and the optimizer's moments take, in bytes per parameter",
        "(`--print` says it of a config; muon of matrices, the rest as adamw; optax keeps no",
        "moments in 8 bits):",
        "",
        "| optim.name | " + " | ".join(f"moments in {dtype}" for dtype in MOMENTS) + " |",
        "|---|" + "---|" * len(MOMENTS),
    ]
    return lines + [
        f"| {name} | " + " | ".join(map(str, sizes)) + " |" for name, sizes in STATE_BYTES.items()
    ]


def _line(field: Field) -> str:
    if isinstance(field.allowed, Range):
        values = field.allowed.says + (f" {field.unit}" if field.unit else "")
    else:
        values = ", ".join(field.allowed or ())
    values += ", or None" if field.none else ""
    notes = [f"{field.only} data" if field.only else ""]
    notes += ["stream" if field.stream else "", "free" if field.free else ""]
    notes += ["rounding" if field.rounding else ""]
    notes += ["" if field.lacking is REQUIRED else f"lacking: `{field.lacking!r}`"]
    notes = "; ".join(filter(None, notes))
    return f"| `{field.path}` | {field.kind} | {values} | {field.says} | {notes} |"


if __name__ == "__main__":
    print(table(), end="")
