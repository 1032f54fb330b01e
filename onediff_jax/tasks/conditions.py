"""Conditions read off an image or its depth: edge maps and depth maps.

Images are uint8 (H, W, 3). Every length is relative to the smaller side, so a condition looks the
same at every resolution; every random choice comes from the generator passed in.
"""

import dataclasses

import numpy as np
from scipy import ndimage

_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


def check_image(image: np.ndarray) -> np.ndarray:
    """The image itself.

    Raises:
      ValueError: not uint8, not (H, W, 3), or empty.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    return image


def canny(image: np.ndarray, low: float = 100.0, high: float = 200.0) -> np.ndarray:
    """Canny edges, one pixel thin, white on black (Canny 1986).

    Args:
      image: (H, W, 3) uint8.
      low, high: hysteresis thresholds on the length of the 3x3 Sobel gradient of the channel where
        it is longest (a step of height s gives up to about 2 s after smoothing).

    Returns:
      (H, W, 3) uint8, 0 or 255.
    """
    if not 0 <= low <= high:
        raise ValueError(f"thresholds must satisfy 0 <= low <= high, got {low=}, {high=}")
    planes = _smooth(_planes(image), max(0.7, 0.002 * min(image.shape[:2])))
    # The channel with the longest gradient: an edge between colours of equal brightness counts.
    across, down, magnitude = _sobel(planes[0])
    for plane in planes[1:]:
        other_across, other_down, other = _sobel(plane)
        longer = other > magnitude
        across, down = (np.where(longer, other_across, across), np.where(longer, other_down, down))
        magnitude = np.maximum(magnitude, other)
    weak = _is_ridge(magnitude, across, down) & (magnitude > low)
    # Hysteresis: weak pixels stay where their component holds a strong one.
    components, count = ndimage.label(weak, _EIGHT_NEIGHBOURS)
    strong = np.zeros(count + 1, np.uint8)
    strong[components[weak & (magnitude > high)]] = 255
    strong[0] = 0
    return np.repeat(strong[components][..., None], 3, -1)


def random_canny(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`canny` with a low threshold in 40..100 and a high one 1.5 to 2.5 times that."""
    low = rng.uniform(40, 100)
    return canny(image, low, low * rng.uniform(1.5, 2.5))


def soft_edges(image: np.ndarray) -> np.ndarray:
    """Thick soft edges, white on black: what HED draws, without its network.

    Gradient lengths at two scales, multiplied (an edge shows at both, texture and shading at one)
    and squashed so that a clear edge is white; colours count, not only brightness.

    Returns:
      (H, W, 3) uint8, grey.
    """
    planes = _planes(image)
    side = min(planes.shape[1:])
    fine, coarse = (_squared_strength(planes, max(0.6, scale * side)) for scale in (0.003, 0.01))
    square = np.sqrt(fine * coarse)
    # The floor keeps faint noise dark in images without edges.
    half = max(16.0**2, 0.25 * float(np.percentile(square, 97)))
    grey = np.rint(255 * square / (square + half)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """How grey stands for depth: white = near, grey 1 = far, black = nothing known (sky).

    Attributes:
      near, far: metres (or world units) at the ends; far may be infinite with kind "inverse".
      kind: "inverse", grey linear in 1 / depth (as MiDaS), or "linear", grey linear in depth.
    """

    near: float
    far: float
    kind: str = "inverse"

    def __post_init__(self):
        if self.kind not in ("inverse", "linear"):
            raise ValueError(f"unknown kind {self.kind!r}; choose from ['inverse', 'linear']")
        if not 0 < self.near <= self.far or (self.kind == "linear" and np.isinf(self.far)):
            raise ValueError(
                f"depth range needs 0 < near <= far, finite if linear, "
                f"got near={self.near}, far={self.far}, kind={self.kind}"
            )


def depth_image(
    depth: np.ndarray, *, near: float | None = None, far: float | None = None, kind: str = "inverse"
) -> tuple[np.ndarray, Normalisation]:
    """A depth map as a grey image.

    Args:
      depth: (H, W) distances along the optical axis; infinite = sky, and NaN or values <= 0 =
        unknown, become black.
      near, far: the range that grey covers, depths beyond are clipped. None: the map's own extreme.
        With a fixed range grey means the same depth in every image, so metres can be recovered
        from a generated image; with the map's own range only up to scale and shift.
      kind: see Normalisation.

    Returns:
      (H, W, 3) uint8 and the normalisation that `depth_from_image` needs.

    Raises:
      ValueError: not 2-D, no finite depth to take a missing bound from, or an empty range.
    """
    depth = np.asarray(depth, np.float32)
    if depth.ndim != 2:
        raise ValueError(f"depth must have shape (H, W), got {depth.shape}")
    valid = np.isfinite(depth) & (depth > 0)
    if near is None or far is None:
        if not valid.any():
            raise ValueError("depth has no finite positive value; give near and far")
        known = depth[valid]
        near = float(known.min()) if near is None else near
        far = float(known.max()) if far is None else far
    norm = Normalisation(near, far, kind)
    clipped = np.clip(np.where(valid, depth, norm.near), norm.near, norm.far)
    if norm.near == norm.far:
        nearness = np.ones_like(clipped)
    elif kind == "inverse":
        nearness = (1 / clipped - 1 / norm.far) / (1 / norm.near - 1 / norm.far)
    else:
        nearness = (norm.far - clipped) / (norm.far - norm.near)
    grey = np.where(valid, np.rint(1 + 254 * nearness), 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1), norm


def depth_from_image(image: np.ndarray, norm: Normalisation) -> np.ndarray:
    """(H, W) float32 depth of a grey image (H, W, 3), uint8 or float in 0..255.

    Inverts `depth_image`: black is infinite. Channels are averaged, as generated ones differ.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image must have shape (H, W, 3), got {image.shape}")
    grey = image.mean(-1, dtype=np.float32)
    nearness = np.clip((grey - 1) / 254, 0, 1)
    if norm.kind == "inverse":
        inverse = 1 / norm.far + nearness * (1 / norm.near - 1 / norm.far)
        depth = 1 / np.maximum(inverse, 1e-12)
    else:
        depth = norm.far - nearness * (norm.far - norm.near)
    return np.where(grey < 0.5, np.inf, depth).astype(np.float32)


def _planes(image: np.ndarray) -> np.ndarray:
    """(3, H, W) float32: filters run faster over planes than over interleaved channels."""
    return np.ascontiguousarray(check_image(image).transpose(2, 0, 1), np.float32)


def _smooth(planes: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(planes, (0, sigma, sigma), truncate=2.5)


def _squared_strength(planes: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) squared gradient length at a scale, of the channel where it is longest.

    Times sigma squared, so that a step edge has the same strength at every scale.
    """
    padded = np.pad(_smooth(planes, sigma), ((0, 0), (1, 1), (1, 1)), "edge")
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    across *= across
    down *= down
    across += down
    return np.float32(sigma**2) * across.max(0)


def _sobel(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """3x3 Sobel derivatives (across, down) of (H, W), not normalised, and their length."""
    padded = np.pad(values, 1, "edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    return across, down, np.sqrt(across * across + down * down)


def _is_ridge(magnitude: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """(H, W) bool: larger than both neighbours along the gradient, in steps of 45 degrees."""
    padded = np.pad(magnitude, 1)
    height, width = magnitude.shape

    def neighbour(dy, dx):
        return padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    steep = np.float32(np.tan(np.pi / 8))
    horizontal = np.abs(down) <= steep * np.abs(across)
    vertical = np.abs(across) <= steep * np.abs(down)
    falling = across * down > 0  # the gradient points right and down, or left and up
    ahead = np.where(falling, neighbour(1, 1), neighbour(1, -1))
    behind = np.where(falling, neighbour(-1, -1), neighbour(-1, 1))
    for mask, (dy, dx) in ((horizontal, (0, 1)), (vertical, (1, 0))):
        ahead = np.where(mask, neighbour(dy, dx), ahead)
        behind = np.where(mask, neighbour(-dy, -dx), behind)
    # Not symmetric, so that two equal pixels leave one line and not two.
    return (magnitude >= ahead) & (magnitude > behind)
