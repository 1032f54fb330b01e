"""The table and the report."""

from onediff_jax.evaluation.scores.case import Row
from onediff_jax.evaluation.scores.required import Check, HeldOutLoss
from onediff_jax.evaluation.scores.table import markdown_table, report

ROWS = [
    Row(
        "image2depth",
        "AbsRel",
        False,
        0.1236,
        {"best constant": 0.3, "mean map": 0.2},
        {"codec": 0.01},
    ),
    Row("multiview", "PSNR, dB", True, 14.78, {"wrong ray": 15.0}),
]


def test_columns_are_aligned_and_say_which_way_is_better():
    head, rule, depth, views = markdown_table(ROWS).splitlines()
    assert len({len(line) for line in (head, rule, depth, views)}) == 1
    cells = [cell.strip() for cell in depth.strip("|").split("|")]
    assert cells == [
        "image2depth",
        "AbsRel ↓",
        "0.124",
        "✓",
        "best constant 0.300 · mean map 0.200",
        "codec 0.010",
    ]
    assert "PSNR, dB ↑" in views and "14.78" in views and "✓" not in views


def test_the_report_holds_everything():
    losses = HeldOutLoss(50, 2000, {"multiview": 1.0}, {"multiview": 0.25})
    text = report("Title", ["a fact"], ROWS, losses, [Check("depth", "0.1 < 0.2", True)])
    assert text.startswith("# Title\n\n- a fact\n")
    assert "beats every control on 1 of 2 lines" in text
    assert "| multiview | 1.000 | 0.250 | 0.25 |" in text
    assert "- ✓ depth: 0.1 < 0.2" in text
    assert "Not known" in report("Title", [], ROWS, None, [])
