"""Scores of the directions that generate a picture: from text, conditions, damage, references."""

from collections.abc import Sequence

import numpy as np

from onediff_jax.evaluation.scores import measures
from onediff_jax.evaluation.scores.case import (
    Asked,
    Case,
    Row,
    mean_of,
    mean_over,
    partner_cases,
    row,
)
from onediff_jax.evaluation.scores.shown_colors import named

PSNR = "PSNR, dB"


def colours(asked: Asked) -> list[Row]:
    """Pictures made from words alone: do the colours that the caption names show?

    Named ∩ shown colours over the pictures a direction generates.

    The control compares every caption with the pictures of all other captions.
    """
    cases, detector = asked.cases, asked.detector
    wanted = [named(case.bundle.prompt) for case in cases]

    def shown(frames_of):
        return [[detector(f) for f in _generated(case, frames_of(case))] for case in cases]

    def agreement(found):
        pairs = zip(wanted, found, strict=True)
        return mean_of(measures.jaccard(w, s) for w, sets in pairs for s in sets)

    ours = shown(lambda case: case.frames)
    shuffled = mean_of(
        measures.jaccard(wanted[i], s)
        for i in range(len(cases))
        for j, sets in enumerate(ours)
        if i != j
        for s in sets
    )
    return [
        row(
            asked.direction,
            "colours named and shown, Jaccard",
            agreement(ours),
            {"shuffled captions": shuffled},
            {
                "truth": agreement(shown(lambda case: case.bundle.frames)),
                "codec": agreement(shown(lambda case: case.round_trip)),
            },
        )
    ]


def _generated(case: Case, frames) -> list[np.ndarray]:
    """The pictures among the generated frames."""
    pairs = zip(frames, case.generate, strict=True)
    return [f for f, wanted in pairs if wanted and f.dtype == np.uint8]


def picture(asked: Asked) -> list[Row]:
    """How near to the picture that was given, or that the condition was made from."""
    return [psnr_row(asked, "wrong condition")]


def edges(asked: Asked) -> list[Row]:
    """A picture made from its edges: are they where they were?"""
    cases = asked.cases
    return [
        row(
            asked.direction,
            "edges agree, correlation",
            mean_over(cases, lambda c: _edges(c.frames[0], c)),
            {"wrong condition": _wrong(cases, lambda frame, c: _edges(frame, c))},
            {"codec": mean_over(cases, lambda c: _edges(c.round_trip[0], c))},
        )
    ]


def _edges(frame: np.ndarray, case: Case) -> float:
    return measures.edge_agreement(frame, case.bundle.frames[0])


def _wrong(cases: Sequence[Case], measure, at: int = 0) -> float | None:
    """Mean measure of a frame made with a wrong condition."""
    return mean_of(measure(c.wrong[at], c) for c in cases if c.wrong is not None)


def psnr_row(asked: Asked, wrong: str | None = None) -> Row:
    """PSNR of the generated picture beside the pictures that need no look at the input."""
    cases, at = asked.cases, asked.frame

    def against(picture_of):
        return mean_over(cases, lambda c: measures.psnr(picture_of(c), c.bundle.frames[at]))

    # The one colour with the least squared error to all of them.
    color = np.mean([c.bundle.frames[at].mean((0, 1)) for c in cases], 0)
    controls = {
        "one colour": against(lambda c: color),
        "mean picture": against(lambda c: asked.typical.picture(at, c.bundle.frames[at].shape[:2])),
    }
    if wrong:
        controls[wrong] = _wrong(cases, lambda f, c: measures.psnr(f, c.bundle.frames[at]), at)
    ceilings = {"codec": against(lambda c: c.round_trip[at])}
    return row(asked.direction, PSNR, against(lambda c: c.frames[at]), controls, ceilings)


def restored(asked: Asked) -> list[Row]:
    """A picture made from a blurred or small one: nearer to the truth than what was given?"""
    plain, given = psnr_row(asked), asked.given

    def unchanged(case):
        return measures.psnr(case.bundle.frames[given], case.bundle.frames[0])

    controls = {"input": mean_over(asked.cases, unchanged), **plain.controls}
    return [row(asked.direction, PSNR, plain.model, controls, plain.ceilings)]


def hole(asked: Asked) -> list[Row]:
    """The hole alone; what is visible needs no model (it is pasted back in use)."""

    cases, typical = asked.cases, asked.typical

    def in_hole(picture_of):
        return mean_over(
            cases,
            lambda c: measures.psnr(picture_of(c), c.bundle.frames[0], c.bundle.truth["mask"]),
        )

    controls = {
        "input": in_hole(lambda c: c.bundle.frames[asked.given]),
        "surrounding colour": in_hole(_surroundings),
        "mean picture": in_hole(lambda c: typical.picture(0, c.bundle.frames[0].shape[:2])),
    }
    ceilings = {"codec": in_hole(lambda c: c.round_trip[0])}
    model = in_hole(lambda c: c.frames[0])
    return [row(asked.direction, "PSNR in the hole, dB", model, controls, ceilings)]


def _surroundings(case: Case) -> np.ndarray:
    return measures.visible_colour(case.bundle.frames[0], case.bundle.truth["mask"])


def edit(asked: Asked) -> list[Row]:
    """image_editing: the whole picture, and what the instruction changes."""
    cases = asked.cases

    def whole(frame, case):
        return measures.psnr(frame, case.bundle.frames[0])

    def part(frame, case):
        return measures.psnr(frame, case.bundle.frames[0], _changed(case))

    rows = []
    for metric, measure, chosen in (
        (PSNR, whole, list(cases)),
        ("PSNR of what changes, dB", part, [c for c in cases if _changed(c).any()]),
    ):
        controls = {
            "source unchanged": mean_of(measure(c.bundle.frames[1], c) for c in chosen),
            "wrong instruction": _wrong(chosen, measure),
        }
        if chosen:
            model = mean_of(measure(c.frames[0], c) for c in chosen)
            codec = mean_of(measure(c.round_trip[0], c) for c in chosen)
            rows.append(row(asked.direction, metric, model, controls, {"codec": codec}))
    return rows


def _changed(case: Case) -> np.ndarray:
    return measures.changed(case.bundle.frames[0], case.bundle.frames[1])


def person(asked: Asked) -> list[Row]:
    """faceid: the picture, and the shirt, which only the references tell."""
    cases, detector = asked.cases, asked.detector

    def shirt(frame, case):
        return float(case.bundle.truth["scene"].figure.color_name in detector(frame))

    others = mean_of(shirt(other.frames[0], case) for case, other in partner_cases(cases))
    return [
        psnr_row(asked, "wrong reference"),
        row(
            asked.direction,
            "shirt has its colour, share",
            mean_over(cases, lambda c: shirt(c.frames[0], c)),
            {"wrong reference": _wrong(cases, shirt), "another's picture": others},
            {
                "truth": mean_over(cases, lambda c: shirt(c.bundle.frames[0], c)),
                "codec": mean_over(cases, lambda c: shirt(c.round_trip[0], c)),
            },
        ),
    ]


def subject(asked: Asked) -> list[Row]:
    """subject_driven: the picture, and the colour of the subject."""
    cases, detector = asked.cases, asked.detector

    def shows(frame, case):
        return float(named(case.bundle.truth["item"]) <= detector(frame))

    others = mean_of(shows(other.frames[0], case) for case, other in partner_cases(cases))
    return [
        psnr_row(asked, "wrong reference"),
        row(
            asked.direction,
            "subject has its colour, share",
            mean_over(cases, lambda c: shows(c.frames[0], c)),
            {"another's picture": others},
            {
                "truth": mean_over(cases, lambda c: shows(c.bundle.frames[0], c)),
                "codec": mean_over(cases, lambda c: shows(c.round_trip[0], c)),
            },
        ),
    ]
