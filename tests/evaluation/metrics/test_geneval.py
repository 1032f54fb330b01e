import pytest

from onediff_jax.evaluation.metrics import geneval_decision, geneval_summary
from tests.evaluation.metrics.golden import cases, same


@pytest.mark.parametrize("name, params, out, arrays", cases("geneval_decisions"))
def test_decisions(name, params, out, arrays):
    found = geneval_decision(params["metadata"], params["detections"], **params.get("options", {}))
    assert found == out


def test_summary():
    _, params, out, _ = cases("geneval_summary")[0]
    found = geneval_summary(params["rows"])
    assert found.pop("overall") == pytest.approx(out["overall"])
    assert list(found) == list(out["tasks"])
    same(list(found.values()), list(out["tasks"].values()), atol=1e-12)
