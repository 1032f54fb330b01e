"""The table of scores, as Markdown that also reads well on a console."""

from collections.abc import Sequence

from onediff_jax.evaluation.scores.case import Row
from onediff_jax.evaluation.scores.required import Check, HeldOutLoss

_HEAD = ("task", "metric", "model", "beats all", "controls", "upper bound")
_READING = """\
Every line is one thing measured on held-out scenes: pictures the model never saw in training.

- **task**: what was asked; `image2depth` means a picture was given and its depth map generated.
- **metric**: ↑ more is better, ↓ less is better.
- **beats all**: ✓ when the model is better than every control of its line.
- **controls**: what one gets without learning (a constant, an average of training examples, the
  input itself) or without using what was given (the wrong condition, another scene's result).
- **upper bound**: the score of the truth itself, and of the truth squeezed through the codec that
  stands between pixels and the model; no model does better than that.
"""


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows, columns aligned with spaces."""
    cells = [_HEAD, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.task,
        f"{row.metric} {'↑' if row.higher else '↓'}",
        _number(row.model),
        ("✓" if row.beats_all else "–") if row.controls else "",
        _values(row.controls),
        _values(row.ceilings),
    )


def _values(values: dict[str, float]) -> str:
    return " · ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: float) -> str:
    """Digits that matter: 0.124, 14.78, 120.3."""
    places = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:.{places}f}"


def loss_table(losses: HeldOutLoss) -> str:
    """Held-out loss per task, early and late."""
    lines = [
        f"| task | step {losses.early_step} | step {losses.late_step} | ratio ↓ |",
        "|---|---|---|---|",
    ]
    for task, ratio in losses.ratios().items():
        early, late = losses.early[task], losses.late[task]
        lines.append(f"| {task} | {early:.3f} | {late:.3f} | {ratio:.2f} |")
    return "\n".join(lines)


def check_lines(checks: Sequence[Check]) -> str:
    """One line per requirement."""
    return "\n".join(f"- {'✓' if c.passed else '✗'} {c.name}: {c.text}" for c in checks)


def report(
    title: str,
    facts: Sequence[str],
    rows: Sequence[Row],
    losses: HeldOutLoss | None,
    checks: Sequence[Check],
) -> str:
    """The whole report."""
    beaten = sum(row.beats_all for row in rows if row.controls)
    parts = [
        f"# {title}",
        "\n".join(f"- {fact}" for fact in facts),
        _READING.strip(),
        markdown_table(rows),
        f"The model beats every control on {beaten} of {len(rows)} lines.",
        "![given, generated and true pictures of every task](samples.png)",
        "## Held-out loss",
        loss_table(losses)
        if losses
        else "Not known: metrics.jsonl of the run holds fewer than two evaluations up to here.",
        "## Required of a trained model",
        check_lines(checks) or "None of the evaluated tasks has a requirement.",
    ]
    return "\n\n".join(parts) + "\n"
