"""One training example as bytes: a JSON header and the arrays behind it, nothing else.

    b"ODR1" · header length (uint32, little endian) · header (ASCII JSON) · arrays, C order

"ODR2" begins a record whose header has "loss" too: mask (whether the last array is one), repeats,
is_reg.

The header lists dtype and shape of each array, in their order. Any language can read it, the bytes
depend on the content alone, and reading copies nothing.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from onediff_jax.tasks import prompts
from onediff_jax.tasks.cameras import Cameras
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet

_MAGIC = b"ODR1"
_LOSS_MAGIC = b"ODR2"  # with something to say of its loss, which older readers would miss
_DTYPES = {"uint8": np.uint8, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_CAMERA_FIELDS = ("R", "T", "focal", "principal")


class RecordError(ValueError):
    """Bytes that are not a whole record."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One example as stored.

    Attributes:
      key: of the source's example.
      task: name of a built-in task or one's own.
      captions: per picture, zero or more alternatives; training draws one of each.
      frames: the pictures, target first; all uint8 (H, W, 3), or all float16 (H/8, W/8, 2·c): mean
        and log-variance of an autoencoder's posterior, unscaled. Rays are not stored: they follow
        from the cameras.
      regions, item, cameras, group: see RawExample; the cameras fit the stored pictures.
      texts: embeddings (l, d) bfloat16 of `prompt_choices`, real tokens only; empty when the text
        encoder runs in training.
      mask: (H/8, W/8) uint8, how much of each latent counts in the loss: 255 all; None: all of all.
      repeats, is_reg: see RawExample.
      extras: further JSON values: the depth normalisation, what the source kept.
      pictures: split.picture_keys of the example; none in folders of versions before 5.
      split_by: what decides the side of an example that stands alone: the first of them.
    """

    key: str
    task: str
    captions: tuple[tuple[str, ...], ...]
    frames: tuple[np.ndarray, ...]
    regions: tuple[tuple[str, str], ...] = ()
    item: str | None = None
    cameras: Cameras | None = None
    group: str | None = None
    texts: tuple[np.ndarray, ...] = ()
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)
    split_by: str | None = None
    pictures: tuple[str, ...] = ()
    mask: np.ndarray | None = None
    repeats: int = 1
    is_reg: bool = False

    @property
    def split_key(self) -> str:
        """What decides its side of the split: the group, or the picture of one that stands alone
        (its key, in folders of versions before 4)."""
        return self.group or self.split_by or self.key


def prompt_of(record: Record, captions: Sequence[str], tasks: TaskSet = BUILT_IN) -> str:
    """The prompt with one caption chosen for each picture; without any, the task token alone.

    Raises ValueError for regions or an item that the task cannot have.
    """
    sources = None
    if tasks.task(record.task).group == "identity" and any(captions):
        sources = list(captions[1:])
    return prompts.build(
        record.task,
        captions[0] if captions else "",
        regions=record.regions,
        item=record.item,
        sources=sources,
        tasks=tasks,
    )


def prompt_choices(record: Record, tasks: TaskSet = BUILT_IN) -> tuple[str, ...]:
    """The prompts whose embeddings are cached: number k takes caption k of every picture (picture
    with fewer captions start again from their first)."""
    count = max([1, *map(len, record.captions)])
    return tuple(
        prompt_of(record, [c[k % len(c)] if c else "" for c in record.captions], tasks)
        for k in range(count)
    )


def to_bytes(record: Record) -> bytes:
    """The record as bytes, the same ones for the same content.

    Raises ValueError for an array that is not uint8, float16 or bfloat16.
    """
    masks = () if record.mask is None else (record.mask,)
    arrays = [np.ascontiguousarray(a) for a in (*record.frames, *record.texts, *masks)]
    for array in arrays:
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"{record.key}: {array.dtype} is not one of {list(_DTYPES)}")
    header = {
        "key": record.key,
        "task": record.task,
        "captions": record.captions,
        "regions": record.regions,
        "item": record.item,
        "group": record.group,
        "cameras": None,
        "frames": len(record.frames),
        "arrays": [[a.dtype.name, *a.shape] for a in arrays],
        "extras": record.extras,
        "split_by": record.split_by,
        "pictures": record.pictures,
    }
    if record.cameras is not None:
        header["cameras"] = {f: getattr(record.cameras, f).tolist() for f in _CAMERA_FIELDS}
    loss = bool(masks) or record.repeats > 1 or record.is_reg
    if loss:
        said = {"mask": bool(masks), "repeats": record.repeats, "is_reg": record.is_reg}
        header["loss"] = said
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    magic = _LOSS_MAGIC if loss else _MAGIC
    return b"".join([magic, struct.pack("<I", len(text)), text, *(a.tobytes() for a in arrays)])


def from_bytes(data: bytes) -> Record:
    """The record that `to_bytes` wrote; its arrays are read-only views of `data`.

    Raises RecordError when the bytes are not exactly one record.
    """
    if data[:4] not in (_MAGIC, _LOSS_MAGIC) or len(data) < 8:
        raise RecordError(f"{len(data)} bytes that do not start with {_MAGIC!r}")
    start = 8 + struct.unpack_from("<I", data, 4)[0]
    try:
        header = json.loads(data[8:start])
        arrays = []
        for name, *shape in header["arrays"]:
            dtype, count = np.dtype(_DTYPES[name]), math.prod(shape)
            arrays.append(np.frombuffer(data, dtype, count, start).reshape(shape))
            start += count * dtype.itemsize
        if start != len(data):
            raise RecordError(f"record {header['key']!r} has {len(data) - start} bytes too many")
        cameras, loss = header["cameras"], header.get("loss", {})
        masks = [arrays.pop()] if loss.get("mask") else [None]
        return Record(
            key=header["key"],
            task=header["task"],
            captions=tuple(map(tuple, header["captions"])),
            frames=tuple(arrays[: header["frames"]]),
            regions=tuple(map(tuple, header["regions"])),
            item=header["item"],
            group=header["group"],
            cameras=cameras and Cameras(**{f: np.array(cameras[f]) for f in _CAMERA_FIELDS}),
            texts=tuple(arrays[header["frames"] :]),
            extras=header["extras"],
            split_by=header.get("split_by"),
            pictures=tuple(header.get("pictures", ())),
            mask=masks[0],
            repeats=loss.get("repeats", 1),
            is_reg=loss.get("is_reg", False),
        )
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"a record of {len(data)} bytes does not parse: {error}") from error
