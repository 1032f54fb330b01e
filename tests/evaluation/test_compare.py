import dataclasses

import pytest

from onediff_jax import evaluate as command
from onediff_jax.evaluation.compare import compare
from onediff_jax.evaluation.report import Report, table, write_report
from onediff_jax.evaluation.results import Result


def evaluation(folder, values, metric="abs_rel"):
    folder.mkdir()
    items = {str(i): value for i, value in enumerate(values)}
    mean = sum(values) / len(values)
    row = Result("image2depth", "d", "p", metric, mean, len(values), better="lower", items=items)
    write_report(folder, Report("one", [], [row]))
    return folder


def test_differences_are_paired(tmp_path):
    # Examples differ far more than runs do: only the pairs show that the second is better.
    first = evaluation(tmp_path / "a", [0.1, 0.5, 0.9, 0.3])
    second = evaluation(tmp_path / "b", [0.09, 0.48, 0.89, 0.28])
    text = compare([first, second])
    assert "| 0.450 |" in text and "| -0.015 |" in text
    assert text.splitlines()[2].rstrip(" |").endswith("✓")
    assert compare([second, first]).splitlines()[2].rstrip(" |").endswith("✗")


def test_what_cannot_be_compared_is_said(tmp_path):
    first = evaluation(tmp_path / "a", [0.1, 0.5])
    with pytest.raises(ValueError, match="two folders or more"):
        compare([first])
    with pytest.raises(ValueError, match="no number in common"):
        compare([first, evaluation(tmp_path / "b", [1, 2], "rmse")])
    with pytest.raises(ValueError, match=r"metrics.json"):
        compare([first, tmp_path])


def test_the_table_is_printed_from_metrics_json(tmp_path, capsys):
    """The same lines as the report's, without a model."""
    rows = [
        Result("a", "set", "p", "psnr", 12.5, 3, (11.0, 14.0), controls={"input": 10.0}, steps=4),
        Result("b", "set", "p", "abs_rel", float("nan"), 1, None, "lower", paper=0.068),
    ]
    write_report(tmp_path, Report("title", [], rows))
    assert command.main([f"--table={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip() == table(rows)
    assert command.main([f"--table={tmp_path / 'none'}"]) == 1
    assert "has no metrics.json" in capsys.readouterr().err


def test_the_comparison_is_a_page_too(tmp_path):
    first = evaluation(tmp_path / "a", [0.1, 0.5, 0.9])
    second = evaluation(tmp_path / "b<i>", [0.09, 0.48, 0.89])
    out = tmp_path / "out"
    assert command.main([f"--compare={first},{second}", f"--out={out}"]) == 0
    page = (out / "compare.html").read_text()
    assert page.count("<tr>") == 2 and "b&lt;i&gt;" in page and "b<i>" not in page
    assert (out / "compare.md").read_text().count("\n") == 3


def test_other_examples_and_other_protocols(tmp_path):
    """Of the examples that both have; nothing across protocols, or where no example is shared."""
    first = evaluation(tmp_path / "a", [0.1, 0.5, 0.9])
    limited = evaluation(tmp_path / "b", [0.1, 0.5])
    assert "| 0.300 | 0.000 | 0.000 … 0.000 (n 2) |" in compare([first, limited])
    row = Result("image2depth", "d", "p", "abs_rel", 0.3, 2, better="lower")
    (tmp_path / "c").mkdir()
    write_report(tmp_path / "c", Report("one", [], [row]))
    assert "| 0.300 | – | n 3 and 2 |" in compare([first, tmp_path / "c"])
    other = dataclasses.replace(row, protocol="not aligned")
    (tmp_path / "d").mkdir()
    write_report(tmp_path / "d", Report("one", [], [other]))
    assert "| 0.300 | – | another protocol |" in compare([first, tmp_path / "d"])
