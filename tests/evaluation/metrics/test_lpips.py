import numpy as np
import pytest

from onediff_jax.evaluation.metrics import lpips_distance
from tests.evaluation.metrics.golden import cases, described, same

FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
FIRES |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
SHAPES = {
    "alex": {
        "0": (64, 3, 11, 11),
        "3": (192, 64, 5, 5),
        "6": (384, 192, 3, 3),
        "8": (256, 384, 3, 3),
        "10": (256, 256, 3, 3),
    },
    "squeeze": {"0": (64, 3, 3, 3)}
    | {
        f"{i}.{part}": shape
        for i, (wide, narrow, out) in FIRES.items()
        for part, shape in (
            ("squeeze", (narrow, wide, 1, 1)),
            ("expand1x1", (out, narrow, 1, 1)),
            ("expand3x3", (out, narrow, 3, 3)),
        )
    },
}


def network(kind: str) -> dict:
    """The seeded trunk of the recorded numbers, and lpips' own linear weights."""
    recipe = described("lpips_seeded_trunk")
    random = np.random.RandomState(recipe["seed"][kind])
    trunk = {}
    for name in recipe["state_dict_order"][kind]:
        layer, part = name.rsplit(".", 1)
        shape = SHAPES[kind][layer]
        if part == "weight":
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = 0.05 * random.standard_normal(shape[0])
        trunk[name] = values.astype(np.float32)
    _, _, _, linear = cases("lpips_seeded_trunk", f"{kind}_lin")[0]
    return {"trunk": trunk, "linear": list(linear.values())}


@pytest.mark.parametrize("kind", ["alex", "squeeze"])
def test_lpips(kind):
    given = network(kind)
    for _, _, out, arrays in cases("lpips_seeded_trunk", f"{kind}_"):
        if "lpips" in out:
            found = lpips_distance(given, arrays["img0"], arrays["img1"])
            same(found, out["lpips"], rtol=1e-4, atol=1e-9)


def test_a_trunk_may_be_a_function():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    # One feature per pixel, of unit length: its sign, which is the other one.
    assert lpips_distance((lambda x: [x[..., :1]], [np.ones(1)]), black, white) == pytest.approx(4)


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="alexnet"):
        lpips_distance(({"a": 1}, []), *[np.zeros((4, 4, 3), np.uint8)] * 2)
