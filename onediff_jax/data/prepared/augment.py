"""What is drawn anew of a stored picture every time it is trained on: a mirror image, a crop.

Both need pixels, and both are functions of the generator that is given: the stream of a run stays
what it was, however often the run stops.
"""

import dataclasses
import functools
import re

import numpy as np

from onediff_jax.data.buckets import ASPECTS, bucket_size, nearest_aspect
from onediff_jax.data.prepared.record import Record
from onediff_jax.tasks.definitions import TaskSet
from onediff_jax.tasks.roles import get_role

LATENT = 8  # pixels per side of a latent; crops begin at one, as masks are stored per latent
# Prompts with one of these are not true of the mirror image: sides, and writing, which would be
# mirrored too.
_SIDED_WORDS = (
    "left right leftmost rightmost lefthand righthand leftward rightward leftwards rightwards "
    "clockwise counterclockwise anticlockwise east west text letter letters lettering word words "
    "written writing handwriting sign logo number numbers numeral clock "
    "links rechts linke linken linker rechte rechten rechter gauche droite droit izquierda derecha "
    "izquierdo derecho sinistra destra sinistro destro esquerda direita"
)
SIDED = frozenset(_SIDED_WORDS.split())
_SIDED_SIGNS = "左右"
_WORD = re.compile(r"[^\W\d_]+")


def may_mirror(record: Record, prompt: str, tasks: TaskSet) -> bool:
    """Whether an example stays true when all its pictures are mirrored.

    It does not with cameras, with frames whose colours know left from right (skeletons, and roles
    of one's own, of which nothing is known), or with a prompt that has a word of SIDED.
    """
    if record.cameras is not None:
        return False
    roles = tasks.task(record.task).picture_roles(len(record.frames))
    if not all(get_role(role).mirrors for role in roles):
        return False
    words = {word.lower() for word in _WORD.findall(prompt)}
    return not (words & SIDED or any(sign in prompt for sign in _SIDED_SIGNS))


def mirrored(record: Record) -> Record:
    """The record with every picture, and the mask, mirrored from left to right."""
    frames = tuple(np.ascontiguousarray(frame[:, ::-1]) for frame in record.frames)
    mask = None if record.mask is None else record.mask[:, ::-1]
    return dataclasses.replace(record, frames=frames, mask=mask)


@functools.cache
def cropped_size(size: tuple[int, int], tokens: int) -> tuple[int, int]:
    """(height, width) of what is cropped of a picture so that it fits in `tokens` tokens; its own
    size where it does."""
    height, width = size
    if height * width <= tokens * (2 * LATENT) ** 2:
        return size
    found = bucket_size(nearest_aspect(height, width, tuple(ASPECTS)), tokens)
    return min(found[0], height), min(found[1], width)


def cropped(record: Record, tokens: int, rng: np.random.Generator | None) -> Record:
    """The record with every picture cropped to `tokens` tokens; about the middle without `rng`."""
    size = record.frames[0].shape[:2]
    wanted = cropped_size(size, tokens)
    if wanted == size:
        return record
    room = [(have - want) // LATENT for have, want in zip(size, wanted, strict=True)]
    place = [n // 2 if rng is None else int(rng.integers(n + 1)) for n in room]
    top, left = place
    frames = tuple(
        frame[top * LATENT : top * LATENT + wanted[0], left * LATENT : left * LATENT + wanted[1]]
        for frame in record.frames
    )
    mask = record.mask
    if mask is not None:
        mask = mask[top : top + wanted[0] // LATENT, left : left + wanted[1] // LATENT]
    return dataclasses.replace(record, frames=frames, mask=mask)
