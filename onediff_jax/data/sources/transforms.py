"""Scenes of posed pictures: transforms.json, as NeRF, nerfstudio and DL3DV write it.

    scenes/garden/transforms.json    {"fl_x", "fl_y", "w", "h", "frames": [{"file_path",
                                      "transform_matrix"}, …]}
    scenes/garden/images_4/0001.png

A scene gives several examples, each with a few of its views. `camera_angle_x` (NeRF's synthetic
scenes) stands for the focal length where that is missing; per-frame intrinsics go first. Lens
distortion is not undone.
"""

import dataclasses
import json
import math
import posixpath
from collections.abc import Iterator
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
    rng_for,
)
from onediff_jax.data.sources.condition_files import check_aspect
from onediff_jax.data.sources.images import SUFFIXES, ImageReader
from onediff_jax.data.sources.journal import Content
from onediff_jax.tasks.cameras import Cameras, cameras_from_transforms
from onediff_jax.tasks.definitions import get_task

_MAX_VIEWS = get_task("multiview").max_frames // 2
# Lens models whose rays are those of a pinhole, apart from a distortion that is not undone. Any
# other (fisheye by whatever name, panorama, orthographic, …) would give wrong rays.
_PINHOLES = (
    *("", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "OPENCV", "FULL_OPENCV"),
    *("RADIAL", "SIMPLE_RADIAL", "BROWN", "RADTAN", "PINHOLE_RADTAN"),
)
_MODEL_FIELDS = ("camera_model", "camera_type", "projection", "projection_type")
_FISHEYE_FIELDS = ("is_fisheye", "fisheye")
_FOCAL_FIELDS = ("fl_x", "camera_angle_x")


@dataclasses.dataclass(frozen=True, eq=False)
class _View:
    """One usable frame.

    Attributes:
      name: its picture, in the scene's folder.
      c2w: (4, 4) camera to world.
      across, down: focal lengths in shares of the picture's width and height; `down` is None for
        square pixels where the file does not tell the size.
      aspect: width / height in the file; None where it does not tell.
    """

    name: str
    c2w: np.ndarray
    across: float
    down: float | None
    aspect: float | None


class TransformsSource:
    """Scenes below a folder, one shard each.

    Args:
      path: a scene's folder, a folder of scenes, or one transforms file.
      images: how pictures are decoded.
      image_folder: "images", "images_4", "images_8", …: where the pictures are taken from, in place
        of the "images" of a file_path; None: as the file says.
      pattern: name of the transforms file.
      min_views, max_views: pictures per example, drawn.
      examples: per scene.
      span: views of an example lie within so many consecutive frames, for long camera paths whose
        ends share nothing; None: anywhere.
      normalize_scale: see tasks.cameras.cameras_from_transforms; None keeps the scene's units.
      seed: which views.
      allow_outside: file_path may lead out of the folder `path`.

    Raises ValueError when there is no scene, or for a number that makes no sense.
    """

    def __init__(
        self,
        path: str,
        images: ImageReader,
        *,
        image_folder: str | None = None,
        pattern: str = "transforms.json",
        min_views: int = 2,
        max_views: int = _MAX_VIEWS,
        examples: int = 8,
        span: int | None = None,
        normalize_scale: float | None = 1.7,
        seed: int = 0,
        allow_outside: bool = False,
    ):
        if not 2 <= min_views <= max_views <= _MAX_VIEWS:
            raise ValueError(f"{min_views=} and {max_views=} must be in 2..{_MAX_VIEWS}")
        if examples < 1 or (span is not None and span < max_views):
            raise ValueError(f"{examples=} must be positive, {span=} at least {max_views=}")
        self._path, self._images, self._image_folder = path, images, image_folder
        self._pattern = pattern
        self._views, self._examples, self._span = (min_views, max_views), examples, span
        self._outside = allow_outside
        self._scale, self._seed = normalize_scale, seed
        if files.is_file(path):
            folder, names = files.parent(path) or ".", [posixpath.basename(path)]
        else:
            folder = path
            names = [n for n in files.list_tree(path) if posixpath.basename(n) == pattern]
        if not names:
            raise ValueError(f"{path!r} has no {pattern}")
        self._folder = folder
        self._scenes = {posixpath.dirname(name) or posixpath.basename(name): name for name in names}

    def shards(self) -> list[str]:
        return list(self._scenes)

    def describe(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "images": self._images.describe(),
            "scenes": len(self._scenes),
            "examples_per_scene": self._examples,
            "views": list(self._views),
            "span": self._span,
            "image_folder": self._image_folder,
            "pattern": self._pattern,
            "normalize_scale": self._scale,
            **given(allow_outside=self._outside),
            "seed": self._seed,
        }

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        name = pick_shard(self._scenes, shard)
        try:
            scene = _parse(files.read_bytes(files.join(self._folder, name)))
            captions = check_captions(scene.get("caption", scene.get("captions")))
        except BadData as error:
            yield error.record(name)
            return
        folder = posixpath.dirname(files.join(self._folder, name)) or "."
        views: list[_View] = []
        for index, frame in enumerate(scene["frames"]):
            try:
                views.append(self._view(folder, scene, frame, {view.name for view in views}))
            except BadData as error:
                yield error.record(f"{shard}/{_frame_name(frame, index)}")
        self._account(name, views)
        if len(views) < self._views[0]:
            yield BadRecord(shard, "too_few_views", f"{len(views)} usable frames")
            return
        yield from self._sample(shard, folder, views, captions)

    def _account(self, name: str, views: list[_View]) -> None:
        """Passes over what lies in a scene's folder and is no picture of it nor another scene's."""
        inner, below = posixpath.dirname(name), files.join(self._folder, posixpath.dirname(name))
        others = [posixpath.dirname(n) + "/" for n in self._scenes.values() if n != name]
        if not journal.is_kept() or files.is_remote(below):
            return
        used = {posixpath.basename(name), *(view.name for view in views)}
        for found in files.list_tree(below):
            full = posixpath.join(inner, found)
            nested = any(len(o) > len(inner) + 1 and full.startswith(o) for o in others)
            if found not in used and full not in self._scenes.values() and not nested:
                journal.pass_over(full, "no usable frame of the scene names it")

    def _sample(self, shard: str, folder: str, views: list[_View], captions):
        """The examples of a scene; a picture that does not decode is reported once and left out."""
        broken: set[str] = set()
        for number in range(self._examples):
            key = f"{shard}#{number}"
            chosen = self._choose(key, views)
            pictures = []
            for view in chosen:
                if view.name in broken:
                    continue
                try:
                    pictures.append((view, self._picture(folder, view)))
                except BadData as error:
                    broken.add(view.name)
                    yield error.record(f"{shard}/{view.name}")
            if len(pictures) < self._views[0]:
                yield BadRecord(key, "too_few_views", "its pictures do not decode")
                continue
            try:
                poses = self._cameras(pictures, views)
            except BadData as error:
                yield error.record(key)
                continue
            images = tuple(image for _, image in pictures)
            texts = (captions, *[()] * (len(images) - 1))
            extras = {"files": [view.name for view, _ in pictures]}
            yield RawExample(
                key, "multiview", images, texts, cameras=poses, group=shard, extras=extras
            )

    def _choose(self, key: str, views: list[_View]) -> list[_View]:
        rng = rng_for("transforms", self._seed, key)
        span = min(self._span or len(views), len(views))
        start = int(rng.integers(len(views) - span + 1))
        count = int(rng.integers(self._views[0], min(self._views[1], span) + 1))
        return [views[start + int(i)] for i in rng.permutation(span)[:count]]

    def _picture(self, folder: str, view: _View) -> np.ndarray:
        """The pixels as they are stored: those that the cameras were found for.

        Only where the file states the size of the picture that EXIF turns upright, it is turned.
        """
        data = files.read_bytes(files.join(folder, view.name))
        image = self._images.decode(data, upright=False)
        if view.aspect is None:
            return image
        try:
            check_aspect(image.shape[:2], (1, view.aspect))
        except BadData:
            image = self._images.decode(data)
            check_aspect(image.shape[:2], (1, view.aspect))
        return image

    def _cameras(self, pictures: list[tuple[_View, np.ndarray]], views: list[_View]) -> Cameras:
        """Cameras of the chosen views, in the frame of the first.

        The scale comes from the axes of all the scene's cameras: those of a few views may be
        nearly parallel and meet anywhere.
        """
        first = pictures[0][0]
        ordered = [first, *(view for view in views if view is not first)]
        height, width = pictures[0][1].shape[:2]
        try:
            poses = cameras_from_transforms(
                np.stack([view.c2w for view in ordered]),
                height=height,
                width=width,
                fl_x=1.0,
                fl_y=1.0,
                normalize_scale=self._scale,
            )
        except ValueError as error:
            raise BadData("bad_camera", str(error)) from None
        focal = []
        for view, image in pictures:
            height, width = image.shape[:2]
            down = view.across * width / height if view.down is None else view.down
            focal.append(np.array([view.across * width, down * height]) / (min(height, width) / 2))
        chosen = poses[[ordered.index(view) for view, _ in pictures]]
        return dataclasses.replace(chosen, focal=np.stack(focal))

    def _view(self, folder: str, scene: dict, frame: Any, taken: set[str]) -> _View:
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise BadData("missing_field", "a frame needs file_path")
        name = self._find(folder, frame["file_path"])
        if name in taken:
            raise BadData("duplicate_key", "an earlier frame has this picture")
        _check_pinhole(scene, frame)
        return _View(name, _matrix(frame.get("transform_matrix")), *_intrinsics(scene, frame))

    def _find(self, folder: str, file_path: str) -> str:
        """The picture's name in the scene's folder: its own suffix, or any if it has none."""
        name = posixpath.normpath(file_path.replace("\\", "/"))
        if self._image_folder is not None:
            name = posixpath.join(self._image_folder, posixpath.basename(name))
        stem, suffix = files.split_suffix(name)
        # NeRF's synthetic scenes leave ".png" out; down-sized copies may be of another kind.
        tries = [name] if suffix in SUFFIXES else [name + s for s in SUFFIXES]
        if self._image_folder is not None and suffix in SUFFIXES:
            tries += [stem + s for s in SUFFIXES if s != suffix]
        for candidate in tries:
            path = files.join(folder, candidate)
            files.find_below(folder, candidate, top=self._folder, allow_outside=self._outside)
            if files.is_file(path):
                return candidate
            journal.note_input(path, Content(None))
        raise BadData("missing_file", f"none of {tries}")


def _parse(data: bytes) -> dict:
    try:
        scene = json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise BadData("bad_metadata", f"JSON: {error}") from None
    if not isinstance(scene, dict) or not isinstance(scene.get("frames"), list):
        raise BadData("bad_metadata", "the file must be an object with a list of frames")
    return scene


def _matrix(value: Any) -> np.ndarray:
    try:
        matrix = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise BadData("bad_camera", "transform_matrix must be numbers") from None
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0, 0, 0, 1]]])
    if matrix.shape != (4, 4):
        raise BadData("bad_camera", f"transform_matrix must be 4x4, got {matrix.shape}")
    try:
        # The same checks that the whole scene gets, to find the frame that fails them.
        cameras_from_transforms(
            matrix[None], height=2, width=2, fl_x=1, fl_y=1, normalize_scale=None
        )
    except ValueError as error:
        raise BadData("bad_camera", str(error)) from None
    return matrix


def _check_pinhole(scene: dict, frame: dict) -> None:
    """Raises BadData ("bad_camera") for lenses whose rays are not a pinhole's, however it is said.

    What a frame says of a field goes before what the file says.
    """
    fields = scene | {name: value for name, value in frame.items() if value is not None}
    for name in _MODEL_FIELDS:
        model = fields.get(name) or ""
        if str(model).upper().replace("-", "_").replace(" ", "_") not in _PINHOLES:
            raise BadData("bad_camera", f"{name} {model} is no pinhole")
    for name in _FISHEYE_FIELDS:
        if str(fields.get(name) or "no").lower() not in ("no", "false", "0", "0.0"):
            raise BadData("bad_camera", f"{name}: a fisheye is no pinhole")


def _intrinsics(scene: dict, frame: dict) -> tuple[float, float | None, float | None]:
    """Focal lengths in shares of the width and the height, and the aspect (see _View).

    A frame that states a focal length, in whatever way, is not asked for the file's; focal lengths
    in pixels are of the size that is stated beside them.
    """
    own = {name: value for name, value in frame.items() if value is not None}
    stated = any(name in own for name in _FOCAL_FIELDS)
    size = {name: value for name, value in (scene | own).items() if name in ("w", "h")}
    fields = size | own if stated else size | scene
    known = all(size.get(name) is not None for name in ("w", "h"))
    down = None
    try:
        aspect = float(size["w"]) / float(size["h"]) if known else None
        if fields.get("fl_x") is not None:
            across = float(fields["fl_x"]) / float(fields["w"])
            if fields.get("fl_y") is not None:
                down = float(fields["fl_y"]) / float(fields["h"])
        else:
            across = 0.5 / math.tan(float(fields["camera_angle_x"]) / 2)
            if fields.get("camera_angle_y") is not None:
                down = 0.5 / math.tan(float(fields["camera_angle_y"]) / 2)
    except KeyError as error:
        raise BadData("bad_camera", f"no {error} (needed: fl_x, w, h or camera_angle_x)") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise BadData("bad_camera", f"intrinsics: {error}") from None
    numbers = [value for value in (across, down, aspect) if value is not None]
    if not all(math.isfinite(value) and value > 0 for value in numbers):
        raise BadData("bad_camera", f"intrinsics {numbers} must be positive")
    return across, down, aspect


def _frame_name(frame: Any, index: int) -> str:
    name = frame.get("file_path") if isinstance(frame, dict) else None
    return name if isinstance(name, str) else f"frame {index}"


@dataclasses.dataclass(frozen=True, eq=False)
class SceneCameras:
    """All cameras of a transforms file, for use without their pictures.

    Attributes:
      names: of the pictures, as the file spells them.
      size: (height, width) in pixels of the first picture; None where the file does not tell.
    """

    names: tuple[str, ...]
    size: tuple[int, int] | None
    _c2w: np.ndarray
    _shares: tuple[tuple[float, float | None], ...]

    def cameras(self, order: list[int], size: tuple[int, int]) -> Cameras:
        """Cameras of pictures of a size (height, width), in the frame of the first of `order`.

        The scale is that of training: the first is 1.7 from what all look at.
        """
        height, width = size
        poses = cameras_from_transforms(
            self._c2w[order], height=height, width=width, fl_x=1.0, fl_y=1.0
        )
        focal = []
        for across, down in (self._shares[index] for index in order):
            down = across * width / height if down is None else down
            focal.append(np.array([across * width, down * height]) / (min(size) / 2))
        return dataclasses.replace(poses, focal=np.stack(focal))


def read_cameras(data: bytes) -> SceneCameras:
    """The cameras of a transforms.json.

    Raises:
      BadData: it does not parse, or a frame has no pinhole camera; names the frame.
    """
    scene = _parse(data)
    names, matrices, shares, sizes = [], [], [], []
    for index, frame in enumerate(scene["frames"]):
        name = _frame_name(frame, index)
        try:
            if not isinstance(frame, dict):
                raise BadData("missing_field", "a frame needs file_path")
            fields = scene | frame
            _check_pinhole(scene, frame)
            *share, _ = _intrinsics(scene, frame)
            matrices.append(_matrix(frame.get("transform_matrix")))
        except BadData as error:
            raise BadData(error.reason, f"{name}: {error.detail}") from None
        names.append(name)
        shares.append(tuple(share))
        known = fields.get("h") is not None and fields.get("w") is not None
        sizes.append((int(fields["h"]), int(fields["w"])) if known else None)
    if not names:
        raise BadData("too_few_views", "no frames")
    return SceneCameras(tuple(names), sizes[0], np.stack(matrices), tuple(shares))
