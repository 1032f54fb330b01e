"""Eight simulated devices train like one: fully sharded; with tensor parallelism on two slices and
the average in the memory of the host; with tokens split. What one mesh saved another restores.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onediff_jax.run.loop import train
from tests.experiments import shrunken

ROOT = Path(__file__).parents[2]
CONFIG = {
    "rows": (("identity", 1, 4, 4),),  # four chunks
    "model__depth": 1,
    "data__tasks__text2image": 0.0,
    "data__tasks__depth2image": 0.0,
    "data__tasks__image_inpainting": 0.0,
    "data__tasks__multiview": 0.0,
    "train__batch_rows": 8,
    "train__steps": 3,
    "optim__warmup_steps": 0,
}
CHANGES = (
    {"mesh__fsdp": 8},
    {
        "mesh__replica": 2,
        "mesh__fsdp": 2,
        "mesh__tensor": 2,
        "mesh__slices": 2,
        "ema__offload": True,
    },
    {"mesh__fsdp": 2, "mesh__sequence": 4},
)
CODE = """
import sys
import jax
from onediff_jax.run.checkpoint import Checkpoints
from onediff_jax.run.local_saves import LocalSaveError, LocalSaves
from onediff_jax.run.loop import train
from tests.experiments import shrunken
assert jax.device_count() == 8
states = []
def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.sharding == b.sharding and (jax.device_get(a) == jax.device_get(b)).all()
def on(state, other):
    return jax.tree.map(
        lambda a, b: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=b.sharding), state, other
    )
for number, changes in enumerate({changes}):
    state = train(shrunken(**{config}, **changes), f"{{sys.argv[1]}}/{{number}}")
    parts = state.params["layers"]["feed_forward"]["w1"]["kernel"].sharding.spec
    assert [axis for axis in parts if axis] == ["fsdp", "tensor"], parts
    memory = {{leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.ema)}}
    assert memory == {{"pinned_host" if "ema__offload" in changes else "device"}}, memory
    if "ema__offload" in changes:  # it is restored to where it was
        again = train(shrunken(**{config}, **changes), f"{{sys.argv[1]}}/{{number}}")
        same(state.ema, again.ema)
    states.append(state)
# On another mesh than it was saved on: the same numbers, which the checksums fit.
first, second, third = states
checkpoints = Checkpoints(f"{{sys.argv[1]}}/0")
_, restored, _ = checkpoints.restore(on(first, third), strict=True)
checkpoints.close()
same(restored, jax.tree.map(lambda a, b: jax.device_put(a, b.sharding), first, third))
# On local disks each process saves the parts that it has, and takes them back as they were.
saves = LocalSaves(f"{{sys.argv[1]}}/local", "run")
saves.save(3, second, {{"batches": 3}})
saves.wait()
loaded, data = saves.load(3, on(second, second))
same(loaded, second)
assert data == {{"batches": 3}}
try:
    saves.load(3, on(second, first))
except LocalSaveError as error:
    assert "lies on other devices than it did" in str(error), error
else:
    raise AssertionError("loaded on another mesh")
"""


def numbers(workdir: Path) -> tuple[list[float], list[float]]:
    """Losses of the steps and of the held-out scenes; gradient norms of the steps."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    losses = [line["loss"] for line in steps] + [lines[-1]["held_out"]]
    return losses, [line["grad_norm"] for line in steps]


@pytest.mark.slow
def test_like_one_device(tmp_path):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, "-c", CODE.format(changes=CHANGES, config=CONFIG), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        check=True,
    )
    train(shrunken(**CONFIG), tmp_path / "one")
    losses, norms = numbers(tmp_path / "one")
    for number, changes in enumerate(CHANGES):
        found = numbers(tmp_path / str(number))
        np.testing.assert_allclose(found[0], losses, rtol=1e-5, err_msg=str(changes))
        # Adam's first steps are sign(gradient): rounding of tiny gradients shows most here.
        np.testing.assert_allclose(found[1], norms, rtol=5e-3, err_msg=str(changes))
