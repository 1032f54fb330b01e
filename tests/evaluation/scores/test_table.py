"""Tables of losses and requirements."""

from onediff_jax.evaluation.scores.required import Check, HeldOutLoss
from onediff_jax.evaluation.scores.table import check_lines, loss_table, noise_table

LOSSES = HeldOutLoss(
    *(50, 2000, {"a": 1.0, "b": 2.0}, {"a": 0.25, "b": 1.0}),
    by_noise={"a": {0.0625: 0.5, 0.9375: 0.1}, "b": {0.9375: 0.2}},
)


def test_losses_per_task():
    head, _, a, b = loss_table(LOSSES).splitlines()
    assert head == "| task | step 50 | step 2000 | ratio ↓ |"
    assert (a, b) == ("| a | 1.000 | 0.250 | 0.25 |", "| b | 2.000 | 1.000 | 0.50 |")


def test_losses_per_noise_level():
    head, _, a, b = noise_table(LOSSES).splitlines()
    assert head == "| task | σ 0.06 | σ 0.94 |"
    assert (a, b) == ("| a | 0.500 | 0.100 |", "| b | – | 0.200 |")


def test_requirements():
    checks = [Check("depth", "0.1 < 0.2", True), Check("colours", "0.1 ≥ 0.2", False)]
    assert check_lines(checks) == "- ✓ depth: 0.1 < 0.2\n- ✗ colours: 0.1 ≥ 0.2"
