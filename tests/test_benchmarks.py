"""Every benchmark runs and prints its tables: at sizes whose numbers mean nothing."""

import argparse
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from onediff_jax.evaluation.results import Result

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "benchmarks.md"
SCRIPTS = ("world", "pipeline", "step", "against_torch", "checkpoint", "codec", "learning")


@pytest.fixture
def load(monkeypatch):
    """The globals of a script, with its neighbours importable as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: runpy.run_path(str(BENCHMARKS / f"{name}.py"))


def tables(text: str) -> list[list[list[str]]]:
    """Cells of every Markdown table."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[row.strip("| ").split(" | ") for row in table.splitlines()] for table in found]


def check(printed: str) -> None:
    """Whole tables of finite numbers, and a sentence at the end."""
    found = tables(printed)
    numbers = [cell for rows in found for row in rows[2:] for cell in row[1:]]
    cells = [c for c in numbers if re.fullmatch(r"-?[\d.,]+%?", c)]
    values = [float(c.replace(",", "").rstrip("%")) for c in cells]
    assert len(values) >= 2 and all(map(math.isfinite, values))
    for rows in found:
        assert len(rows) > 2 and {row.count("---") for row in rows[1:2]} == {len(rows[0])}
    assert printed.splitlines()[-1][-1] == "."


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_smoke(load, capsys, name):
    load(name)["main"](["--smoke"])
    check(capsys.readouterr().out)


@pytest.mark.slow
def test_smoke_of_a_gpu(load, capsys):
    """Rehearsed on the CPU: the kernel interpreted, PyTorch without its compiler."""
    load("gpu")["main"](["--smoke", "--only=kernels,base"])
    check(capsys.readouterr().out)


@pytest.mark.slow
def test_smoke_of_data():
    """In a process without jax: the loader that it compares with forks."""
    pytest.importorskip("torch")
    pytest.importorskip("webdataset")
    command = [sys.executable, str(BENCHMARKS / "data.py"), "--smoke"]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    check(
        subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    )


def test_what_a_variant_learns_more(load, capsys, tmp_path):
    """Of three seeds: the mean difference, and its interval where it tells it from nothing."""
    learning = load("learning")
    assert learning["difference"]([1.0], [3.0]) == (2.0, None)
    mean, half = learning["difference"]([1.0, 2.0, 3.0], [2.0, 3.5, 3.5])
    assert mean == 1.0 and half == pytest.approx(4.302653 * 0.5 / 3**0.5)

    def seeds(depth: list[float], psnr: list[float]) -> list[dict]:
        return [
            {
                "a abs_rel": Result(
                    "a", "d", "p", "abs_rel", x, 9, better="lower", controls={"c": 0.2}
                ),
                "b psnr": Result("b", "d", "p", "psnr", y, 9, controls={"c": 21.0}),
            }
            for x, y in zip(depth, psnr, strict=True)
        ]

    found = {"the preset": seeds([0.3, 0.3, 0.3], [20, 21, 22])}
    found["other"] = seeds([0.1, 0.11, 0.12], [20.5, 20.5, 22.5])
    learning["report"](argparse.Namespace(preset="tiny", minutes=5.0, seeds=3), found)
    printed = capsys.readouterr().out
    check(printed)
    rows, lines = tables(printed)
    assert rows[2:] == [
        ["a abs_rel ↓", "0.3", "-0.19 ± 0.025 +"],
        ["b psnr ↑", "21", "0.167 ± 1.4"],
    ]
    assert lines[2:] == [["the preset", "0.333", "0"], ["other", "1.33", "1"]]
    learning["plot"](tmp_path / "plot.png", found)
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_in_turn_leaves_out_the_first_round(load):
    order = []
    timing = load("timing")
    cost = timing["in_turn"]({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3 and set(cost) == {"a", "b"}
    costs = [timing["Cost"](w, c) for w, c in ((1, 9), (3, 2), (2, 4))]
    assert timing["median"](costs) == timing["Cost"](2, 4)


@pytest.mark.parametrize("size", [(4, 4), (2, 6)])
def test_psnr_of_flat_colours_is_that_of_rounding(load, size):
    import numpy as np

    flat = np.full((8 * size[0], 8 * size[1], 3), (200, 30, 90), np.uint8)
    assert load("codec")["psnr"]([flat]) > 60


def test_the_page_names_every_benchmark_and_nothing_else():
    named = set(re.findall(r"python benchmarks/(\w+)\.py", PAGE.read_text()))
    runnable = {p.stem for p in BENCHMARKS.glob("*.py") if "__main__" in p.read_text()}
    assert named == runnable
