"""What every source of real data yields: good examples and named bad records, in stable shards."""

import codecs
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from onediff_jax.tasks.cameras import Cameras
from onediff_jax.tasks.definitions import Task, get_task
from onediff_jax.tasks.roles import get_role

# Why a record is bad -> what that means. A source never invents another reason.
REASONS: dict[str, str] = {
    "missing_file": "a file that the data names does not exist",
    "empty_file": "the file has zero bytes",
    "not_a_picture": "the bytes are no picture of a known kind, whatever the extension says",
    "broken_picture": "it starts like a picture but does not decode: truncated or corrupt",
    "too_large": "more pixels or bytes than allowed (a decompression bomb, or a limit set too low)",
    "too_small": "the smaller side is below the limit",
    "unknown_pixels": "pixels that do not say what white is: 32-bit, float, or measurements",
    "size_mismatch": "picture and annotation do not have the same shape",
    "bad_text": "a caption, label or name that is not UTF-8 text",
    "bad_metadata": "a row, JSON or CSV that does not parse, or a field of the wrong type",
    "missing_field": "a field or column that the task needs is absent or empty",
    "unmatched": "one half of a pair without the other",
    "duplicate_key": "a name that an earlier record of the source has already",
    "bad_camera": "a camera that is singular, not rigid, not finite, or without a focal length",
    "bad_labels": "boxes, keypoints or classes that make no sense",
    "too_few_views": "fewer usable pictures of a subject or scene than an example needs",
    "outside": "a row names a file outside the folder that it may name files of",
    "unsafe_member": "an archive member with an absolute name, '..', or a link",
    "broken_archive": "an archive or shard that ends early or cannot be read on",
    "failed_annotation": "the annotator's model gave nothing usable",
}


@dataclasses.dataclass(frozen=True)
class RawExample:
    """One training example as read, before anything is resized or encoded.

    Attributes:
      key: unique within its source, and the same at every reading.
      task: name in tasks.TASKS; a picture with captions is "text2image".
      images: uint8 (H, W, 3), the target first. Ray frames are not among them: they follow from
        the cameras. None stands for a frame that is still to be made from the target; only in
        tasks of one's own.
      captions: per image, zero or more alternative captions; those of image_editing's target are
        instructions.
      regions: (colour name, label) pairs of semanticmap2image and boundingbox2image.
      item: what the subject is (subject_driven).
      cameras: one per image (multiview).
      depth_norm: near, far and kind of tasks.depth.Normalisation (depth2image), when metres
        can be recovered from the depth picture.
      group: what it belongs to (a scene, a subject): examples of one group go to the same side of
        a split into training and held-out data. None: it stands alone.
      extras: anything else worth keeping; plain values that JSON can hold.
      mask: (H, W) uint8 of the target, 255 where it counts in the loss, 0 where not; None: all.
      repeats: how often it is trained on while others are once.
      is_reg: whether it only keeps what the network knows: the loss of it has the weight
        data.prior_weight.
      own: the task, where it is one of one's own; None: the built-in one of that name.

    Raises:
      ValueError: an unknown task, or parts that do not fit it or each other.
    """

    key: str
    task: str
    images: tuple[np.ndarray | None, ...]
    captions: tuple[tuple[str, ...], ...]
    regions: tuple[tuple[str, str], ...] = ()
    item: str | None = None
    cameras: Cameras | None = None
    depth_norm: dict[str, Any] | None = None
    group: str | None = None
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)
    mask: np.ndarray | None = None
    repeats: int = 1
    is_reg: bool = False
    own: Task | None = None

    @property
    def target(self) -> np.ndarray:
        """The first picture, which every example has: uint8 (H, W, 3)."""
        picture = self.images[0]
        assert picture is not None  # __post_init__ refuses it
        return picture

    @property
    def definition(self) -> Task:
        """The task that `task` names.

        Raises:
          ValueError: an unknown one.
        """
        return get_task(self.task) if self.own is None else self.own

    def __post_init__(self):
        object.__setattr__(self, "key", printable(self.key))
        if self.group is not None:
            object.__setattr__(self, "group", printable(self.group))
        task = self.definition
        frames = len(self.images) * task.per_picture
        roles = task.picture_roles(len(self.images))  # raises for a length that it does not have
        if frames > task.max_frames:
            raise ValueError(f"{self.key}: {frames} frames, {self.task} has {task.max_frames}")
        if len(self.captions) != len(self.images):
            raise ValueError(
                f"{self.key}: {len(self.captions)} captions for {len(self.images)} images"
            )
        if task.rays != (self.cameras is not None):
            raise ValueError(f"{self.key}: {self.task} with cameras={self.cameras}")
        if self.cameras is not None and len(self.cameras) != len(self.images):
            raise ValueError(
                f"{self.key}: {len(self.cameras)} cameras for {len(self.images)} images"
            )
        if self.mask is not None and self.mask.shape != self.target.shape[:2]:
            raise ValueError(
                f"{self.key}: a mask {self.mask.shape} for a picture {self.target.shape[:2]}"
            )
        for index, image in enumerate(self.images):
            if image is None and index and self.own is not None:
                continue
            if image is None:
                raise ValueError(f"{self.key}: no {get_role(roles[index]).title}")
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise ValueError(
                    f"{self.key}: images must be uint8 (H, W, 3), got {image.dtype} {image.shape}"
                )


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """A record that training does not see.

    Attributes:
      key: its name: the relative path, archive member or row.
      reason: one of REASONS.
      detail: what exactly is wrong.

    Raises:
      ValueError: an unknown reason; lists the choices.
    """

    key: str
    reason: str
    detail: str = ""

    def __post_init__(self):
        if self.reason not in REASONS:
            raise ValueError(f"unknown reason {self.reason!r}; choose from {list(REASONS)}")
        object.__setattr__(self, "key", printable(self.key))
        object.__setattr__(self, "detail", printable(self.detail)[:500])


class BadData(Exception):
    """Raised while a record is read; whoever knows its key makes it a BadRecord."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def record(self, key: str) -> BadRecord:
        return BadRecord(key, self.reason, self.detail)


def record_or_bad(key: str, make: Callable[[], RawExample]) -> RawExample | BadRecord:
    """What `make` returns, or what is wrong with the record, whatever its data make a library say.

    Errors of the disk pass through: they are not the record's.
    """
    try:
        return make()
    except BadData as error:
        return error.record(key)
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        return BadRecord(key, "bad_metadata", f"{type(error).__name__}: {error}")
    except (RecursionError, MemoryError) as error:
        return BadRecord(key, "bad_metadata", f"{type(error).__name__}: nested or sized beyond use")


class Source(Protocol):
    """A data set that can be read in independent parts.

    Sources hold names and options, no open files, so they may be pickled and sent to workers.
    """

    def shards(self) -> list[str]:
        """Stable names of independent parts, for parallel and resumable reading."""
        ...

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        """The records of a shard, always in the same order.

        Raises:
          ValueError: an unknown shard.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What identifies the source in a manifest: its path, counts and every option that
        decides what it yields; JSON values."""
        ...


def content_of(source: Source, shard: str) -> str:
    """What a shard yields as far as files do not tell (see journal.py), as a hash: the rows of a
    table. Empty for sources that need none."""
    return getattr(source, "content", lambda shard: "")(shard)


def names_hash(names: Iterable[str]) -> str:
    """SHA-256 of names in their order: what a listing is known by."""
    text = "\0".join(names).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def shard_ranges(count: int, size: int) -> dict[str, range]:
    """Shard names and index ranges of `count` records in parts of `size`.

    Raises:
      ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"shard_size={size} must be positive")
    starts = range(0, count, size)
    return {f"{a:09d}-{min(a + size, count):09d}": range(a, min(a + size, count)) for a in starts}


def given(**options: Any) -> dict[str, Any]:
    """What a description says of options that earlier versions left out: those that are given."""
    return {name: value for name, value in options.items() if value}


def pick_shard(shards: dict[str, Any], shard: str) -> Any:
    """What a shard's name stands for.

    Raises:
      ValueError: an unknown shard; lists some.
    """
    if shard not in shards:
        raise ValueError(f"unknown {shard=} of {len(shards)}, such as {list(shards)[:3]}")
    return shards[shard]


def rng_for(*parts) -> np.random.Generator:
    """A generator that depends on the parts alone: the same record always gets the same draw."""
    text = "\0".join(str(part) for part in parts).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32).tolist())


def printable(name: str) -> str:
    """A name that UTF-8 can hold: what it cannot (from undecodable bytes) is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_text(value: Any, field: str) -> str:
    """The text itself (of UTF-8 bytes too), without outer white space.

    Raises:
      BadData: not a string ("bad_metadata"), or one that UTF-8 cannot hold ("bad_text").
    """
    if isinstance(value, bytes):
        value = decode_text(value, field)
    if not isinstance(value, str):
        raise BadData("bad_metadata", f"{field} must be text, got {type(value).__name__}")
    if _surrogates(value):
        raise BadData("bad_text", f"{field} is not UTF-8")
    return value.strip()


def check_captions(value: Any, field: str = "caption") -> tuple[str, ...]:
    """Alternative captions from None, one text or a list of texts; empty ones do not count.

    UTF-8 bytes are text too, as Parquet and TFDS may hold it, and a null in a list is no caption.
    Length is not limited here: the tokenizer cuts.

    Raises:
      BadData: anything else.
    """
    if value is None:
        return ()
    values: Sequence = [value] if isinstance(value, str | bytes) else value
    if not isinstance(values, Sequence):
        raise BadData("bad_metadata", f"{field} must be text or a list, got {type(value).__name__}")
    return tuple(t for t in (check_text(v, field) for v in values if v is not None) if t)


def decode_text(data: bytes, field: str = "text") -> str:
    """UTF-8 bytes as text, or UTF-16 ones with their byte order mark; without the mark.

    Raises:
      BadData: "bad_text".
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData("bad_text", f"{field}: {error}") from None


def _surrogates(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text) if not text.isascii() else False
