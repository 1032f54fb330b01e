"""How the field measures: each protocol's arithmetic, on arrays, with the numbers of its own code.

Every function takes numpy arrays (or COCO's dictionaries) and returns plain numbers. A value that
does not exist is NaN. One file per family; each names the evaluation code that it agrees with.
"""

from onediff_jax.evaluation.metrics.cameras import auc, camera_scores
from onediff_jax.evaluation.metrics.coco import box_scores, keypoint_scores
from onediff_jax.evaluation.metrics.depth import depth_scores
from onediff_jax.evaluation.metrics.distributions import frechet_distance, kernel_distance
from onediff_jax.evaluation.metrics.edges import edge_scores
from onediff_jax.evaluation.metrics.editing import edit_scores
from onediff_jax.evaluation.metrics.geneval import geneval_decision, geneval_summary
from onediff_jax.evaluation.metrics.keypoints import pck
from onediff_jax.evaluation.metrics.lpips import lpips_distance
from onediff_jax.evaluation.metrics.segmentation import segmentation_scores
from onediff_jax.evaluation.metrics.views import view_scores

__all__ = [
    "auc",
    "box_scores",
    "camera_scores",
    "depth_scores",
    "edge_scores",
    "edit_scores",
    "frechet_distance",
    "geneval_decision",
    "geneval_summary",
    "kernel_distance",
    "keypoint_scores",
    "lpips_distance",
    "pck",
    "segmentation_scores",
    "view_scores",
]
