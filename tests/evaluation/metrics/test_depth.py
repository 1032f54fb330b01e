import numpy as np
import pytest

from onediff_jax.evaluation.metrics import depth_scores
from tests.evaluation.metrics.golden import cases, same

ALIGN = {None: None, "least_square": "depth", "least_square_disparity": "disparity"}
OFFICIAL = {
    "abs_rel": "abs_relative_difference",
    "sq_rel": "squared_relative_difference",
    "rmse": "rmse_linear",
    "rmse_log": "rmse_log",
    "log10": "log10",
    "delta1": "delta1_acc",
    "delta2": "delta2_acc",
    "delta3": "delta3_acc",
    "i_rmse": "i_rmse",
    "silog": "silog_rmse",
    "scale": "scale",
    "shift": "shift",
}


@pytest.mark.parametrize("name, params, out, arrays", cases("depth_marigold"))
def test_marigold(name, params, out, arrays):
    def scored():
        return depth_scores(
            arrays["pred"],
            arrays["gt"],
            arrays["mask"],
            align=ALIGN[params["alignment"]],
            clip=(params["min_depth"], params["max_depth"]),
            max_resolution=params["max_resolution"],
        )

    if "raises" in out:
        with pytest.raises(ValueError, match="not finite"):
            scored()
        return
    found = scored()
    for ours, theirs in OFFICIAL.items():
        if theirs in out:
            same(found[ours], out[theirs], rtol=1e-5, atol=1e-9)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"\(4, 5\), truth \(4, 6\)"):
        depth_scores(np.ones((4, 5)), np.ones((4, 6)), np.ones((4, 6), bool))
