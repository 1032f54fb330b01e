"""Given frames from files, read as `prepare` reads them: pictures, depth, class maps, cameras."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import REASONS, BadData
from onediff_jax.data.sources.condition_files import ConditionReader
from onediff_jax.data.sources.images import ImageReader
from onediff_jax.data.sources.labels import ClassList
from onediff_jax.data.sources.transforms import read_cameras
from onediff_jax.tasks.cameras import Cameras

MAX_PIXELS = 64_000_000


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads the files of given frames, by the role of the frame.

    Attributes:
      depth_scale: metres per unit of 16-bit depth files and of .npy files that hold integers.
      depth_near, depth_far: metres, the range that grey covers; None: each map's own extremes.
      classes: file with the class list of class maps, as `prepare --option=classes=…` takes it;
        None: they are painted in allowed colours already.
      max_pixels: more are refused before anything is decoded.
    """

    depth_scale: float = 0.001
    depth_near: float | None = None
    depth_far: float | None = None
    classes: str | None = None
    max_pixels: int = MAX_PIXELS

    def read(self, path: str | Path, role: str = "image") -> tuple[np.ndarray, tuple]:
        """The picture (H, W, 3) uint8 of a frame, upright, on white where it is transparent; and
        the (colour, label) pairs of its regions, where a class map is painted.

        Raises ValueError when there is no such file, it does not decode, or holds something else.
        """
        path = str(path)
        if not Path(path).is_file():
            raise ValueError(f"image {path} is not a file")
        try:
            return self.decode(files.read_bytes(path), role)
        except BadData as error:
            detail = f" ({error.detail})" if error.detail else ""
            raise ValueError(f"image {path}: {REASONS[error.reason]}{detail}") from None
        except ValueError as error:
            raise ValueError(f"image {path}: {error}") from None

    def decode(self, data: bytes, role: str = "image") -> tuple[np.ndarray, tuple]:
        """`read` of the bytes of a file."""
        images = ImageReader(max_pixels=self.max_pixels, min_side=1)
        if role not in ("depth", "semanticmap"):
            if data.startswith(b"\x93NUMPY"):
                raise ValueError(f"a NumPy file is read as depth or a class map, not as {role}")
            return images.decode(data), ()
        conditions = ConditionReader(
            classes=None if self.classes is None else ClassList.load(self.classes),
            depth_scale=self.depth_scale,
            depth_near=self.depth_near,
            depth_far=self.depth_far,
            images=images,
        )
        found = conditions.read(role, data, None, "given")
        return found.image, found.regions


def cameras_of(
    path: str | Path, pictures: Sequence[str] = (), size: tuple[int, int] | None = None
) -> tuple[Cameras, tuple[int, int]]:
    """The cameras of a transforms.json, those of the given pictures first, in their order.

    Args:
      path: the file, as NeRF, nerfstudio and DL3DV write it.
      pictures: paths of the given pictures. Where the file names none of them, they are its first
        views.
      size: (height, width) of the pictures, where the file does not tell it.

    Returns:
      All cameras, in the frame of the first, and the (height, width) of the pictures they belong
      to.

    Raises ValueError when the file cannot be used, or names some of the pictures and others not.
    """
    if not Path(path).is_file():
        raise ValueError(f"cameras {path} is not a file")
    try:
        scene = read_cameras(files.read_bytes(str(path)))
    except BadData as error:
        raise ValueError(f"cameras {path}: {REASONS[error.reason]} ({error.detail})") from None
    stems = [PurePosixPath(name).stem for name in scene.names]
    wanted = [Path(picture).stem for picture in pictures]
    known = [stem for stem in wanted if stem in stems]
    order = list(range(len(stems)))
    if known:
        if len(known) < len(wanted):
            left = sorted(set(wanted) - set(stems))
            raise ValueError(f"cameras {path} has some of the given pictures, but not {left}")
        first = [stems.index(stem) for stem in wanted]
        order = first + [index for index in order if index not in first]
    size = scene.size or size
    if size is None:
        raise ValueError(f"cameras {path} does not tell the pictures' size: it needs w and h")
    try:
        return scene.cameras(order, size), size
    except ValueError as error:  # axes that are parallel
        raise ValueError(f"cameras {path}: {error}") from None
