import pytest

from onediff_jax.evaluation.metrics import view_scores
from tests.evaluation.metrics.golden import cases, same


@pytest.mark.parametrize("name, params, out, arrays", cases("nvs_eschernet"))
def test_views(name, params, out, arrays):
    if "raises" in out:
        with pytest.raises(ValueError, match="7x7"):
            view_scores(arrays["pred"], arrays["gt"])
        return
    found = view_scores(arrays["pred"], arrays["gt"])
    for key in ("psnr", "ssim", "mse"):
        same(found[key], out[key], atol=1e-6)


def test_floats_are_refused():
    with pytest.raises(ValueError, match="must be uint8"):
        view_scores(*[cases("nvs_eschernet", "noise")[0][3]["gt"] / 255] * 2)
