import numpy as np
import pytest

from onediff_jax.data.sources import base
from onediff_jax.tasks.cameras import orbit_cameras

IMAGE = np.zeros((16, 16, 3), np.uint8)


def test_an_example_fits_its_task():
    base.RawExample("a", "text2image", (IMAGE,), (("one", "two"),))
    base.RawExample("a", "faceid", (IMAGE,) * 5, ((),) * 5)
    cameras = orbit_cameras([0, 30], 0, 1.7)
    base.RawExample("a", "multiview", (IMAGE,) * 2, ((), ()), cameras=cameras)
    for wrong, message in (
        ({"task": "painting"}, "unknown task 'painting'; choose from"),
        ({"images": (IMAGE, IMAGE), "captions": ((), ())}, "has exactly 1"),
        ({"captions": ()}, "0 captions for 1 images"),
        ({"images": (IMAGE.astype(np.float32),)}, "must be uint8"),
        ({"cameras": cameras}, "text2image with cameras"),
        ({"task": "faceid", "images": (IMAGE,) * 6, "captions": ((),) * 6}, "6 frames"),
        ({"task": "multiview", "images": (IMAGE,) * 2, "captions": ((),) * 2}, "cameras=None"),
    ):
        values = {"key": "a", "task": "text2image", "images": (IMAGE,), "captions": ((),)} | wrong
        with pytest.raises(ValueError, match=message):
            base.RawExample(**values)


def test_a_bad_record_has_a_listed_reason_and_a_printable_name():
    with pytest.raises(ValueError, match="unknown reason 'ugly'; choose from"):
        base.BadRecord("a", "ugly")
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert base.BadRecord(name, "bad_text").key == "caf\\udce9.jpg"


def test_shard_ranges_cover_everything_once():
    shards = base.shard_ranges(25, 10)
    assert list(shards) == ["000000000-000000010", "000000010-000000020", "000000020-000000025"]
    assert [i for part in shards.values() for i in part] == list(range(25))
    with pytest.raises(ValueError, match="shard_size"):
        base.shard_ranges(3, 0)
    with pytest.raises(ValueError, match="unknown shard='x'"):
        base.pick_shard(shards, "x")


def test_captions_in_any_script_of_any_length():
    texts = ["猫が眠る", "кошка", "قطة نائمة", "बिल्ली", "🐈 émoji", "x" * 10_000]
    assert base.check_captions(texts) == tuple(texts)
    assert base.check_captions("  one \n") == ("one",)
    assert base.check_captions(None) == base.check_captions("") == base.check_captions([" "]) == ()
    with pytest.raises(base.BadData, match="bad_metadata"):
        base.check_captions(["a", 3])
    with pytest.raises(base.BadData, match="bad_metadata"):
        base.check_captions(7)
    with pytest.raises(base.BadData, match="bad_text"):
        base.check_captions("half \ud83d")


def test_decode_text():
    assert base.decode_text(b"\xef\xbb\xbfcaf\xc3\xa9") == "café"
    with pytest.raises(base.BadData, match="bad_text"):
        base.decode_text(b"caf\xe9")


def test_rng_depends_on_its_parts_alone():
    draw = base.rng_for("a", 1).integers(1 << 30)
    assert draw == base.rng_for("a", 1).integers(1 << 30)
    assert draw != base.rng_for("a", 2).integers(1 << 30)
