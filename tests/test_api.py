"""The Python API: the notebook runs as it stands, and the documentation names what there is."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from onediff_jax import api

ROOT = Path(__file__).parents[1]


def test_the_notebook_runs(monkeypatch, capsys):
    """Every cell, in order, in one namespace, as a kernel would; with fewer steps."""
    notebook = json.loads((ROOT / "examples/quickstart.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert not any(c.get("outputs") for c in notebook["cells"]), "store it without outputs"
    monkeypatch.chdir(ROOT / "examples")
    names: dict = {}
    for cell in cells:
        *body, last = ast.parse(cell).body
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        names["steps"] = 2
        if not isinstance(last, ast.Expr):
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
            continue
        shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if shown is not None:
            assert shown.height == 3 * 64 and np.asarray(shown).std() > 5
    out = capsys.readouterr().out
    assert "depth2image: depth map → picture" in out and "depth.npy" in out


def test_the_documentation_names_every_name():
    text = (ROOT / "docs/python.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)\(", text, re.M))
    assert listed == set(api.__all__)
    for name in api.__all__:
        assert callable(getattr(api, name)), name


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        api.trane  # noqa: B018


def test_a_count_that_makes_no_sense():
    with pytest.raises(ValueError, match="count=0 must be at least 1"):
        api.sample(None, "text2image", "a cube", count=0)
