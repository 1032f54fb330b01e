"""Cameras and the ray maps that carry them as frames.

Convention (PyTorch3D's, as in the released model): row vectors, `x_cam = x_world @ R + T`, camera
axes x left, y up, z into the scene. Normalised device coordinates (NDC) have their origin in the
image centre and half the smaller image side as their unit: a point projects to
`focal * (x, y) / z + principal`.

A ray is (unit direction, moment = origin x direction) in world coordinates, six numbers per latent
pixel (Plücker coordinates). The world of a multiview bundle is the first camera's frame.
"""

import dataclasses
from typing import Any

import numpy as np

RAY_CHANNELS = 6
FRAME_CHANNELS = 16
# Brings rays to about the scale of the image latents they share a network with.
RAY_SCALE = 1.658
# Centres closer together than this share of their coordinates (or of 1) are one place, rounded.
_ONE_PLACE = 1e-5
_SPREADS = 100.0  # where the axes meet, at most so many times further than the cameras are spread


@dataclasses.dataclass(frozen=True)
class Cameras:
    """N pinhole cameras.

    Attributes:
      R: (N, 3, 3) rotations, `x_cam = x_world @ R + T`.
      T: (N, 3) translations, world units.
      focal: (N, 2) focal lengths (x, y) in NDC.
      principal: (N, 2) principal points (x, y) in NDC.

    Raises:
      ValueError: shapes that do not agree, or values that are not finite.
    """

    R: np.ndarray
    T: np.ndarray
    focal: np.ndarray
    principal: np.ndarray

    def __post_init__(self):
        num = len(np.atleast_1d(self.R))
        for name, tail in (("R", (3, 3)), ("T", (3,)), ("focal", (2,)), ("principal", (2,))):
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != (num, *tail):
                raise ValueError(f"{name} must have shape {(num, *tail)}, got {value.shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name} has values that are not finite")
            object.__setattr__(self, name, value)
        if (self.focal <= 0).any():
            raise ValueError(f"focal must be positive, got {self.focal.min()}")

    def __len__(self) -> int:
        return len(self.R)

    def __getitem__(self, index: Any) -> "Cameras":
        """The cameras of a slice or index array (an int gives one camera, N = 1)."""
        if isinstance(index, int | np.integer):
            index = [index]
        return Cameras(self.R[index], self.T[index], self.focal[index], self.principal[index])

    @property
    def centres(self) -> np.ndarray:
        """(N, 3) camera positions in the world."""
        return -np.einsum("nij,nj->ni", self.R, self.T)


def orbit_cameras(
    azimuths, elevations, distances, *, focal: float = 1.3887, first_is_origin: bool = True
) -> Cameras:
    """Cameras that circle the origin and look at it, z up.

    Azimuth 0 stands on +x and grows towards +y; positive elevations are above the floor.

    Args:
      azimuths, elevations: degrees; (N,) or scalars, which broadcast.
      distances: world units; (N,) or a scalar, positive.
      focal: focal length in units of the image side.
      first_is_origin: express the poses in the first camera's frame (see `rebase`). False keeps the
        z-up world.

    Returns:
      N cameras.
    """
    columns = [np.asarray(v, np.float64).reshape(-1) for v in (azimuths, elevations, distances)]
    num = max(len(c) for c in columns)
    for name, column in zip(("azimuths", "elevations", "distances"), columns, strict=True):
        if len(column) not in (1, num) or not len(column):
            raise ValueError(f"{name} has {len(column)} values where 1 or {num} are needed")
    azimuth, elevation, distance = (np.broadcast_to(c, num) for c in columns)
    if not (distance > 0).all():
        raise ValueError(f"distances must be positive, got {distance.min()}")
    if not focal > 0:
        raise ValueError(f"{focal=} must be positive")
    azimuth, elevation = np.deg2rad(azimuth), np.deg2rad(elevation)
    # `right` comes from the azimuth alone, so looking straight down is not singular.
    right = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros(num)], -1)
    back = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ],
        -1,
    )
    axes = np.stack([right, np.cross(back, right), back], -1)
    cameras = _from_opengl(axes, distance[:, None] * back, [2 * focal] * 2, [0.0, 0.0])
    return rebase(cameras) if first_is_origin else cameras


def cameras_from_transforms(
    c2w,
    *,
    height: int,
    width: int,
    fl_x: float,
    fl_y: float,
    normalize_scale: float | None = 1.7,
    first_is_origin: bool = True,
) -> Cameras:
    """Cameras of a `transforms.json` scene (NeRF, DL3DV), in the first camera's frame.

    Args:
      c2w: (N, 4, 4) camera-to-world matrices, OpenGL axes (x right, y up, z backwards).
      height, width: pixels of the images that fl_x, fl_y refer to. The principal point is
        (width // 2, height // 2).
      fl_x, fl_y: focal lengths in pixels.
      normalize_scale: scale the world so that camera 0 is this far from the point nearest to all
        optical axes; None keeps the scene's own units.
      first_is_origin: express the poses in the first camera's frame. False keeps the scene's axes
        and origin.

    Raises:
      ValueError: matrices that are not rigid, or axes that meet nowhere (parallel, or a single
        camera).
    """
    c2w = np.asarray(c2w, np.float64)
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or not len(c2w):
        raise ValueError(f"c2w must have shape (N, 4, 4) with N > 0, got {c2w.shape}")
    if not np.isfinite(c2w).all():
        raise ValueError("c2w has values that are not finite")
    for name, value in (("height", height), ("width", width), ("fl_x", fl_x), ("fl_y", fl_y)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    axes, centres = c2w[:, :3, :3], c2w[:, :3, 3]
    _check_rotations(axes)
    if normalize_scale is not None:
        if not normalize_scale > 0:
            raise ValueError(f"{normalize_scale=} must be positive or None")
        centres = centres * (normalize_scale / _scale(centres, axes[:, :, 2]))
    half = min(height, width) / 2
    principal = [(width / 2 - width // 2) / half, (height / 2 - height // 2) / half]
    cameras = _from_opengl(axes, centres, [fl_x / half, fl_y / half], principal)
    return rebase(cameras) if first_is_origin else cameras


def _scale(centres: np.ndarray, directions: np.ndarray) -> float:
    """The distance of camera 0 from the point nearest to all optical axes.

    Raises ValueError where it says nothing of the scene's size: cameras that stand at one place up
    to rounding, axes so nearly parallel that they meet far beyond them, or camera 0 at that point.
    """
    spread = np.linalg.norm(centres - centres.mean(0), axis=-1).max()
    if len(centres) > 1 and spread <= _ONE_PLACE * max(1.0, np.abs(centres).max()):
        raise ValueError(f"all {len(centres)} cameras stand at one place: nothing gives a scale")
    distance = np.linalg.norm(centres[0] - nearest_point(centres, directions))
    if len(centres) > 1 and not 1 / _SPREADS < distance / spread < _SPREADS:
        raise ValueError(
            f"the optical axes meet {distance:.3g} from the first camera, where the cameras are "
            f"spread over {spread:.3g}: parallel axes, or too few of them, give no scale"
        )
    return float(distance)


def rebase(cameras: Cameras) -> Cameras:
    """The same cameras in a world that is the first one's frame: R[0] = identity, T[0] = 0."""
    relative = cameras.R[0].T @ cameras.R
    shift = cameras.T - np.einsum("i,nij->nj", cameras.T[0], relative)
    return dataclasses.replace(cameras, R=relative, T=shift)


def rays_from_cameras(cameras: Cameras, size: int | tuple[int, int]) -> np.ndarray:
    """Ray maps, one ray through the centre of each pixel of a (latent) image.

    Args:
      cameras: N cameras.
      size: side of a square grid, or (height, width) of one with the cameras' aspect ratio.

    Returns:
      (N, height, width, 6) float32: unit direction, then moment.
    """
    local = _local_directions(cameras.focal, cameras.principal, _grid_size(size))
    directions = np.einsum("nhwj,nij->nhwi", local, cameras.R)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    moments = np.cross(cameras.centres[:, None, None], directions)
    return np.concatenate([directions, moments], -1).astype(np.float32)


def ray_frames(rays) -> np.ndarray:
    """Rays (..., 6) as latent frames (..., 16): channels repeated to sixteen, times 1.658."""
    rays = _check_channels(rays, RAY_CHANNELS, "rays")
    return RAY_SCALE * np.concatenate([rays, rays, rays[..., :4]], -1)


def rays_from_frames(frames) -> np.ndarray:
    """Rays (..., 6) of latent frames (..., 16): undoes `ray_frames`, averaging the repeats."""
    frames = _check_channels(frames, FRAME_CHANNELS, "frames") / RAY_SCALE
    total = frames[..., :6] + frames[..., 6:12]
    total[..., :4] += frames[..., 12:]
    return total / np.array([3, 3, 3, 3, 2, 2], total.dtype)


def cameras_from_rays(rays, cameras_or_intrinsics) -> Cameras:
    """Poses of the cameras whose ray maps these are; noisy rays give the least-squares pose.

    The rotation is the orthogonal Procrustes solution between the rays' directions and those the
    intrinsics give; the centre is the point nearest to all rays.

    Args:
      rays: (N, h, w, 6).
      cameras_or_intrinsics: Cameras to take the intrinsics from, or a pair (focal, principal) in
        NDC, each (2,) or (N, 2).

    Returns:
      N cameras with those intrinsics, in the world of the rays (not re-based).
    """
    rays = _check_channels(rays, RAY_CHANNELS, "rays").astype(np.float64)
    if rays.ndim != 4 or not len(rays):
        raise ValueError(f"rays must have shape (N, h, w, 6) with N > 0, got {rays.shape}")
    if isinstance(cameras_or_intrinsics, Cameras):
        intrinsics = (cameras_or_intrinsics.focal, cameras_or_intrinsics.principal)
    else:
        intrinsics = cameras_or_intrinsics
    focal, principal = (_per_camera(v, len(rays)) for v in intrinsics)
    local = _local_directions(focal, principal, rays.shape[1:3])
    directions = rays[..., :3]
    norms = np.linalg.norm(directions, axis=-1, keepdims=True)
    if not np.isfinite(rays).all() or (norms < 1e-6).any():
        raise ValueError("rays must be finite, with directions of non-zero length")
    unit = directions / norms
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    covariance = np.einsum("nhwi,nhwj->nij", unit, local)
    left, _, right = np.linalg.svd(covariance)
    left[:, :, 2] *= np.linalg.det(left @ right)[:, None]  # a rotation, never a mirror image
    rotations = left @ right
    # direction x moment is the line's point nearest to the origin. The moment is not divided by the
    # direction's length with it: in a noisy prediction that would add the direction's error to the
    # position's.
    points = np.cross(unit, rays[..., 3:])
    flat = (len(rays), -1, 3)
    centres = nearest_point(points.reshape(flat), unit.reshape(flat))
    return Cameras(rotations, -np.einsum("ni,nij->nj", centres, rotations), focal, principal)


def pose_errors(predicted: Cameras, truth: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the poses relative to the first camera.

    Returns:
      (N - 1,) rotation angles in degrees and (N - 1,) distances between centres in world units, of
      cameras 1…N-1 after re-basing both sets on their own camera 0.
    """
    if len(predicted) != len(truth) or len(truth) < 2:
        raise ValueError(
            "predicted and truth must hold the same number of cameras, 2 or more, got "
            f"{len(predicted)} and {len(truth)}"
        )
    predicted, truth = rebase(predicted), rebase(truth)
    # |R - R'| = 2 sqrt(2) sin(angle / 2) stays exact for tiny angles, where arccos(trace) does not.
    chord = np.linalg.norm(predicted.R - truth.R, axis=(1, 2)) / np.sqrt(8)
    angles = np.rad2deg(2 * np.arcsin(np.clip(chord, 0, 1)))
    return angles[1:], np.linalg.norm(predicted.centres - truth.centres, axis=-1)[1:]


def nearest_point(points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The point (..., 3) with the least summed squared distance to M lines.

    Args:
      points, directions: (..., M, 3) a point on each line and its direction, of any length.

    Raises:
      ValueError: the lines are parallel, so no point is nearest.
    """
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    projections = np.eye(3) - unit[..., :, None] * unit[..., None, :]
    system = projections.sum(-3)
    if not (np.linalg.cond(system) < 1e12).all():
        raise ValueError(f"{points.shape[-2]} parallel line(s) have no nearest point")
    right_side = np.einsum("...mij,...mj->...i", projections, points)
    return np.linalg.solve(system, right_side[..., None])[..., 0]


def _from_opengl(axes: np.ndarray, centres: np.ndarray, focal, principal) -> Cameras:
    """Cameras from OpenGL camera-to-world axes (columns right, up, backwards) and centres."""
    rotations = axes * np.array([-1.0, 1.0, -1.0])  # left, up, forward
    num = len(axes)
    return Cameras(
        rotations,
        -np.einsum("ni,nij->nj", centres, rotations),
        np.broadcast_to(np.asarray(focal, np.float64), (num, 2)),
        np.broadcast_to(np.asarray(principal, np.float64), (num, 2)),
    )


def _check_rotations(axes: np.ndarray):
    """Raises unless every (N, 3, 3) matrix is a rotation up to what a text file rounds away."""
    gram_error = np.abs(axes.swapaxes(1, 2) @ axes - np.eye(3)).max((1, 2))
    bad = ~((gram_error < 1e-2) & (np.linalg.det(axes) > 0))
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"c2w[{index}] is not rigid: its upper-left 3x3 must be a rotation, got "
            f"{axes[index].tolist()}"
        )


def _grid_size(size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    if height < 1 or width < 1:
        raise ValueError(f"{size=} must be positive")
    return int(height), int(width)


def _local_directions(focal, principal, size: tuple[int, int]) -> np.ndarray:
    """(N, h, w, 3) directions (z = 1) through the pixel centres, in camera axes; focal, principal
    (N, 2)."""
    height, width = size
    smaller = min(size)
    x, y = (np.linspace(n - 1, 1 - n, n) / smaller for n in (width, height))
    plane = np.stack(np.meshgrid(x, y), -1) - principal[:, None, None]
    plane = plane / focal[:, None, None]
    return np.concatenate([plane, np.ones((*plane.shape[:-1], 1))], -1)


def _check_channels(values, channels: int, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim < 1 or values.shape[-1] != channels:
        raise ValueError(f"{name} must have {channels} channels last, got shape {values.shape}")
    return values


def _per_camera(value, num: int) -> np.ndarray:
    value = np.asarray(value, np.float64)
    if value.shape not in ((2,), (1, 2), (num, 2)):
        raise ValueError(
            f"intrinsics must have shape (2,) or {(num, 2)} for {num} ray maps, got {value.shape}"
        )
    return np.broadcast_to(value, (num, 2))
