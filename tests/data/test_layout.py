"""How frames lie in a row: chunks, frames, slots and merged runs."""

import numpy as np
import pytest

from onediff_jax.data.layout import RowLayout, Run, Slot


def test_paper_row():
    """The row of the released shape: 1 × 1024, 2 × 1024, 4 × 256 and 8 × 256 tokens."""
    slots = (
        Slot("t2i", 1, 1024),
        Slot("i2i", 2, 1024),
        Slot("identity", 4, 256),
        Slot("multiview", 8, 256),
    )
    layout = RowLayout(slots)
    assert (layout.chunk, layout.chunks, layout.frames, layout.tokens) == (256, 24, 15, 6144)
    np.testing.assert_array_equal(
        layout.chunk_frame, [0] * 4 + [1] * 4 + [2] * 4 + list(range(3, 15))
    )
    np.testing.assert_array_equal(layout.frame_slot, [0] + [1] * 2 + [2] * 4 + [3] * 8)
    np.testing.assert_array_equal(layout.chunk_slot, [0] * 4 + [1] * 8 + [2] * 4 + [3] * 8)
    assert layout.runs == (
        Run(0, 1, 0, 4, 1024),
        Run(1, 1, 4, 12, 2048),
        Run(2, 1, 12, 16, 1024),
        Run(3, 1, 16, 24, 2048),
    )


def test_adjacent_slots_of_one_shape_share_a_run():
    layout = RowLayout((Slot("a", 2, 16), Slot("b", 2, 16), Slot("b", 1, 16), Slot("a", 2, 16)))
    assert layout.runs == (Run(0, 2, 0, 4, 32), Run(2, 1, 4, 5, 16), Run(3, 1, 5, 7, 32))


@pytest.mark.parametrize(
    "tokens, chunk", [((16, 16), 16), ((24, 16), 8), ((1024, 512), 256), ((600, 600), 200)]
)
def test_chunk_divides_every_frame(tokens, chunk):
    layout = RowLayout(tuple(Slot("a", 1, n) for n in tokens))
    assert layout.chunk == chunk
    assert layout.tokens == sum(tokens)


def test_one_slot_is_one_chunk_per_frame():
    layout = RowLayout((Slot("any", 3, 1000),))
    assert (layout.chunk, layout.chunks, layout.runs) == (1000, 3, (Run(0, 1, 0, 3, 3000),))


@pytest.mark.parametrize("slot", [Slot("a", 0, 16), Slot("a", 2, -1)])
def test_bad_slots(slot):
    with pytest.raises(ValueError, match="positive frames and tokens"):
        RowLayout((slot,))


def test_empty_row():
    with pytest.raises(ValueError, match="at least one slot"):
        RowLayout(())


def test_slots_of_image_to_image_take_bundles_by_their_length():
    short, long = Slot("i2i", 2, 16), Slot("i2i", 4, 16)
    layout = RowLayout((Slot("t2i", 1, 16), short, short, long))
    assert [layout.tray(slot) for slot in layout.slots] == [
        "t2i",
        *["i2i of 2 frames"] * 2,
        "i2i of 4 frames",
    ]
    assert layout.slots_for("i2i", 2) == (short, short)
    assert layout.slots_for("i2i", 3) == (long,) and layout.slots_for("i2i", 9) == (long,)
    assert layout.slots_for("identity", 2) == ()
    assert RowLayout((short,)).tray(short) == "i2i"  # of one length only: the group alone
