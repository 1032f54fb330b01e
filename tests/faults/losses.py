"""Data and settings that spoil a loss."""

import json
from pathlib import Path

from tests.faults import commands
from tests.faults.commands import Command, run

LONG = 32  # steps: a loss is outlying to twenty earlier ones
SKIPS = 64  # what a step may be is known from step 50 on


def spoiled(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """An example whose latents are not numbers, or far too large: it is named and left out, or
    ("skip") its steps are; and a run that was also killed ends with the same bits.
    """
    factor = float("nan") if kind == "nan" else 1e4
    steps = {"nan": commands.STEPS, "outlier": LONG, "skip": SKIPS}[kind]
    example = f"faceid/{int(rounds.rng.integers(64))}"
    bad = commands.training(
        f"--config.train.on_spike={'skip' if kind == 'skip' else 'rewind'}",
        name=f"train {kind} {example.replace('/', ' ')}",
        steps=steps,
        spoil=(example, factor),
    )
    whole = rounds.straight(bad)
    named = set()
    for line in (whole / "incidents.jsonl").read_text().splitlines() if _seen(whole) else ():
        named |= {found["example"] for found in json.loads(line)["examples"]}
    met = _left_out(whole, steps)
    if named - {example} or set(met) != (set() if kind == "skip" else named):
        return example, "wrong", f"named {sorted(named)}, left out {met}"
    folder = place / "train"
    first = run(bad, folder, place / "log", at=rounds.moment(bad), do="kill")
    return f"{example}, met {len(met)} times", *rounds.again(bad, folder, place, first)


def _seen(folder: Path) -> bool:
    return (folder / "incidents.jsonl").exists()


def _left_out(folder: Path, steps: int) -> list[str]:
    """What the last checkpoint says."""
    texts = json.loads((folder / "checkpoints" / str(steps) / "data/_strings.json").read_text())
    return [text for name, text in texts.items() if name.startswith("left_out.")]


def rate(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """A learning rate of 1e20: the run ends, says why, and its checkpoints can be read."""
    folder = place / "train"
    fast = commands.training(
        "--config.optim.learning_rate=1e20",
        f"--config.optim.eps={10.0 ** -int(rounds.rng.integers(4, 9))}",
        name="train fast",
        steps=40,
    )
    ended = run(fast, folder, place / "log")
    if ended.code != 1 or "Lower optim.learning_rate" not in ended.err:
        return "", "wrong", f"exit {ended.code}: {ended.said}"
    checked = run(
        Command("verify", "onediff_jax.checkpoint", lambda out: ["verify", str(out)], None),
        folder,
        place / "log",
    )
    return "", ("refused" if checked.code == 0 else "wrong"), ended.said
