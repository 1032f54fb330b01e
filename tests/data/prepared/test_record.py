"""Records as bytes: everything survives, damage is noticed."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from onediff_jax.data.prepared.record import (
    Record,
    RecordError,
    from_bytes,
    prompt_choices,
    prompt_of,
    to_bytes,
)
from onediff_jax.tasks.cameras import orbit_cameras

RNG = np.random.default_rng(0)
FULL = Record(
    key="a/b#1 ü",
    task="multiview",
    captions=(("猫", "", "a" * 10_000), ()),
    frames=tuple(RNG.standard_normal((2, 4, 6, 32)).astype(np.float16)),
    cameras=orbit_cameras([0, 30], [5, 6], 1.7),
    group="a/b",
    texts=(RNG.standard_normal((7, 3)).astype(ml_dtypes.bfloat16),),
    extras={"depth_norm": {"near": 0.1, "far": 2.5}, "list": [1, None, "x"]},
)
PLAIN = Record("k", "text2image", ((),), (RNG.integers(0, 256, (16, 32, 3), np.uint8),))


@pytest.mark.parametrize("record", [FULL, PLAIN], ids=["full", "plain"])
def test_everything_survives(record):
    data = to_bytes(record)
    read = from_bytes(data)
    for name in ("key", "task", "captions", "regions", "item", "group", "extras"):
        assert getattr(read, name) == getattr(record, name)
    for name in ("frames", "texts"):
        for ours, theirs in zip(getattr(read, name), getattr(record, name), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
    if record.cameras is not None:
        for name in ("R", "T", "focal", "principal"):
            np.testing.assert_array_equal(
                getattr(read.cameras, name), getattr(record.cameras, name)
            )
    assert to_bytes(read) == data


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:20],
        lambda data: b"",
        lambda data: b"JPEG" + data[4:],
        lambda data: data[:8] + b"[" + data[9:],
    ],
)
def test_damage_is_noticed(damage):
    with pytest.raises(RecordError):
        from_bytes(damage(to_bytes(FULL)))


def test_unknown_dtypes_are_refused():
    wrong = dataclasses.replace(PLAIN, frames=(np.zeros((2, 2, 3)),))
    with pytest.raises(ValueError, match="float64"):
        to_bytes(wrong)


def test_prompts_of_identity_and_unlabelled_examples():
    faces = Record("k", "faceid", (("a", "b"), ("s",), ()), ())
    assert prompt_of(faces, ["a", "s", ""]).startswith("[[faceid]] [[img0]] a [[img1]] s")
    assert prompt_of(faces, ["", "", ""]) == "[[faceid]]"
    assert prompt_of(PLAIN, [""]) == "[[text2image]]"
    first, second = prompt_choices(faces)
    assert "[[img0]] a [[img1]] s" in first and "[[img0]] b [[img1]] s" in second
    assert prompt_choices(PLAIN) == ("[[text2image]]",)
