"""Every benchmark runs and prints its tables: at sizes whose numbers mean nothing."""

import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "benchmarks.md"
SCRIPTS = ("world", "pipeline", "step", "against_torch", "checkpoint", "codec")


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
