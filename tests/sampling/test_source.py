"""A model whose parameters lie on every device: the devices share the rows."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

CODE = """
import jax
import numpy as np
from onediff_jax import api
from onediff_jax.evaluation.scoring import Settings, evaluate

assert jax.device_count() == 2
one = api.load("assets/tiny")
both = one.on_all_devices()
assert one.mesh is None and both.mesh.size == 2 and both.rows == 2 * one.rows
leaf = jax.tree.leaves(both.params)[0]
assert len(leaf.sharding.device_set) == 2 and leaf.sharding.is_fully_replicated
asked = [api.Request("text2image", "a red cube", seed=seed) for seed in range(3)]
for a, b in zip(api.generate(one, asked, steps=2), api.generate(both, asked, steps=2)):
    np.testing.assert_allclose(a.latents[0], b.latents[0], atol=1e-4)
settings = Settings(("image2depth",), 3, 1, 1.0, 0)
found, want = (evaluate(s, settings, quiet=True).rows[0].model for s in (both, one))
np.testing.assert_allclose(found, want, rtol=1e-3)
"""


def test_devices_share_the_rows_and_change_nothing():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, check=True
    )
