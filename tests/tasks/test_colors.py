"""The colour table, assignment and classification."""

import numpy as np
import pytest

from onediff_jax.tasks import colors


def test_table():
    assert len(colors.COLORS) == 20
    assert len(set(colors.COLORS.values())) == 20
    assert colors.hex_code("cyan") == "#00FFFF"
    assert colors.hex_code("orchid") == "#DA70D6"
    for name in colors.COLORS:
        assert colors.name_of(colors.hex_code(name).lower()) == name
    with pytest.raises(ValueError, match="unknown colour 'white'.*red.*orchid"):
        colors.rgb("white")
    with pytest.raises(ValueError, match="#FFFFFF.*#00FFFF"):
        colors.name_of("#FFFFFF")


def test_assignment_is_distinct_and_deterministic():
    labels = [f"thing {i}" for i in range(20)]
    given = colors.assign(labels, np.random.default_rng(1))
    assert list(given) == labels and len(set(given.values())) == 20
    assert given == colors.assign(labels, np.random.default_rng(1))
    assert given != colors.assign(labels, np.random.default_rng(2))
    assert len(colors.assign(["a", "b", "a"], np.random.default_rng(0))) == 2
    with pytest.raises(ValueError, match="21 labels"):
        colors.assign([*labels, "one more"], np.random.default_rng(0))


def test_classify_survives_noise():
    rng = np.random.default_rng(0)
    names = ["cyan", "red", "green", "purple"]
    truth = rng.integers(-1, len(names), (16, 24))
    table = np.array([colors.rgb(n) for n in names] + [colors.BLACK])
    clean = table[truth].astype(np.uint8)
    np.testing.assert_array_equal(colors.classify(clean, names), truth)
    noisy = np.clip(clean + rng.normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(colors.classify(noisy, names), truth)
    # Without a background black goes to the nearest colour, green (0, 128, 0).
    assert colors.classify(np.zeros((1, 1, 3), np.uint8), names, background=None)[0, 0] == 2


def test_classify_errors():
    with pytest.raises(ValueError, match="at least one"):
        colors.classify(np.zeros((2, 2, 3), np.uint8), [])
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        colors.classify(np.zeros((2, 2), np.uint8), ["red"])
