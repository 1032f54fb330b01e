"""The figure's keypoints, its skeleton, and its poses as directions of its limbs."""

import numpy as np

KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

# Pairs of indices into KEYPOINTS, the bones of a drawn skeleton.
LIMBS = (
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (5, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (5, 11),
    (6, 12),
    (11, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
)

# How deep under the skin each keypoint lies, in body units: a keypoint nearer to the visible
# surface than this is seen.
KEYPOINT_DEPTH = np.array(
    [0.04] * 3 + [0.06] * 2 + [0.09] * 2 + [0.06] * 4 + [0.13] * 2 + [0.08] * 4
)

# pose -> (what a caption says, then directions of upper and lower left arm, right arm, left leg,
# right leg)
POSES = {
    "standing": (
        "standing",
        ((0.05, 0.28, -1), (0.18, 0.08, -1), (0.05, -0.28, -1), (0.18, -0.08, -1)),
        ((0, 0.1, -1), (0, 0.05, -1), (0, -0.1, -1), (0, -0.05, -1)),
    ),
    "waving": (
        "waving",
        ((0.05, 0.3, -1), (0.15, 0.1, -1), (0.1, -1, 0.45), (0.15, -0.25, 1)),
        ((0, 0.12, -1), (0, 0.05, -1), (0, -0.12, -1), (0, -0.05, -1)),
    ),
    "walking": (
        "walking",
        ((0.6, 0.2, -1), (1, 0, -0.4), (-0.6, -0.2, -1), (-0.1, -0.1, -1)),
        ((-0.5, 0.05, -1), (-0.9, 0, -1), (0.6, -0.05, -1), (0.1, 0, -1)),
    ),
    "running": (
        "running",
        ((0.9, 0.25, -0.8), (1, -0.2, 0.6), (-1, -0.25, -0.5), (0.3, -0.1, -1)),
        ((-0.75, 0.05, -1), (-1, 0, 0.15), (1, -0.05, -0.75), (-0.15, 0, -1)),
    ),
    "arms_up": (
        "raising both arms",
        ((0, 0.65, 1), (0, 0.1, 1), (0, -0.65, 1), (0, -0.1, 1)),
        ((0, 0.25, -1), (0, 0.15, -1), (0, -0.25, -1), (0, -0.15, -1)),
    ),
    "arms_out": (
        "stretching out both arms",
        ((0, 1, 0.02), (0, 1, 0), (0, -1, 0.02), (0, -1, 0)),
        ((0, 0.2, -1), (0, 0.12, -1), (0, -0.2, -1), (0, -0.12, -1)),
    ),
    "sitting": (
        "sitting on the ground",
        ((0.45, 0.35, -1), (0.9, 0, -0.25), (0.45, -0.35, -1), (0.9, 0, -0.25)),
        ((1, 0.3, 0.55), (0.5, 0.05, -1), (1, -0.3, 0.55), (0.5, -0.05, -1)),
    ),
    "kneeling": (
        "kneeling",
        ((0.2, 0.3, -1), (0.7, -0.1, -0.7), (0.2, -0.3, -1), (0.7, 0.1, -0.7)),
        ((0.2, 0.15, -1), (-1, 0, -0.12), (1, -0.15, -0.05), (0, 0, -1)),
    ),
    "pointing": (
        "pointing to one side",
        ((0.15, 1, 0.1), (0.15, 1, 0.1), (0.05, -0.3, -1), (0.15, -0.1, -1)),
        ((0, 0.12, -1), (0, 0.06, -1), (0, -0.12, -1), (0, -0.06, -1)),
    ),
    "hands_on_hips": (
        "standing with hands on hips",
        ((-0.1, 0.95, -0.85), (0.25, -1, -0.7), (-0.1, -0.95, -0.85), (0.25, 1, -0.7)),
        ((0, 0.2, -1), (0, 0.1, -1), (0, -0.2, -1), (0, -0.1, -1)),
    ),
    "kicking": (
        "kicking",
        ((-0.3, 0.8, -0.6), (0, 0.6, -0.3), (0.3, -0.8, -0.6), (0.3, -0.6, -0.3)),
        ((-0.1, 0.1, -1), (-0.1, 0.03, -1), (1, -0.05, -0.5), (1, 0, -0.15)),
    ),
}
