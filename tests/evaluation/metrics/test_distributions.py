import numpy as np
import pytest

from onediff_jax.evaluation.metrics import frechet_distance, kernel_distance
from tests.evaluation.metrics.golden import cases, same


@pytest.mark.parametrize("name, params, out, arrays", cases("fid_kid"))
def test_torch_fidelity(name, params, out, arrays):
    pair = arrays["feat1"], arrays["feat2"]
    same(frechet_distance(*pair), out["fid"], rtol=1e-5, atol=1e-4)
    if "kid_full" in out:
        same(kernel_distance(*pair), out["kid_full"], rtol=1e-4)


def test_one_sample_is_refused():
    with pytest.raises(ValueError, match="1 and 5 samples"):
        frechet_distance(np.ones((1, 3)), np.ones((5, 3)))
