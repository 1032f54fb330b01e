"""Every direction's score: truth is perfect and beats all controls, blind answers do not."""

import dataclasses

import numpy as np
import pytest

from onediff_jax.data.bundle import encode_bundle
from onediff_jax.data.codec import LightCodec, to_uint8
from onediff_jax.data.world_bundles import WorldBundles
from onediff_jax.evaluation.scores.by_direction import score
from onediff_jax.evaluation.scores.case import Case, partner_cases
from onediff_jax.evaluation.scores.measures import MOST_DB
from onediff_jax.evaluation.scores.typical import Typical
from onediff_jax.tasks.definitions import all_directions, find_direction

DIRECTIONS = [direction.name for _, direction in all_directions()]
PERFECT = {
    "PSNR": MOST_DB,
    "error": 0.0,
    "share": 1.0,
    "accuracy": 1.0,
    "correlation": 1.0,
    "IoU": 1,
}
CODEC = LightCodec()


def bundles(task, first, count):
    source = WorldBundles(
        task, ((64, 64),), seed=0, level="simple", first=first, count=count, max_frames=6
    )
    return [source[i] for i in range(count)]


@pytest.fixture(scope="module")
def made():
    """Task → (typical, cases whose frames are the truth); made when asked for, kept."""
    kept = {}

    def make(direction):
        task = find_direction(direction)[0]
        if task.name not in kept:
            kept[task.name] = (
                Typical(bundles(task.name, 0, 16), 4.0),
                bundles(task.name, 2**30, 8),
            )
        typical, held_out = kept[task.name]
        cases = []
        for bundle in held_out:
            mask = tuple(map(bool, task.denoise_mask(direction, len(bundle.frames))))
            latents = encode_bundle(bundle, CODEC).frames
            again = [
                to_uint8(CODEC.decode(x)) if f.dtype == np.uint8 else np.float32(x)
                for f, x in zip(bundle.frames, latents, strict=True)
            ]
            cases.append(Case(bundle, mask, bundle.frames, None, tuple(again)))
        others = {id(c): o for c, o in partner_cases(cases)}
        return typical, [
            dataclasses.replace(c, wrong=others[id(c)].frames if id(c) in others else None)
            for c in cases
        ]

    return make


def test_an_unknown_direction_is_named():
    with pytest.raises(ValueError, match=r"unknown task or direction 'image2music'.*image2depth"):
        score("image2music", [], None, None)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_truth_is_perfect_and_beats_every_control(direction, made, detector):
    typical, cases = made(direction)
    for row in score(direction, cases, typical, detector):
        assert row.task == direction and row.controls, row
        assert row.beats_all, row
        if "Jaccard" in row.metric:
            assert row.model > 0.8
        elif "AbsRel" in row.metric:
            assert row.model < 0.01  # 255 levels of grey
        else:
            best = next(v for k, v in PERFECT.items() if k in row.metric)
            assert row.model == pytest.approx(best, abs=0.02)
        for name, bound in row.ceilings.items():
            worse = bound <= row.model + 1e-9 if row.higher else bound >= row.model - 1e-9
            assert worse or "Jaccard" in row.metric, (row, name)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_blind_answer_beats_not_every_control(direction, made, detector):
    """Grey pictures, or the rays of another scene, whatever was given."""
    typical, cases = made(direction)
    blind = []
    for case in cases:
        frames = tuple(
            f if not wanted else np.full_like(f, 128) if f.dtype == np.uint8 else cases[0].frames[1]
            for f, wanted in zip(case.bundle.frames, case.generate, strict=True)
        )
        blind.append(dataclasses.replace(case, frames=frames, wrong=case.wrong and frames))
    for row in score(direction, blind, typical, detector):
        assert not row.beats_all, row


def test_depth_controls_are_what_they_say(made, detector):
    typical, cases = made("image2depth")
    (row,) = score("image2depth", cases, typical, detector)
    assert list(row.controls) == ["best constant", "mean map", "another's map"]
    assert 0.1 < row.controls["mean map"] < row.controls["best constant"] < 0.5


def test_segmentation_background_is_the_share_of_black(made, detector):
    typical, cases = made("image2semanticmap")
    accuracy, iou = score("image2semanticmap", cases, typical, detector)
    black = np.mean([(c.bundle.frames[1] == 0).all(-1).mean() for c in cases])
    assert accuracy.controls["background"] == pytest.approx(black)
    assert iou.controls["background"] == 0.0


def test_inpainting_scores_the_hole_alone(made, detector):
    typical, cases = made("image_inpainting")
    pasted = []
    for case in cases:
        hole = case.bundle.truth["mask"][..., None]
        frame = np.where(hole, case.bundle.frames[0], 255 - case.bundle.frames[0])
        pasted.append(dataclasses.replace(case, frames=(frame, case.frames[1])))
    (row,) = score("image_inpainting", pasted, typical, detector)
    assert row.model == MOST_DB


def test_one_scene_has_no_partner_and_no_control_that_needs_one(made, detector):
    typical, cases = made("image2depth")
    (row,) = score("image2depth", [dataclasses.replace(cases[0], wrong=None)], typical, detector)
    assert list(row.controls) == ["best constant", "mean map"]
