"""Mirror images, crops, masks, repeats and priors: from a row of a table to the loss."""

import dataclasses

import numpy as np
import pytest

from onediff_jax.data.codec import LightCodec
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.prepared.augment import cropped, cropped_size, may_mirror, mirrored
from onediff_jax.data.prepared.dataset import PreparedData, open_folders
from onediff_jax.data.prepared.reader import Decoding, PreparedFolder, Stored
from onediff_jax.data.prepared.record import Record, RecordError, from_bytes, to_bytes
from onediff_jax.data.rows import Placed, RowPacker
from onediff_jax.data.text_hash import HashedTextEncoder
from onediff_jax.tasks.definitions import BUILT_IN
from onediff_jax.tasks.own import own_tasks
from tests.data.prepared.fake import FakeSource, make_plan, prepare

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (48, 64, 3), np.uint8)
MASK = RNG.integers(0, 256, (6, 8), np.uint8)
PLAIN = Record("a", "text2image", (("a cat",),), (PICTURE,), mask=MASK, repeats=3, is_reg=True)


def test_a_record_keeps_what_its_loss_is_and_older_readers_refuse_it():
    data = to_bytes(PLAIN)
    assert data[:4] == b"ODR2"
    found = from_bytes(data)
    np.testing.assert_array_equal(found.mask, MASK)
    assert (found.repeats, found.is_reg, found.texts) == (3, True, ())
    plain = dataclasses.replace(PLAIN, mask=None, repeats=1, is_reg=False)
    assert to_bytes(plain)[:4] == b"ODR1" and b"loss" not in to_bytes(plain)
    with pytest.raises(RecordError):
        from_bytes(b"ODR3" + data[4:])


def pair(task, prompt="", **changes):
    return may_mirror(Record("a", task, ((), ()), (PICTURE, PICTURE), **changes), prompt, BUILT_IN)


def test_only_what_stays_true_is_mirrored():
    for task in ("depth2image", "canny2image", "semanticmap2image", "image_editing"):
        assert pair(task, f"[[{task}]] a cat on a mat, upright")
    assert not pair("pose2image")
    for prompt in (
        "a cat left of a dog",
        "RIGHT-hand side",
        "a sign",
        "links ein Hund",
        "左边的猫",
    ):
        assert not pair("depth2image", prompt)
    own = own_tasks(
        {"normal2image": {"frames": ["image", "normal"], "directions": {"normal2image": "first"}}},
        "here",
    )
    record = Record("a", "normal2image", ((), ()), (PICTURE, PICTURE))
    assert not may_mirror(record, "", own)
    turned = mirrored(PLAIN)
    np.testing.assert_array_equal(turned.frames[0][:, 0], PICTURE[:, -1])
    np.testing.assert_array_equal(turned.mask[:, 0], MASK[:, -1])


def test_crops_lie_anywhere_and_take_their_mask_along():
    record = dataclasses.replace(PLAIN, mask=np.arange(48, dtype=np.uint8).reshape(6, 8))
    assert cropped_size((48, 64), 12) == (48, 64) and cropped_size((48, 64), 4) == (32, 32)
    seen = set()
    for seed in range(30):
        found = cropped(record, 4, np.random.default_rng(seed))
        top, left = divmod(int(found.mask[0, 0]), 8)
        seen.add((top, left))
        part = PICTURE[8 * top : 8 * top + 32, 8 * left : 8 * left + 32]
        np.testing.assert_array_equal(found.frames[0], part)
    assert (
        len(seen) > 8
        and {t for t, _ in seen} == {0, 1, 2}
        and {n for _, n in seen} <= set(range(5))
    )
    assert cropped(record, 4, None).mask[0, 0] == 8 * 1 + 2


def test_draws_are_functions_of_the_generator_alone():
    decoding = Decoding(LightCodec(), None, 1, crop_tokens=4, flip_share=0.5, augment=True)
    frames = [Stored(PLAIN, decoding).draw(np.random.default_rng(s)).frames[0] for s in range(20)]
    again = [Stored(PLAIN, decoding).draw(np.random.default_rng(s)).frames[0] for s in range(20)]
    assert all(map(np.array_equal, frames, again))
    assert len({frame.tobytes() for frame in frames}) > 8
    middle = Stored(PLAIN, dataclasses.replace(decoding, augment=False))
    assert len({middle.draw(np.random.default_rng(s)).frames[0].tobytes() for s in range(4)}) == 1


def test_tokens_weigh_what_mask_and_prior_say():
    decoding = Decoding(LightCodec(), None, 1, prior_weight=0.25)
    encoded = Stored(PLAIN, decoding).draw(np.random.default_rng(0))
    layout = RowLayout((Slot("t2i", 1, 16),))
    packer = RowPacker(layout, HashedTextEncoder(8, 4), weighted=True)
    row = packer([Placed(encoded, (True,), False, encoded.prompt)])
    want = 0.25 * MASK.reshape(3, 2, 4, 2).mean((1, 3)).ravel() / 255
    np.testing.assert_allclose(row["weights"].ravel()[:12], want, rtol=1e-5)
    assert not row["weights"].ravel()[12:].any()
    assert "weights" not in RowPacker(layout, HashedTextEncoder(8, 4))([None])


@dataclasses.dataclass(frozen=True)
class Marked(FakeSource):
    """Every second example is a prior; the others are there twice and have a mask."""

    def example(self, key, kind):
        made = super().example(key, kind)
        if int(key.rpartition("/")[2]) % 2:
            return dataclasses.replace(made, is_reg=True)
        mask = np.zeros(made.images[0].shape[:2], np.uint8)
        mask[:, : mask.shape[1] // 2] = 255
        return dataclasses.replace(made, mask=mask, repeats=2)


def test_a_folder_counts_them_and_repeats_them(tmp_path):
    source = Marked(parts=1, each=12, kinds=("text2image",))
    manifest = prepare(tmp_path / "one", make_plan(source, aspects=("1:1",)))
    assert manifest["loss"] == {"masked": 6, "is_reg": 6, "repeated": 6}
    folder = PreparedFolder(tmp_path / "one")
    records = folder.records("text2image", "train")
    found = [records[i] for i in range(len(records))]
    keys = [record.key for record in found]
    twice = {record.key for record in found if not record.is_reg}
    assert len(found) == len(set(keys)) + len(twice) and len(twice) > 1
    assert all(keys.count(key) == 1 + (key in twice) for key in keys)
    assert all((r.mask is None) == r.is_reg for r in found)
    layout = RowLayout((Slot("t2i", 1, 16),))
    folders = open_folders((str(tmp_path / "one"),))
    options = (folders, layout, "held_out", LightCodec(), False)
    assert PreparedData(*options).weighted
    assert PreparedData(*options).examples("text2image", held_out=False).parts[0][0]
    small = RowLayout((Slot("t2i", 1, 4),))
    with pytest.raises(ValueError, match="pictures of 16 tokens"):
        PreparedData(folders, small, *options[2:]).check({"text2image": 1.0})
    crops = PreparedData(folders, small, *options[2:], random_crop=True)
    crops.check({"text2image": 1.0})
    assert crops.sizes() == {"t2i": ((32, 32),)}
    assert crops.bundles("text2image", held_out=True, seed=0)[0].frames[0].shape == (32, 32, 3)
