"""Which examples are kept from training: one rule for every folder, so that they agree.

An example that belongs to a group (a scene, a subject) goes where its group's name goes; one that
stands alone goes where its picture goes, whatever it is called and whichever folder or task it is
in: the picture's pixels decide. A list of names can decide instead.

A picture may be alone in one place and one of a group's in another, on two sides. Records therefore
know all their pictures, and a run trains on no record, and no group, that has a picture which any
of its folders holds out (`left_out`).
"""

import dataclasses
import hashlib
import math
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from onediff_jax.data.prepared.record import Record
from onediff_jax.data.sources.base import RawExample

SPLITS = ("train", "held_out")
_PIXELS = (
    1 << 16
)  # that are looked at, on a grid: the whole of a photograph takes as long as decoding
_PICTURES = ("image", "source")  # roles; conditions of other pictures may be equal (no edge at all)


@dataclasses.dataclass(frozen=True)
class Split:
    """The rule of a preparation.

    Attributes:
      share: of the groups and lone pictures that is held out (0..1), by their hash.
      names: held out in place of a share: groups, keys, or keys without folder and extension.
    """

    share: float
    names: frozenset[str] = frozenset()

    def side(self, record: Record) -> str:
        """ "train" or "held_out"."""
        if self.names:
            return SPLITS[bool(self.matches(record))]
        return split_of(record.split_key, self.share)

    def matches(self, record: Record) -> frozenset[str]:
        """The names of the list that a record has."""
        stem = posixpath.splitext(posixpath.basename(record.key))[0]
        return self.names & {record.key, stem, record.group or record.key}


def picture_keys(example: RawExample) -> tuple[str, ...]:
    """The keys of an example's ordinary pictures, those that are no condition; the first one
    decides the side of an example that stands alone. It is the target's, or that of the picture
    that an edit starts from, of which there may be several edits."""
    first, *roles = example.definition.picture_roles(len(example.images))
    pairs = zip(roles, example.images[1:], strict=True)
    others = [image for role, image in pairs if role in _PICTURES and image is not None]
    keys = [_key(image) for image in (example.target, *others)]
    if example.task == "image_editing":
        keys = [*keys[1:], keys[0]]
    return tuple(dict.fromkeys(keys))


def _key(image: np.ndarray) -> str:
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _PIXELS))
    digest = hashlib.blake2b(image[::step, ::step].tobytes(), digest_size=12)
    digest.update(repr(image.shape).encode())
    return f"picture {digest.hexdigest()}"


def place_of(key: str) -> int:
    """0…2⁶⁴−1 of a split key, by its hash: those below share · 2⁶⁴ are held out."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def split_of(key: str, held_out: float) -> str:
    """ "held_out" for that share of all keys (Record.split_key), "train" for the others, by their
    hash alone."""
    return SPLITS[place_of(key) / 2**64 < held_out]


def share_for(place: int) -> float:
    """The smallest share that holds out a key of that place."""
    return math.nextafter(place / 2**64, 1.0)


def left_out(indices: dict[Any, Callable[[], Iterable[dict[str, Any]]]]) -> dict[Any, list[dict]]:
    """The training records that a run must leave out, so that it trains on nothing held out.

    Args:
      indices: per folder, its index lines anew at every call: "file", "position", "place",
        "pictures" (places of all its pictures; lacking in older folders).

    Returns:
      Per folder the lines of its training records that have a picture which some folder holds out,
      or belong to a group of which another record has one.
    """

    def lines(folder: Any, held_out: bool) -> Iterator[dict[str, Any]]:
        return (line for line in indices[folder]() if _is_held_out(line) == held_out)

    def places(line: dict[str, Any]) -> set[int]:
        return {line["place"], *line.get("pictures", ())}

    held: set[int] = set()
    for folder in indices:
        held.update(*map(places, lines(folder, True)))
    found = {}
    for folder in indices:
        gone = {line["place"] for line in lines(folder, False) if places(line) & held}
        found[folder] = [n for n in lines(folder, False) if n["place"] in gone] if gone else []
    return found


def _is_held_out(line: dict[str, Any]) -> bool:
    return "/held_out-" in line["file"]


def read_names(path: str) -> frozenset[str]:
    """The names in a list, one a line; empty lines and those that begin with # do not count.

    Raises:
      ValueError: no such file, or no name in it.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"held_out_list={path!r} cannot be read: {error}") from None
    names = frozenset(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise ValueError(f"held_out_list={path!r} names nothing")
    return names
