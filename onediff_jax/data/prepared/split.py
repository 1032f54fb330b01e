"""Which examples are kept from training: one rule for every folder, so that they agree.

An example that belongs to a group (a scene, a subject) goes where its group's name goes; one that
stands alone goes where its picture goes, whatever it is called and whichever folder or task it is
in: the picture's pixels decide. A list of names can decide instead.
"""

import dataclasses
import hashlib
import math
import posixpath

from onediff_jax.data.prepared.record import Record
from onediff_jax.data.sources.base import RawExample

SPLITS = ("train", "held_out")
_PIXELS = (
    1 << 16
)  # that are looked at, on a grid: the whole of a photograph takes as long as decoding


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


def picture_key(example: RawExample) -> str | None:
    """What decides the side of an example that stands alone: its target picture, or the picture
    that an edit starts from, of which there may be several edits. None for those of a group."""
    if example.group is not None:
        return None
    edit = example.images[1] if example.task == "image_editing" else None
    image = example.target if edit is None else edit
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
