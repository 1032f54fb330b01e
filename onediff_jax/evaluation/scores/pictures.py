"""Scores of the directions that generate a picture: from text, conditions, damage, references."""

from collections.abc import Sequence

import numpy as np

from onediff_jax.evaluation.scores import measures
from onediff_jax.evaluation.scores.case import Case, Row, mean_of, mean_over, partner_cases, row
from onediff_jax.evaluation.scores.shown_colors import ColorDetector, named
from onediff_jax.evaluation.scores.typical import Typical

PSNR = "PSNR, dB"


def from_text(cases: Sequence[Case], typical: Typical, detector: ColorDetector) -> list[Row]:
    """text2image: do the colours that the caption names show?"""
    return [colours("text2image", cases, detector)]


def colours(task: str, cases: Sequence[Case], detector: ColorDetector) -> Row:
    """Named ∩ shown colours over the pictures a direction generates.

    The control compares every caption with the pictures of all other captions.
    """
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
    return row(
        task,
        "colours named and shown, Jaccard",
        agreement(ours),
        {"shuffled captions": shuffled},
        {
            "truth": agreement(shown(lambda case: case.bundle.frames)),
            "codec": agreement(shown(lambda case: case.round_trip)),
        },
    )


def _generated(case: Case, frames) -> list[np.ndarray]:
    """The pictures among the generated frames."""
    pairs = zip(frames, case.generate, strict=True)
    return [f for f, wanted in pairs if wanted and f.dtype == np.uint8]


def from_condition(task: str, cases: Sequence[Case], typical: Typical) -> list[Row]:
    """condition → picture: how near to the picture that the condition was made from."""
    rows = [psnr_row(task, cases, typical, "wrong condition")]
    if task in ("canny2image", "hed2img"):
        rows.append(
            row(
                task,
                "edges agree, correlation",
                mean_over(cases, lambda c: _edges(c.frames[0], c)),
                {"wrong condition": _wrong(cases, lambda frame, c: _edges(frame, c))},
                {"codec": mean_over(cases, lambda c: _edges(c.round_trip[0], c))},
            )
        )
    return rows


def _edges(frame: np.ndarray, case: Case) -> float:
    return measures.edge_agreement(frame, case.bundle.frames[0])


def _wrong(cases: Sequence[Case], measure) -> float | None:
    """Mean measure of the first frame made with a wrong condition."""
    return mean_of(measure(c.wrong[0], c) for c in cases if c.wrong is not None)


def psnr_row(task: str, cases: Sequence[Case], typical: Typical, wrong: str | None = None) -> Row:
    """PSNR of the target picture beside the pictures that need no look at the input."""

    def against(picture_of):
        return mean_over(cases, lambda c: measures.psnr(picture_of(c), c.bundle.frames[0]))

    controls = {
        "one colour": against(lambda c: best_colour(cases)),
        "mean picture": against(lambda c: typical.picture(0, c.bundle.frames[0].shape[:2])),
    }
    if wrong:
        controls[wrong] = _wrong(cases, lambda f, c: measures.psnr(f, c.bundle.frames[0]))
    return row(
        task, PSNR, against(lambda c: c.frames[0]), controls, {"codec": against(_codec_target)}
    )


def _codec_target(case: Case) -> np.ndarray:
    return case.round_trip[0]


def best_colour(cases: Sequence[Case]) -> np.ndarray:
    """(3,) the one colour with the least squared error to all target pictures."""
    return np.mean([c.bundle.frames[0].mean((0, 1)) for c in cases], 0)


def restoration(task: str, cases: Sequence[Case], typical: Typical) -> list[Row]:
    """deblurring, super_resolution: nearer to the truth than what was given?"""
    plain = psnr_row(task, cases, typical)
    given = mean_over(cases, lambda c: measures.psnr(c.bundle.frames[1], c.bundle.frames[0]))
    return [row(task, PSNR, plain.model, {"input": given, **plain.controls}, plain.ceilings)]


def inpainting(task: str, cases: Sequence[Case], typical: Typical) -> list[Row]:
    """The hole alone; what is visible needs no model (it is pasted back in use)."""

    def in_hole(picture_of):
        return mean_over(
            cases,
            lambda c: measures.psnr(picture_of(c), c.bundle.frames[0], c.bundle.truth["mask"]),
        )

    controls = {
        "input": in_hole(lambda c: c.bundle.frames[1]),
        "surrounding colour": in_hole(_surroundings),
        "mean picture": in_hole(lambda c: typical.picture(0, c.bundle.frames[0].shape[:2])),
    }
    ceilings = {"codec": in_hole(_codec_target)}
    return [row(task, "PSNR in the hole, dB", in_hole(lambda c: c.frames[0]), controls, ceilings)]


def _surroundings(case: Case) -> np.ndarray:
    return measures.visible_colour(case.bundle.frames[0], case.bundle.truth["mask"])


def editing(task: str, cases: Sequence[Case], typical: Typical) -> list[Row]:
    """image_editing: the whole picture, and what the instruction changes."""

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
            rows.append(row(task, metric, model, controls, {"codec": codec}))
    return rows


def _changed(case: Case) -> np.ndarray:
    return measures.changed(case.bundle.frames[0], case.bundle.frames[1])


def same_person(cases: Sequence[Case], typical: Typical, detector: ColorDetector) -> list[Row]:
    """faceid: the picture, and the shirt, which only the references tell."""

    def shirt(frame, case):
        return float(case.bundle.truth["scene"].figure.color_name in detector(frame))

    others = mean_of(shirt(other.frames[0], case) for case, other in partner_cases(cases))
    return [
        psnr_row("faceid", cases, typical, "wrong reference"),
        row(
            "faceid",
            "shirt has its colour, share",
            mean_over(cases, lambda c: shirt(c.frames[0], c)),
            {"wrong reference": _wrong(cases, shirt), "another's picture": others},
            {
                "truth": mean_over(cases, lambda c: shirt(c.bundle.frames[0], c)),
                "codec": mean_over(cases, lambda c: shirt(c.round_trip[0], c)),
            },
        ),
    ]


def same_thing(cases: Sequence[Case], typical: Typical, detector: ColorDetector) -> list[Row]:
    """subject_driven: the picture, and the colour of the subject."""

    def subject(frame, case):
        return float(named(case.bundle.truth["item"]) <= detector(frame))

    others = mean_of(subject(other.frames[0], case) for case, other in partner_cases(cases))
    return [
        psnr_row("subject_driven", cases, typical, "wrong reference"),
        row(
            "subject_driven",
            "subject has its colour, share",
            mean_over(cases, lambda c: subject(c.frames[0], c)),
            {"another's picture": others},
            {
                "truth": mean_over(cases, lambda c: subject(c.bundle.frames[0], c)),
                "codec": mean_over(cases, lambda c: subject(c.round_trip[0], c)),
            },
        ),
    ]
