"""Former place of painted regions and skeletons."""

from onediff_jax.tasks.pose import draw_pose  # noqa: F401
from onediff_jax.tasks.regions import paint_boxes, paint_semantic  # noqa: F401
