"""The procedural world: seeded 3-D scenes rendered in numpy, with the exact ground truth of every
task.
"""

from onediff_jax.data.world.palette import PALETTE
from onediff_jax.data.world.render import Box, View
from onediff_jax.data.world.scene import CLASSES, OrbitCamera, Scene, Thing
from onediff_jax.data.world.world import World

__all__ = [
    "CLASSES",
    "PALETTE",
    "Box",
    "OrbitCamera",
    "Scene",
    "Thing",
    "View",
    "World",
]
