"""Orbit cameras, their ray maps, and cameras back from ray maps (numpy only).

PyTorch3D's convention: row vectors, `x_cam = x_world @ R + T`, camera axes x left, y up, z into
the scene. Focal lengths are in units of the smaller image side; where intrinsics (3, 3) or
(N, 3, 3) stand in place of one focal length, their fx, fy, cx, cy are too. A ray is its unit
direction and its moment (origin × direction), six numbers per latent pixel. World: the first
camera's frame.
"""

import numpy as np

RAY_SCALE = 1.658  # brings rays to the scale of image latents


def orbit_rays(azimuths, elevations, distances, focal: float, size: tuple[int, int]) -> np.ndarray:
    """Rays (N, h, w, 6) float32 of orbit cameras, the first of which is the world's frame."""
    return camera_rays(*rebase(*orbit_cameras(azimuths, elevations, distances)), focal, size)


def orbit_cameras(azimuths, elevations, distances) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and T (N, 3) of cameras that look at the origin of a z-up world.

    Args:
      azimuths, elevations: degrees, (N,); azimuth 0 is +x, 90 is +y; positive elevations look down.
      distances: world units, (N,), positive.
    """
    azimuth, elevation = np.deg2rad(azimuths), np.deg2rad(elevations)
    distances = np.asarray(distances, np.float64)
    if not (distances > 0).all():
        raise ValueError(f"distances must be positive, got {distances.min()}")
    zero, flat = np.zeros_like(azimuth), np.cos(elevation)
    left = np.stack([np.sin(azimuth), -np.cos(azimuth), zero], -1)
    outward = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], -1)
    rotations = np.stack([left, np.cross(left, outward), -outward], -1)
    # The origin is straight ahead of every camera, at its distance.
    return rotations, distances[:, None] * np.array([0.0, 0.0, 1.0])


def rebase(rotations, translations) -> tuple[np.ndarray, np.ndarray]:
    """The same cameras in the frame of the first: R[0] = identity, T[0] = 0."""
    relative = rotations[0].T @ rotations
    return relative, translations - np.einsum("i,nij->nj", translations[0], relative)


def cameras_from_c2w(matrices) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and T (N, 3) of camera-to-world matrices (N, 4, 4) of NeRF's convention.

    Their columns are the camera's x (right), y (up) and z (backward) in the world, then its centre.
    """
    matrices = np.asarray(matrices, np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4):
        raise ValueError(f"camera-to-world matrices {matrices.shape} must be (N, 4, 4)")
    rotations = matrices[:, :3, :3] * np.array([-1.0, 1.0, -1.0])
    wrong = np.abs(np.swapaxes(rotations, 1, 2) @ rotations - np.eye(3)).max((1, 2)) > 1e-3
    if wrong.any():
        raise ValueError(f"camera-to-world matrices {np.flatnonzero(wrong).tolist()} do not rotate")
    return rotations, -np.einsum("ni,nij->nj", matrices[:, :3, 3], rotations)


def camera_rays(rotations, translations, focal, size: tuple[int, int]) -> np.ndarray:
    """Rays (N, h, w, 6) float32 through the pixel centres of (h, w) latent images."""
    local = _local_directions(focal, size, len(rotations))
    directions = np.einsum("nhwj,nij->nhwi", local, rotations)
    centres = -np.einsum("nij,nj->ni", rotations, translations)
    moments = np.cross(centres[:, None, None], directions)
    return np.concatenate([directions, moments], -1).astype(np.float32)


def ray_frames(rays: np.ndarray) -> np.ndarray:
    """Rays (N, h, w, 6) → latent frames (N, 16, h, w): the six channels repeated, times 1.658."""
    frames = RAY_SCALE * np.concatenate([rays, rays, rays[..., :4]], -1)
    return np.moveaxis(frames, -1, 1)


def rays_from_frames(frames: np.ndarray) -> np.ndarray:
    """Latent frames (N, 16, h, w) → rays (N, h, w, 6), repeated channels averaged."""
    frames = np.moveaxis(np.asarray(frames, np.float64), 1, -1) / RAY_SCALE
    total = frames[..., :6] + frames[..., 6:12]
    total[..., :4] += frames[..., 12:]
    return total / np.array([3, 3, 3, 3, 2, 2])


def cameras_from_rays(rays: np.ndarray, focal) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and T (N, 3) that best explain rays (N, h, w, 6), in the world of the rays.

    The rotation aligns the directions with those the focal length gives (SVD); the centre is the
    point nearest to all rays.
    """
    rays = np.asarray(rays, np.float64)
    local = _local_directions(focal, rays.shape[1:3], len(rays))
    norms = np.linalg.norm(rays[..., :3], axis=-1, keepdims=True)
    if not (norms > 1e-6).all():
        raise ValueError("rays with a direction of zero length, or not finite")
    unit, moments = rays[..., :3] / norms, rays[..., 3:]
    left, _, right = np.linalg.svd(np.einsum("nhwi,nhwj->nij", unit, local))
    left[:, :, 2] *= np.linalg.det(left @ right)[:, None]  # a rotation, never a mirror image
    rotations = left @ right
    # direction × moment is the point of a ray nearest to the origin.
    projections = np.eye(3) - unit[..., :, None] * unit[..., None, :]
    points = np.einsum("nhwij,nhwj->ni", projections, np.cross(unit, moments))
    centres = np.linalg.solve(projections.sum((1, 2)), points[..., None])[..., 0]
    return rotations, -np.einsum("ni,nij->nj", centres, rotations)


def _local_directions(focal, size: tuple[int, int], count: int) -> np.ndarray:
    """(count, h, w, 3) unit directions through the pixel centres, in camera axes."""
    centre = np.array([size[1], size[0]]) / (2 * min(size))  # of the picture: (x, y)
    if np.ndim(focal) == 0:
        focal = np.diag([focal, focal, 1.0])
        focal[:2, 2] = centre
    intrinsics = np.asarray(focal, np.float64)
    if intrinsics.shape not in ((3, 3), (count, 3, 3)):
        raise ValueError(f"intrinsics {intrinsics.shape} must be (3, 3) or ({count}, 3, 3)")
    intrinsics = np.broadcast_to(intrinsics, (count, 3, 3))
    lengths = intrinsics[:, [0, 1], [0, 1]]
    if not ((lengths > 0) & (lengths < 30)).all():
        raise ValueError(
            f"focal lengths must be positive and in units of the smaller image side, such as"
            f" 1.3887, not pixels; got {lengths.min():g}..{lengths.max():g}"
        )
    # x grows to the left and y upward, from the picture's centre.
    axes = [np.linspace(n - 1, 1 - n, n) / (min(size) * 2) for n in (size[1], size[0])]
    offsets = intrinsics[:, :2, 2] - centre
    x, y = ((axes[i] + offsets[:, i, None]) / lengths[:, i, None] for i in range(2))
    shape = (count, *size)
    planes = (np.broadcast_to(x[:, None, :], shape), np.broadcast_to(y[:, :, None], shape))
    plane = np.stack([*planes, np.ones(shape)], -1)
    return plane / np.linalg.norm(plane, axis=-1, keepdims=True)
