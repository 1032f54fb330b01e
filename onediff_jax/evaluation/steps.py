"""How many Euler steps a direction needs: its measures against steps."""

import math
from collections.abc import Callable, Mapping, Sequence

from onediff_jax.evaluation.report import number
from onediff_jax.evaluation.results import Result

TOLERANCE = 0.01  # of a measure's best value


def by_steps(rows: Sequence[Result]) -> dict[tuple[str, str, str], dict[int, Result]]:
    """(direction, data, metric) → its row for each number of steps, where there are several."""
    found: dict[tuple[str, str, str], dict[int, Result]] = {}
    for row in rows:
        if row.steps is not None:
            found.setdefault((row.task, row.data, row.metric), {})[row.steps] = row
    return {key: values for key, values in found.items() if len(values) > 1}


def fewest_steps(rows: Sequence[Result], chooses: Callable[[str], bool]) -> dict[str, int]:
    """Direction → the fewest steps with which every measure of it is within 1 % of its best value.

    Args:
      chooses: whether a direction's steps are chosen so. Those of pictures should not be: with few
        steps they are blurred, which most measures like.
    """
    needed: dict[str, int] = {}
    for (task, _, _), measured in by_steps(rows).items():
        known = {steps: row for steps, row in measured.items() if math.isfinite(row.value)}
        if known and chooses(task):
            enough = min(steps for steps in known if _enough(known, steps))
            needed[task] = max(enough, needed.get(task, 0))
    return needed


def _enough(measured: dict[int, Result], steps: int) -> bool:
    values = [row.value for row in measured.values()]
    higher = measured[steps].better == "higher"
    best = max(values) if higher else min(values)
    lost = best - measured[steps].value if higher else measured[steps].value - best
    return lost <= TOLERANCE * abs(best)


def at_chosen_steps(rows: Sequence[Result], chosen: Mapping[str, int]) -> list[Result]:
    """The rows with each measure once: with its direction's chosen steps, else with the most."""
    several = by_steps(rows)
    found = []
    for row in rows:
        measured = several.get((row.task, row.data, row.metric))
        wanted = chosen.get(row.task)
        if measured is None or row.steps == (wanted if wanted in measured else max(measured)):
            found.append(row)
    return found


def steps_table(rows: Sequence[Result], chosen: dict[str, int]) -> str:
    """Markdown: a line per measure, a column per number of steps; what is chosen is bold."""
    measures = by_steps(rows)
    columns = sorted({steps for measured in measures.values() for steps in measured})
    lines = [
        "| direction | data | measure | " + " | ".join(map(str, columns)) + " |",
        "|---" * (3 + len(columns)) + "|",
    ]
    for (task, data, metric), measured in measures.items():
        arrow = "↑" if next(iter(measured.values())).better == "higher" else "↓"
        cells = []
        for steps in columns:
            text = number(measured[steps].value) if steps in measured else ""
            cells.append(f"**{text}**" if text and chosen.get(task) == steps else text)
        lines.append(f"| {task} | {data} | {metric} {arrow} | " + " | ".join(cells) + " |")
    says = (
        "Bold: the fewest steps with which every measure of a direction is within 1 % of its best;"
    )
    says += " directions that generate pictures keep their steps."
    return "\n".join([says, "", *lines])
