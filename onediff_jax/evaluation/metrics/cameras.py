"""Camera poses: RayDiffusion's rotation and centre errors, PoseDiffusion's angles between pairs."""

import itertools

import numpy as np

THRESHOLDS = (5, 10, 15, 30)  # degrees, of the areas under the curve that are published
_COS_BOUND = 1 - 1e-4  # beyond it PyTorch3D's angle follows the tangent of the arc cosine


class CameraScores(dict):
    """The result of `camera_scores`: a dictionary that also knows `auc` of any threshold."""

    def auc(self, threshold: int) -> float:
        """The area under the accuracy curve up to a whole number of degrees."""
        return auc(self["relative_rotation"], self["relative_translation"], threshold)


def camera_scores(
    R_truth: np.ndarray,
    T_truth: np.ndarray,
    R: np.ndarray,
    T: np.ndarray,
    *,
    scene_scale: float | None = None,
) -> CameraScores:
    """The errors of N cameras of one scene, in the row convention x_camera = x_world @ R + T.

    Args:
      R_truth, R: (N, 3, 3) rotations, true and predicted.
      T_truth, T: (N, 3) translations.
      scene_scale: the largest distance of a camera of the whole sequence from the centroid of
        all; None takes the cameras given.

    Returns
      rotation: (N(N−1),) degrees, the relative rotation's error of every ordered pair
        (RayDiffusion; accuracy is the share below 15).
      centre: (N,) distance of the centres after the best similarity without reflection, in units
        of the scene's scale (accuracy is the share below 0.1 or 0.3; with two cameras it says
        nothing). NaN where predicted or true centres coincide: a miss.
      scene_scale: the one used.
      relative_rotation, relative_translation: (N(N−1)/2,) degrees per unordered pair
        (PoseDiffusion). PyTorch3D's angle is used, in which an exact rotation scores 0.405; the
        translation's sign does not count, and a zero vector scores 90.
      auc5, auc10, auc15, auc30: areas under the accuracy curve of both angles.

    Raises ValueError for other shapes or fewer than two cameras.
    """
    R_truth, T_truth, R, T = (np.asarray(a, np.float64) for a in (R_truth, T_truth, R, T))
    num = len(R_truth)
    if not (R_truth.shape == R.shape == (num, 3, 3) and T_truth.shape == T.shape == (num, 3)):
        shapes = [a.shape for a in (R_truth, T_truth, R, T)]
        raise ValueError(f"{shapes=} must be (N, 3, 3), (N, 3), (N, 3, 3), (N, 3)")
    if num < 2:
        raise ValueError(f"poses are relative: {num} camera has none, two are needed")
    centres, predicted = camera_centres(R_truth, T_truth), camera_centres(R, T)
    if scene_scale is None:
        scene_scale = scale_of(centres)
    with np.errstate(all="ignore"):
        distance = np.linalg.norm(align_similarity(centres, predicted) - centres, axis=1)
        relative = distance / np.float64(scene_scale)
    found = CameraScores(
        rotation=_rotation_errors(R_truth, R), centre=relative, scene_scale=float(scene_scale)
    )
    found["relative_rotation"], found["relative_translation"] = _pair_errors(R_truth, T_truth, R, T)
    return CameraScores(found | {f"auc{t}": found.auc(t) for t in THRESHOLDS})


def auc(rotation: np.ndarray, translation: np.ndarray, threshold: int = 30) -> float:
    """The area under the accuracy curve of pairs, PoseDiffusion's numpy variant (test.py).

    Args:
      rotation, translation: (pairs,) errors in degrees; a pair counts by its larger one, NaN is a
        miss.
      threshold: degrees, a whole number: bins of one degree, the last with its upper end.
    """
    worst = np.maximum(np.asarray(rotation, np.float64), np.asarray(translation, np.float64))
    if not len(worst):
        return float("nan")
    counts, _ = np.histogram(worst[np.isfinite(worst)], bins=np.arange(threshold + 1))
    return float(np.mean(np.cumsum(counts) / len(worst)))


def camera_centres(R: np.ndarray, T: np.ndarray) -> np.ndarray:
    """(N, 3): where the cameras are in the world."""
    return -np.einsum("ni,nji->nj", T, R)


def scale_of(centres: np.ndarray) -> float:
    """The largest distance of a centre from the centroid."""
    return float(np.linalg.norm(centres - centres.mean(0), axis=1).max())


def align_similarity(target: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) under the similarity without reflection that fits the target best (Umeyama).

    NaN where all points coincide.
    """
    middle, own = target.mean(0), points.mean(0)
    u, s, vt = np.linalg.svd((points - own).T @ (target - middle))
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    with np.errstate(all="ignore"):
        scale = np.float64((s * sign).sum()) / np.square(points - own).sum()
        return scale * (points - own) @ (u * sign) @ vt + middle


def _rotation_errors(R_truth, R) -> np.ndarray:
    first, second = np.array(
        [(j, i) for i, j in itertools.product(range(len(R)), repeat=2) if i != j]
    ).T
    relative = [np.einsum("nki,nkj->nij", r[first], r[second]) for r in (R_truth, R)]
    cosine = (np.einsum("nij,nij->n", *relative) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _pair_errors(R_truth, T_truth, R, T) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.array(list(itertools.combinations(range(len(R)), 2))).T

    def relative(rotation, translation):
        turn = np.einsum("nki,nkj->nij", rotation[first], rotation[second])
        return turn, translation[second] - np.einsum("ni,nij->nj", translation[first], turn)

    (turn, shift), (turn_truth, shift_truth) = relative(R, T), relative(R_truth, T_truth)
    cosine = (np.einsum("nij,nij->n", turn, turn_truth) - 1) / 2
    dot = np.einsum("ni,ni->n", _unit(shift), _unit(shift_truth))
    translation = np.degrees(np.arccos(np.clip(np.abs(dot), 0, 1)))
    return np.degrees(_extrapolated_arccos(cosine)), translation


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-15)


def _extrapolated_arccos(cosine: np.ndarray) -> np.ndarray:
    inside = np.clip(cosine, -_COS_BOUND, _COS_BOUND)
    return np.arccos(inside) - (cosine - inside) / np.sqrt(1 - inside**2)
