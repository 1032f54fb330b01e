"""COCO annotation files: boxes, keypoints or captions of pictures in a folder.

open_source("coco", "annotations/instances_val.json", task="boundingbox2image",
            image_root="val", captions="annotations/captions_val.json")
"""

import collections
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onediff_jax.data.sources import files, journal
from onediff_jax.data.sources.base import (
    BadData,
    BadRecord,
    RawExample,
    check_captions,
    decode_text,
    given,
    pick_shard,
    record_or_bad,
    shard_ranges,
)
from onediff_jax.data.sources.condition_files import check_aspect
from onediff_jax.data.sources.images import is_picture_name
from onediff_jax.data.sources.labels import check_label, draw_boxes
from onediff_jax.data.sources.records import RecordReader
from onediff_jax.tasks.pose import KEYPOINTS, LIMBS, draw_pose

_LISTS = ("images", "annotations")
_PICTURE_FIELDS = ("file_name", "width", "height")
_ANNOTATION_FIELDS = (
    "bbox",
    "caption",
    "category_id",
    "image_id",
    "iscrowd",
    "keypoints",
    "num_keypoints",
)
TASKS = ("text2image", "boundingbox2image", "pose2image")


class CocoSource:
    """Pictures with the annotations of one COCO file.

    Pictures without an annotation are no examples of box and pose tasks; `describe` counts them.

    Args:
      path: the JSON file: captions for text2image, instances for boundingbox2image, person
        keypoints for pose2image.
      reader: the task, `require_caption` and decoding.
      image_root: folder of the pictures, from here or from the JSON's own; None: the JSON's own.
      captions: a second COCO file, with the captions of the same pictures.
      allow_outside: file names may lead out of image_root.
      shard_size: pictures per shard.

    Raises ValueError for another task, or a file that is no COCO JSON.
    """

    def __init__(
        self,
        path: str,
        reader: RecordReader,
        *,
        image_root: str | None = None,
        captions: str | None = None,
        allow_outside: bool = False,
        shard_size: int = 500,
    ):
        if reader.task not in TASKS:
            raise ValueError(f"unknown task {reader.task!r} of a COCO file; choose from {TASKS}")
        self._path, self._reader, self._captions_path = path, reader, captions
        self._outside = allow_outside
        self._image_root, self._root = image_root, _root_of(path, image_root)
        content = _load(path)
        self._bad: list[BadRecord] = []
        self._pictures = self._index_pictures(content["images"])
        self._categories = _categories(path, content.get("categories"))
        kept = self._group(content["annotations"])
        self._captions: dict[Any, list] = {}
        self._annotations = kept
        if reader.task == "text2image":
            said = kept if captions is None else _by_picture(_load(captions)["annotations"])
            if not any("caption" in entry for group in said.values() for entry in group):
                raise ValueError(f"{captions or path!r} has no captions; captions=FILE names them")
            self._annotations, self._captions = {}, _texts(said)
            used = list(self._pictures)
        else:
            used = [number for number in self._pictures if number in kept]
            if captions is not None:
                self._captions = _texts(_by_picture(_load(captions)["annotations"]))
        self._unused = len(self._pictures) - len(used)
        self._order = used
        self._shards = shard_ranges(max(1, len(used)), shard_size)

    def shards(self) -> list[str]:
        return list(self._shards)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "reader": self._reader.describe(),
            "captions": self._captions_path,
            **given(image_root=self._image_root, allow_outside=self._outside),
            "pictures": len(self._order),
            "without_annotation": self._unused,
        }

    def content(self, shard: str) -> str:
        """What the files say of the shard's pictures, as a hash."""
        indices = pick_shard(self._shards, shard)
        numbers = self._order[indices.start : indices.stop]
        said: list[Any] = [[self._pictures[n] for n in numbers]]
        said += [[group.get(n) for n in numbers] for group in (self._annotations, self._captions)]
        if indices.start == 0:
            said.append([[b.key, b.reason, b.detail] for b in self._bad])
        said.append(sorted(self._categories.items(), key=str))
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        indices = pick_shard(self._shards, shard)
        if indices.start == 0:
            yield from self._bad
            self._account()
        for number in self._order[indices.start : indices.stop]:
            key = self._pictures[number]["file_name"]
            yield record_or_bad(key, lambda: self._example(key, number))  # noqa: B023 - at once

    def _account(self) -> None:
        """Passes over pictures without an annotation, and files that are not listed."""
        used = set(self._order)
        for number, entry in self._pictures.items():
            if number not in used:
                journal.pass_over(entry["file_name"], "no annotation of the task's kind")
        if files.is_remote(self._root) or not files.is_folder(self._root):
            return
        listed = {os.path.normpath(entry["file_name"]) for entry in self._pictures.values()}
        for name in files.list_tree(self._root):
            if is_picture_name(name) and name not in listed:
                journal.pass_over(name, "a picture that the file does not list")

    def _example(self, key: str, number: Any) -> RawExample:
        captions = tuple(
            text for value in self._captions.get(number, ()) for text in check_captions(value)
        )
        if self._reader.require_caption and not captions:
            raise BadData("missing_field", "no caption")
        path = files.find_below(self._root, key, allow_outside=self._outside)
        image = self._reader.images.read(path)
        task = self._reader.task
        if task == "text2image":
            return RawExample(key, task, (image,), (captions,))
        scale = self._scale(self._pictures[number], image)
        if task == "pose2image":
            pose = self._pose(image.shape, self._annotations[number], scale)
            return RawExample(key, task, (image, pose), (captions, ()))
        picture, regions, extras = self._boxes(key, image.shape, self._annotations[number], scale)
        frames = (image, picture)
        return RawExample(key, task, frames, (captions, ()), regions=regions, extras=extras)

    def _scale(self, entry: dict, image: np.ndarray) -> np.ndarray:
        """(2,) picture pixels per annotated pixel (x, y): pictures may be down-sized copies."""
        height, width = image.shape[:2]
        try:
            stated = [
                float(own if entry.get(name) is None else entry[name])
                for name, own in (("height", height), ("width", width))
            ]
        except (TypeError, ValueError):
            raise BadData("bad_metadata", "width and height must be numbers") from None
        if not min(stated) > 0:
            raise BadData("bad_metadata", f"height and width must be positive, got {stated}")
        check_aspect((height, width), (stated[0], stated[1]))
        return np.array([width / stated[1], height / stated[0]])

    def _boxes(self, key: str, shape, annotations: list[dict], scale: np.ndarray):
        boxes, labels = [], []
        for annotation in annotations:
            x, y, across, down = _numbers(annotation.get("bbox"), 4, "bbox")
            boxes.append(np.array([x, y, x + across, y + down]) * np.tile(scale, 2))
            labels.append(check_label(self._category(annotation).get("name")))
        return draw_boxes(key, shape, boxes, labels)

    def _pose(self, shape, annotations: list[dict], scale: np.ndarray) -> np.ndarray:
        """The skeletons of all people in one picture."""
        height, width = shape[:2]
        picture = np.zeros((height, width, 3), np.uint8)
        for annotation in annotations:
            names, limbs = self._skeleton(annotation)
            numbers = _numbers(annotation.get("keypoints"), 3 * names, "keypoints")
            points = numbers.reshape(names, 3) * [*scale, 1]
            picture = np.maximum(picture, draw_pose(height, width, points, limbs))
        return picture

    def _skeleton(self, annotation: dict) -> tuple[int, list]:
        """Number of keypoints and the pairs of them that limbs join."""
        category = self._category(annotation)
        names = category.get("keypoints") or KEYPOINTS
        if _spelt(names) == _spelt(KEYPOINTS):
            return len(KEYPOINTS), list(LIMBS)
        try:
            limbs = [(int(a) - 1, int(b) - 1) for a, b in category["skeleton"]]  # counted from 1
        except (KeyError, TypeError, ValueError):
            raise BadData("bad_labels", f"{len(names)} keypoints without a skeleton") from None
        if not all(0 <= index < len(names) for limb in limbs for index in limb):
            raise BadData("bad_labels", f"skeleton {limbs} of {len(names)} keypoints")
        return len(names), limbs

    def _category(self, annotation: dict) -> dict:
        number = _number(annotation.get("category_id"))
        if number not in self._categories:
            raise BadData("bad_labels", f"category {number!r} is not listed")
        return self._categories[number]

    def _index_pictures(self, entries: list) -> dict[Any, dict]:
        found: dict[Any, dict] = {}
        names = set()
        for index, entry in enumerate(entries):
            name = entry.get("file_name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or _number(entry.get("id")) is None:
                self._bad.append(BadRecord(f"images[{index}]", "bad_metadata", "no id, file_name"))
            elif entry["id"] in found or name in names:
                self._bad.append(BadRecord(name, "duplicate_key", f"images[{index}]"))
            else:
                names.add(name)
                found[entry["id"]] = {k: entry[k] for k in _PICTURE_FIELDS if k in entry}
        return found

    def _group(self, annotations: list) -> dict[Any, list[dict]]:
        """Annotations by picture: those the task uses, and those of no listed picture as bad."""
        groups = _by_picture(annotations)
        for number in [n for n in groups if n not in self._pictures]:
            detail = f"{len(groups.pop(number))} annotations of a picture that is not listed"
            self._bad.append(BadRecord(f"image_id {number}", "unmatched", detail))
        useful = {}
        for number, group in groups.items():
            if self._reader.task == "pose2image":
                group = [a for a in group if a.get("num_keypoints", 1) and a.get("keypoints")]
            elif self._reader.task == "boundingbox2image":
                group = [a for a in group if not a.get("iscrowd")]  # boxes around whole crowds
            if group:
                useful[number] = group
        return useful


def _spelt(names: Sequence) -> list[str]:
    """Names of keypoints without what spellings differ in."""
    return ["".join(c for c in str(name).lower() if c.isalnum()) for name in names]


def _categories(path: str, entries: Any) -> dict[Any, dict]:
    """Category id → its entry; null is none."""
    if not isinstance(entries or [], list):
        raise ValueError(f"{path!r} is no COCO file: its categories are no list")
    return {_number(c.get("id")): c for c in entries or () if isinstance(c, dict)}


def _load(path: str) -> dict:
    try:
        content = json.loads(decode_text(files.read_bytes(path, limit=None)))
    except (BadData, ValueError, RecursionError) as error:
        raise ValueError(f"{path!r} is no COCO file: {error}") from None
    lists = [isinstance(content, dict) and isinstance(content.get(name), list) for name in _LISTS]
    if not all(lists):
        raise ValueError(f"{path!r} is no COCO file: it needs the lists {_LISTS}")
    return content


def _by_picture(annotations: list) -> dict[Any, list[dict]]:
    """Annotations by image_id, without segmentations: they are most of the file."""
    groups: dict[Any, list[dict]] = collections.defaultdict(list)
    for annotation in annotations:
        if not isinstance(annotation, dict):
            annotation = {}
        kept = {k: annotation[k] for k in _ANNOTATION_FIELDS if k in annotation}
        groups[_number(kept.get("image_id"))].append(kept)
    return dict(groups)


def _number(value: Any) -> int | str | None:
    """An id; None for what cannot be one."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _texts(groups: dict[Any, list[dict]]) -> dict[Any, list]:
    return {number: [a.get("caption") for a in group] for number, group in groups.items()}


def _numbers(value: Any, count: int, field: str) -> np.ndarray:
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise BadData("bad_labels", f"{field} must be {count} numbers")
    return numbers


def _root_of(path: str, image_root: str | None) -> str:
    """The folder of the pictures; raises ValueError where there is none."""
    beside = files.parent(path) or "."
    if image_root is None or files.is_folder(image_root):
        return beside if image_root is None else image_root
    inside = files.join(beside, image_root)
    if not files.is_folder(inside):
        raise ValueError(f"{image_root=} is a folder neither here nor beside {path!r}")
    return inside
