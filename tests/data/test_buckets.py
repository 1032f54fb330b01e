"""Aspect buckets: exact sizes, never too large, close to the ratio asked for."""

import pytest

from onediff_jax.data.buckets import ASPECTS, bucket_size, nearest_aspect


@pytest.mark.parametrize(
    "aspect, tokens, size",
    [
        ("1:1", 16, (64, 64)),
        ("1:1", 256, (256, 256)),
        ("1:1", 1024, (512, 512)),
        ("4:3", 1024, (432, 576)),
        ("3:4", 1024, (576, 432)),
        ("16:9", 256, (192, 336)),
        ("1:1", 1, (16, 16)),
    ],
)
def test_sizes(aspect, tokens, size):
    assert bucket_size(aspect, tokens) == size


@pytest.mark.parametrize("tokens", [16, 64, 256, 1024])
@pytest.mark.parametrize("aspect", ASPECTS)
def test_every_aspect_fits_and_fills(aspect, tokens):
    height, width = bucket_size(aspect, tokens)
    assert height % 16 == width % 16 == 0
    assert 0.8 * tokens <= height * width // 256 <= tokens
    ratio = width / height / ASPECTS[aspect]
    assert max(ratio, 1 / ratio) < (1.35 if tokens == 16 else 1.15)


def test_turning_the_picture_turns_the_bucket():
    for aspect, turned in (("4:3", "3:4"), ("16:9", "9:16"), ("3:2", "2:3")):
        assert bucket_size(aspect, 256) == bucket_size(turned, 256)[::-1]


def test_nearest():
    assert nearest_aspect(100, 130, tuple(ASPECTS)) == "4:3"
    assert nearest_aspect(100, 130, ("1:1", "16:9")) == "1:1"
    assert nearest_aspect(300, 100, tuple(ASPECTS)) == "9:16"


def test_errors():
    with pytest.raises(ValueError, match="unknown aspect='5:7'; choose from .*16:9"):
        bucket_size("5:7", 256)
    with pytest.raises(ValueError, match="tokens=0 must be positive"):
        bucket_size("1:1", 0)
