"""Evaluations side by side: the difference of every number, paired example by example."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onediff_jax.evaluation.report import number
from onediff_jax.evaluation.results import bootstrap_means, key_of
from onediff_jax.files import read_object


def compare(folders: Sequence[Path]) -> str:
    """A Markdown table of what two or more evaluations have in common.

    Differences are to the first folder, of the examples that both have where these differ; there is
    none across protocols. Where examples have values of their own, the interval is
    of the mean paired difference (95 %, bootstrap over examples); ✓ and ✗ mark one that lies wholly
    on the better or the worse side.

    Raises ValueError for fewer than two folders, one without metrics.json, or nothing in common.
    """
    if len(folders) < 2:
        raise ValueError(f"--compare needs two folders or more, got {[str(f) for f in folders]}")
    found = [read_object(folder / "metrics.json", "rows") for folder in folders]
    rows = [{key_of(row): row for row in values["rows"]} for values in found]
    common = [key for key in rows[0] if all(key in other for other in rows[1:])]
    if not common:
        raise ValueError(f"the evaluations of {[str(f) for f in folders]} have no number in common")
    names = [str(folder) for folder in folders]
    head = ["number", names[0]]
    for name in names[1:]:
        head += [name, "difference", "95 %", ""]
    lines = [head, ["---"] * len(head)]
    for key in common:
        line = [_arrow(key, rows[0][key]), number(rows[0][key]["value"])]
        for place in range(1, len(rows)):
            line += _against(key, rows, found, place)
        lines.append(line)
    left = sorted({key for each in rows for key in each} - set(common))
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return text + (f"\n\nNot in all of them: {len(left)} numbers." if left else "")


def _arrow(key: str, row: dict[str, Any]) -> str:
    return f"{key} {'↑' if row['better'] == 'higher' else '↓'}"


def _against(key: str, rows: list[dict], found: list[dict], place: int) -> list[str]:
    """Value, difference, interval and mark of one evaluation beside the first."""
    first, other = rows[0][key], rows[place][key]
    if first["value"] is None or other["value"] is None:
        return [number(other["value"]), "–", "", ""]
    if first["protocol"] != other["protocol"]:
        return [number(other["value"]), "–", "another protocol", ""]
    ours, theirs = (found[i].get("items", {}).get(key, {}) for i in (0, place))
    shared = [k for k in ours if ours[k] is not None and theirs.get(k) is not None]
    differences = np.array([theirs[k] - ours[k] for k in shared])
    interval = bootstrap_means(differences)
    if first["n"] == other["n"] and ours.keys() == theirs.keys():
        change = other["value"] - first["value"]
    elif shared:
        change = float(differences.mean())
    else:
        return [number(other["value"]), "–", f"n {first['n']} and {other['n']}", ""]
    cells = [number(other["value"]), number(change)]
    if interval is None:
        return [*cells, "", ""]
    low, high = interval
    better = low > 0 if first["better"] == "higher" else high < 0
    worse = high < 0 if first["better"] == "higher" else low > 0
    mark = "✓" if better else "✗" if worse else ""
    return [*cells, f"{number(low)} … {number(high)} (n {len(shared)})", mark]
