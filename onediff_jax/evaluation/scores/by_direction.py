"""Which score belongs to which direction."""

from collections.abc import Sequence

from onediff_jax.evaluation.scores import maps, pictures, views
from onediff_jax.evaluation.scores.case import Case, Row
from onediff_jax.evaluation.scores.shown_colors import ColorDetector
from onediff_jax.evaluation.scores.typical import Typical


def score(
    direction: str, cases: Sequence[Case], typical: Typical, detector: ColorDetector
) -> list[Row]:
    """The rows of one direction.

    Args:
      direction: name of a task or reverse direction, e.g. "image2depth".
      cases: at least one.
      typical: averages over training examples of the same task.
      detector: of the world's colours.

    Raises ValueError for a direction without a score; lists those that have one.
    """
    if direction in _WITH_COLOURS:
        return _WITH_COLOURS[direction](cases, typical, detector)
    if direction in _PLAIN:
        return _PLAIN[direction](cases, typical)
    if direction in _NAMED:
        return _NAMED[direction](direction, cases, typical)
    raise ValueError(f"no score for {direction=}; there are {sorted(SCORED)}")


_WITH_COLOURS = {
    "text2image": pictures.from_text,
    "faceid": pictures.same_person,
    "subject_driven": pictures.same_thing,
    "text2multiview": views.views_from_text,
}
_PLAIN = {
    "image2depth": maps.depth,
    "image2semanticmap": maps.semantic,
    "multiview": views.other_views,
    "image2camera": views.poses,
}
_NAMED = {
    "deblurring": pictures.restoration,
    "super_resolution": pictures.restoration,
    "image_inpainting": pictures.inpainting,
    "image_editing": pictures.editing,
    "canny2image": pictures.from_condition,
    "depth2image": pictures.from_condition,
    "hed2img": pictures.from_condition,
    "pose2image": pictures.from_condition,
    "semanticmap2image": pictures.from_condition,
    "boundingbox2image": pictures.from_condition,
    "image2canny": maps.drawing,
    "image2pose": maps.drawing,
    "image2boundingbox": maps.drawing,
    "image2hed": maps.soft_drawing,
}
SCORED = frozenset(_WITH_COLOURS) | frozenset(_PLAIN) | frozenset(_NAMED)
