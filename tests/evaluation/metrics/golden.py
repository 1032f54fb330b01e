"""Inputs and outputs of the official evaluation codes, recorded; see the json files' sources."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "golden" / "metrics"


def described(metric: str) -> dict:
    return json.loads((FOLDER / f"{metric}.json").read_text())


def cases(metric: str, *names: str) -> list[tuple[str, dict, dict, dict]]:
    """(name, params, out, arrays) of the recorded cases; of those whose name starts with one."""
    path = FOLDER / f"{metric}.npz"
    arrays = np.load(path) if path.exists() else {}
    return [
        (
            name,
            case["params"],
            {key: number(value) for key, value in case["out"].items()},
            {a: arrays[f"{name}.{a}"] for a in case["arrays"]},
        )
        for name, case in described(metric)["cases"].items()
        if not names or name.startswith(names)
    ]


def number(value):
    return float(value) if value in ("nan", "inf", "-inf") else value


def same(found, wanted, rtol=0.0, atol=0.0):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, equal_nan=True)
