"""The colour detector, fitted once."""

import pytest

from onediff_jax.data.world import World
from onediff_jax.evaluation.scores.shown_colors import ColorDetector


@pytest.fixture(scope="session")
def detector():
    world = World(seed=0, level="simple")
    scenes = [world.scene(i) for i in range(192)]
    return ColorDetector((scene, world.render(scene, 64, 64)) for scene in scenes)
