import pytest

from onediff_jax.evaluation.metrics import edit_scores
from tests.evaluation.metrics.golden import cases, same


@pytest.mark.parametrize("name, params, out, arrays", cases("pie_bench"))
def test_pie_bench(name, params, out, arrays):
    found = edit_scores(arrays["src"], arrays["tgt"], arrays["mask"])
    assert len(found) == 9
    for key in ("psnr", "ssim", "mse"):
        same(found[key], out[key], rtol=1e-5, atol=1e-7)
        same(found[f"{key}_unedited"], out[f"{key}_unedit_part"], rtol=1e-5, atol=1e-7)
        same(found[f"{key}_edited"], out[f"{key}_edit_part"], rtol=1e-5, atol=1e-7)
