"""Packing bundles into rows: where every number goes, and back."""

import numpy as np
import pytest

from onediff_jax.data.bundle import Bundle, Encoded, encode_bundle
from onediff_jax.data.codec import LightCodec
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.rows import TASK_NAMES, Placed, RowPacker, frame_of
from onediff_jax.data.text_hash import HashedTextEncoder

LAYOUT = RowLayout((Slot("t2i", 1, 8), Slot("identity", 3, 4)))
ENCODER = HashedTextEncoder(8, 5)
PACKER = RowPacker(LAYOUT, ENCODER)
ROWS = ("tokens", "positions")


def bundle(task: str, *shapes: tuple[int, int], start: int = 0) -> Encoded:
    frames = [np.full((*s, 16), 0.5, np.float16) + start + i for i, s in enumerate(shapes)]
    return Encoded(task, f"[[{task}]] a cube", tuple(frames))


def pack():
    one = bundle("text2image", (4, 6))  # 2 × 3 tokens of 8
    two = bundle("faceid", (4, 4), (4, 4), start=10)  # 2 frames of 3
    return PACKER(
        [Placed(one, (True,), False, one.prompt), Placed(two, (True, False), True, "other words")]
    )


def test_tokens():
    frame = np.arange(4 * 6 * 16).reshape(4, 6, 16)
    bundle = Encoded("text2image", "", (frame.astype(np.float32),))
    row = PACKER([Placed(bundle, (True,), False, ""), None])
    tokens, positions = (row[name].reshape(-1, row[name].shape[-1]) for name in ROWS)
    np.testing.assert_array_equal(tokens[4], frame[2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(
        positions[:6], [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]
    )
    np.testing.assert_array_equal(frame_of(tokens, 4, 6, 2), frame)


def test_where_everything_goes():
    row = pack()
    assert LAYOUT.chunk == 4  # chunks: 2 of slot 0, then a chunk per frame of slot 1
    assert row["tokens"].shape == (5, 4, 64) and row["tokens"].dtype == np.float32
    np.testing.assert_array_equal(
        row["token_mask"],
        [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(row["tokens"][..., 0].max(1), [0.5, 0.5, 10.5, 11.5, 0])
    assert not row["tokens"][~row["token_mask"]].any()
    np.testing.assert_array_equal(row["positions"][1, :2], [[0, 1, 1], [0, 1, 2]])
    np.testing.assert_array_equal(row["positions"][3], [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(row["generate"], [True, True, False, False])
    np.testing.assert_array_equal(row["clean"], [False, True])
    assert [TASK_NAMES[t] for t in row["task"]] == ["text2image", "faceid"]
    text, mask = ENCODER(["[[text2image]] a cube", "other words"])
    np.testing.assert_array_equal(row["text"], text)
    np.testing.assert_array_equal(row["text_mask"], mask)


def test_unpack_is_the_inverse():
    row = pack()
    (image,) = PACKER.unpack(row["tokens"], 0, [(4, 6)])
    assert image.shape == (4, 6, 16) and (image == 0.5).all()
    first, second = PACKER.unpack(row["tokens"], 1, [(4, 4), (4, 4)])
    assert (first == 10.5).all() and (second == 11.5).all()


def test_empty_slot_is_padding():
    two = bundle("faceid", (4, 4), (4, 4), start=10)
    row = PACKER([None, Placed(two, (True, False), True, "")])
    assert not row["token_mask"][:2].any() and not row["tokens"][:2].any()
    assert not row["generate"][0] and not row["clean"][0]
    assert row["text_mask"][0].any()  # attention over the caption stays defined
    np.testing.assert_array_equal(row["tokens"][2:], pack()["tokens"][2:])


@pytest.mark.parametrize(
    "task, shapes, message",
    [
        ("faceid", [(4, 4)] * 4, "faceid bundle of 4 frames.*frames=3"),
        ("faceid", [(4, 8)] * 2, "faceid frame of 8 tokens.*tokens=4"),
    ],
)
def test_what_does_not_fit(task, shapes, message):
    one, big = bundle("text2image", (4, 4)), bundle(task, *shapes)
    generate = (True,) * len(shapes)
    with pytest.raises(ValueError, match=message):
        PACKER([Placed(one, (True,), True, ""), Placed(big, generate, True, "")])


def test_one_bundle_per_slot():
    with pytest.raises(ValueError, match="0 bundles for 2 slots"):
        PACKER([])


def test_encode_bundle():
    """Pictures go through the codec, ray maps pass; everything becomes float16."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    rays = np.random.default_rng(0).normal(size=(2, 2, 16)).astype(np.float32)
    encoded = encode_bundle(Bundle("multiview", "p", (image, rays)), LightCodec())
    assert [f.dtype for f in encoded.frames] == [np.float16] * 2
    np.testing.assert_allclose(encoded.frames[0], LightCodec().encode(image), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(encoded.frames[1], rays.astype(np.float16))


def test_a_batch_is_its_rows():
    one = bundle("text2image", (4, 6))
    rows = [[Placed(one, (True,), False, one.prompt), None], [None, None]]
    found = PACKER.batch(rows)
    for index, row in enumerate((PACKER(rows[0]), None)):
        for name, array in found.items():
            if row is not None:
                np.testing.assert_array_equal(array[index], row[name], err_msg=name)
            elif name != "text_mask":  # an empty prompt keeps one word
                assert not array[index].any()
