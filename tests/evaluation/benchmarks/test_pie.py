import json

import numpy as np
import pytest
from PIL import Image

from onediff_jax.evaluation.benchmarks.pie import decode_mask
from onediff_jax.evaluation.benchmarks.scoring import score_predictions


@pytest.mark.parametrize("lengths, wanted", [([], 32), ([75, 100], 32), ([12, 0, 25, 3], 35)])
def test_masks_have_their_border_set_and_runs_are_cut_at_the_end(lengths, wanted):
    assert decode_mask(lengths, (8, 10)).sum() == wanted


def test_edits_are_scored_inside_and_outside(tmp_path):
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (32, 32, 3), np.uint8)
    target = source.copy()
    target[8:16, 8:16] = 0
    runs = [n for row in range(8, 16) for n in (row * 32 + 8, 8)]
    edits = {"a": {"image_path": "x/a.png", "mask": runs}}
    (tmp_path / "mapping_file.json").write_text(json.dumps(edits))
    for place, picture in (("annotation_images/x", source), ("out/x", target)):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / place / "a.png")
    (found,) = score_predictions("pie", tmp_path, tmp_path / "out")
    values = {row.metric: row for row in found.rows}
    assert np.isinf(values["psnr_unedited"].value)
    assert values["psnr_edited"].value == pytest.approx(values["psnr"].value, rel=1e-6)
    assert values["mse"].better == "lower" and values["mse"].part == "1 of 700"
    assert values["psnr"].interval is None  # of one example
