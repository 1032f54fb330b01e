"""What --print says, and how full the slots are."""

import pytest

from onediff_jax.experiment.build import make_experiment
from onediff_jax.experiment.show import describe
from onediff_jax.experiment.slot_use import padding_lines, slot_use, total_share
from tests.experiments import experiment, get_config, shrunken


def test_the_resolved_experiment():
    text = describe(shrunken(train__batch_rows=3))
    assert "\ntrain.batch_rows = 3\n" in text and "\ndata.tasks.faceid = 1.0\n" in text
    assert "20 bytes of state per parameter: " in text and "parameters are trained" in text
    assert "i2i: 2 slots, about 100% used; the largest example has 2 frames of 4 tokens" in text
    assert "of activations\nfits: a device has" in text


def test_folders_that_are_elsewhere_are_named():
    text = describe(get_config("stage2_multitask", "paper.py"))
    assert "2,800,389,184 parameters are trained" in text
    assert "not on this machine: prepared/t2i_512, prepared/conditions_256" in text


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="no slot fits task faceid"):
        describe(shrunken(rows=(("t2i", 1, 2, 4), ("i2i", 2, 2, 4), ("multiview", 1, 4, 4))))


def test_share_of_slots():
    """By hand: t2i fills one of two frames; of identity 2 to 4 frames, of multiview all 4."""
    uses = {use.group: use for use in slot_use(experiment())}
    shares = {group: use.share for group, use in uses.items()}
    assert shares == {"t2i": 0.5, "i2i": 1.0, "identity": 0.75, "multiview": 1.0}
    assert total_share(tuple(uses.values())) == pytest.approx((4 + 16 + 12 + 16) / 56)
    assert len(padding_lines(tuple(uses.values()))) == 1


def test_mostly_padding_is_a_warning_with_what_would_fit():
    made = make_experiment(shrunken(rows=(("t2i", 1, 8, 16), *shrunken().rows[1:])))
    lines = padding_lines(slot_use(made))
    assert lines[1].startswith("warning: 66% of every step is padding")
    assert "('t2i', 1, 1, 16), ('i2i', 2, 2, 4), ('identity', 1, 4, 4)" in lines[1]
