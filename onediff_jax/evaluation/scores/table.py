"""Held-out losses and requirements, as Markdown that also reads well on a console."""

from collections.abc import Sequence

from onediff_jax.evaluation.scores.required import Check, HeldOutLoss


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


def noise_table(losses: HeldOutLoss) -> str:
    """The late losses per task and noise level; a dash where no example had the level."""
    levels = sorted({level for found in losses.by_noise.values() for level in found})
    lines = [
        "| task | " + " | ".join(f"σ {level:.2f}" for level in levels) + " |",
        "|---" * (len(levels) + 1) + "|",
    ]
    for task, found in losses.by_noise.items():
        values = [f"{found[level]:.3f}" if level in found else "–" for level in levels]
        lines.append(f"| {task} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def check_lines(checks: Sequence[Check]) -> str:
    """One line per requirement."""
    return "\n".join(f"- {'✓' if c.passed else '✗'} {c.name}: {c.text}" for c in checks)
