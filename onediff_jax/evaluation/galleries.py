"""Examples as cards of the report: given, generated, truth, and where they differ."""

from collections.abc import Sequence

import numpy as np

from onediff_jax.evaluation.colormap import near_colors, picture_error
from onediff_jax.evaluation.frusta import frusta
from onediff_jax.evaluation.report import Card, Gallery, number
from onediff_jax.evaluation.stored_scores import Shown
from onediff_jax.tasks.depth import nearness
from onediff_jax.tasks.roles import get_role

_OVER = ("pose", "boundingbox", "semanticmap")  # roles that are drawn over the given picture
_PAINTED = 40  # levels above which a drawing covers the picture under it


def gallery(title: str, examples: Sequence[Shown]) -> Gallery:
    """The examples under a heading."""
    return Gallery(title, tuple(card(example) for example in examples))


def card(shown: Shown) -> Card:
    """One example with its prompt, its name in the data and its number."""
    pictures = [("given", frame) for frame in shown.given]
    under = shown.given[0] if shown.given else None
    for role, made, true in zip(shown.roles, shown.made, shown.truth, strict=True):
        title = get_role(role).title
        pictures.append((f"generated {title}", drawn(made, role, under)))
        pictures.append((f"true {title}", drawn(true, role, under)))
        if made.shape == true.shape and role != "ray":
            pictures.append(("difference", picture_error(made, true)))
    words = shown.prompt
    if shown.score is not None:
        words = f"{shown.metric} {number(shown.score)} · {words}"
    drawings = ()
    if shown.cameras is not None:
        found, true = shown.cameras
        drawings = (("found cameras; grey: the true ones", frusta(found, true=true)),)
    return Card(f"{shown.direction} {shown.key}", words, tuple(pictures), drawings)


def drawn(frame: np.ndarray, role: str, under: np.ndarray | None) -> np.ndarray:
    """A frame for people: depth in colours, drawings over the picture that they were read from."""
    if role == "depth":
        return near_colors(nearness(frame))
    if role in _OVER and under is not None and under.shape == frame.shape:
        painted = (frame.max(-1) > _PAINTED)[..., None]
        share = 0.6 if role == "semanticmap" else 1.0
        dim = under * 0.6
        return np.where(painted, share * frame + (1 - share) * under, dim).astype(np.uint8)
    return frame
