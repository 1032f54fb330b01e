"""Former place of edges and depth maps."""

from onediff_jax.tasks.depth import Normalisation, depth_from_image, depth_image  # noqa: F401
from onediff_jax.tasks.edges import canny, soft_edges  # noqa: F401
from onediff_jax.tasks.pictures import check_image  # noqa: F401
