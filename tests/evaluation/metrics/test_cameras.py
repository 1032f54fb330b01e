import numpy as np
import pytest

from onediff_jax.evaluation.metrics import auc, camera_scores
from onediff_jax.evaluation.metrics.cameras import camera_centres, scale_of
from tests.evaluation.metrics.golden import cases, same

METRIC = "camera_raydiffusion_posediffusion"


@pytest.mark.parametrize("name, params, out, arrays", cases(METRIC, "n", "pred", "gt"))
def test_cameras(name, params, out, arrays):
    scale = None
    if "R_all" in arrays:
        scale = scale_of(camera_centres(arrays["R_all"], arrays["T_all"]))
    truth, predicted = ([arrays[f"{part}_{k}"] for part in "RT"] for k in ("gt", "pred"))
    found = camera_scores(*truth, *predicted, scene_scale=scale)
    same(found["scene_scale"], out["scene_scale"], rtol=1e-5)
    same(found["rotation"], arrays["R_error"], atol=0.03)
    same(found["centre"], arrays["CC_error"], atol=1e-5)
    same(found["relative_rotation"], arrays["pd_rel_rotation_deg"], atol=2e-3)
    same(found["relative_translation"], arrays["pd_rel_translation_deg"], atol=0.05)
    same(found["auc30"], out["pd_auc_np_30"], atol=1e-6)
    same(found.auc(20), out["pd_auc_np_20"], atol=1e-6)


@pytest.mark.parametrize("name, params, out, arrays", cases(METRIC, "auc"))
def test_auc_of_errors(name, params, out, arrays):
    for threshold in (5, 10, 30):
        found = auc(arrays["r_error"], arrays["t_error"], threshold)
        same(found, out[f"auc_np_{threshold}"], atol=1e-6)


def test_an_exact_rotation_scores_what_the_extrapolated_angle_says():
    R, T = np.stack([np.eye(3)] * 3), np.float64([[0, 0, 1], [1, 0, 1], [0, 1, 2]])
    found = camera_scores(R, T, R, T)
    same(found["relative_rotation"], 0.405, atol=1e-3)
    same(found["rotation"], 0, atol=1e-5)


def test_one_camera_has_no_relative_pose():
    with pytest.raises(ValueError, match="1 camera has none"):
        camera_scores(np.eye(3)[None], np.ones((1, 3)), np.eye(3)[None], np.ones((1, 3)))
