import numpy as np
import pytest
from PIL import Image

from onediff_jax.evaluation.benchmarks.scoring import score_predictions
from onediff_jax.evaluation.benchmarks.views import SIZE, VIEWS, read_truth


@pytest.fixture(scope="module")
def gso(tmp_path_factory):
    """One object, its strip for one known view, and the same views as files for two."""
    root = tmp_path_factory.mktemp("gso")
    model = root / "GSO30/cup/render_mvs_25/model"
    strips, single = root / "logs/N1M25/cup", root / "logs/N2M25/cup"
    for place in (model, strips, single):
        place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    views = []
    for i in range(VIEWS):
        small = rng.integers(0, 256, (8, 8, 4), np.uint8)
        small[:4, :, 3], small[4:, :, 3] = 0, 100
        rgba = small.repeat(32, 0).repeat(32, 1)
        Image.fromarray(rgba).save(model / f"{i:03}.png")
        views.append(read_truth(model / f"{i:03}.png"))
        Image.fromarray(np.clip(np.int16(views[-1]) + 5, 0, 255).astype(np.uint8)).save(
            single / f"{i:03}.png"
        )
    views[:10] = [np.zeros_like(views[0])] * 10  # not scored
    Image.fromarray(np.concatenate(views, 1)).save(strips / "0.png")
    return root


def test_alpha_zero_is_white_and_other_alpha_is_ignored(gso):
    file = gso / "GSO30/cup/render_mvs_25/model/012.png"
    seen, stored = read_truth(file), np.asarray(Image.open(file))
    assert seen.shape == (SIZE, SIZE, 3)
    assert (seen[:128] == 255).all()
    np.testing.assert_array_equal(seen[128:], stored[128:, :, :3])


def test_every_number_of_known_views_is_scored(gso):
    one, two = score_predictions("gso30", gso, gso / "logs")
    assert one.rows[0].data == "gso30, 1 known" and one.rows[0].paper == 19.01
    assert one.rows[0].value == pytest.approx(361.202, abs=1e-3)
    assert two.rows[0].paper == 20.22 and 30 < two.rows[0].value < 40


def test_a_strip_of_another_size_is_named(gso, tmp_path):
    (tmp_path / "cup").mkdir()
    Image.fromarray(np.zeros((256, 300, 3), np.uint8)).save(tmp_path / "cup/0.png")
    with pytest.raises(ValueError, match=r"0\.png: the strip is \(256, 300, 3\)"):
        score_predictions("gso30", gso, tmp_path)
