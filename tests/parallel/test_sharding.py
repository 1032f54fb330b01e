"""Sharding rules: exactly one per parameter, and what they say at full size."""

import math
import re

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from onediff_jax.experiment.build import make_experiment
from onediff_jax.parallel.mesh import AXES
from onediff_jax.parallel.sharding import RULES, path_name, spec_of, state_shardings
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.state import new_state
from tests.experiments import get_config


def mesh(*sizes: int) -> AbstractMesh:
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@pytest.fixture(scope="module")
def released() -> dict:
    """Path → shape of every parameter of the released shape."""
    shapes = make_experiment(get_config("2b8")).shapes
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return {path_name(path): leaf.shape for path, leaf in leaves}


def flat(spec: P) -> list[str]:
    """The mesh axes of a partition."""
    return [a for axes in spec if axes for a in ((axes,) if isinstance(axes, str) else axes)]


def test_one_rule_for_each_parameter(released):
    for name in released:
        matches = [pattern for pattern, _ in RULES if re.fullmatch(pattern, name)]
        assert len(matches) == 1, f"{name}: {matches}"


def test_matrices_are_spread_over_every_device(released):
    """fsdp × tensor = 16 × 8: large matrices lie in 128 parts, small things everywhere."""
    pod = mesh(1, 16, 8, 1)
    largest = 0  # numbers on one device
    for name, shape in released.items():
        axes = flat(spec_of(name, shape, pod))
        assert len(set(axes)) == len(axes)
        if not name.endswith("kernel"):
            assert axes == [], name
        elif name.startswith("layers/") and "adaLN" not in name:
            assert sorted(axes) == ["fsdp", "tensor"], name
        else:
            assert axes == ["fsdp"], name
        largest += math.prod(shape) // math.prod(pod.shape[axis] for axis in axes)
    assert largest < 2_800_389_184 / 128 * 1.75  # adaLN and the embedders are cut in 16 only


def test_which_way_matrices_lie():
    """Tensor parallelism cuts heads and hidden units: outputs of wq and w1, inputs of wo and w2."""
    pod = mesh(1, 2, 2, 1)
    assert spec_of("layers/attention/wq/kernel", (2, 8, 8), pod) == P(None, "fsdp", "tensor")
    both = P(None, ("tensor", "fsdp"))
    assert spec_of("layers/attention/wo/kernel", (2, 8, 8), pod) == both
    assert spec_of("layers/feed_forward/w2/kernel", (2, 8, 8), pod) == both
    assert spec_of("layers/attention/q_norm/scale", (2, 8), pod) == P()


def test_what_an_axis_does_not_divide_is_replicated():
    name = "layers/attention/wk/kernel"
    assert spec_of(name, (2, 8, 6), mesh(1, 4, 4, 1)) == P(None, "fsdp", None)
    name = "layers/attention/wo/kernel"
    assert spec_of(name, (2, 8, 6), mesh(1, 4, 4, 1)) == P(None, "tensor")
    assert spec_of(name, (2, 6, 8), mesh(1, 2, 4, 1)) == P(None, "fsdp")
    assert spec_of(name, (2, 5, 8), mesh(1, 2, 4, 1)) == P(None, None)


def test_no_rule():
    with pytest.raises(ValueError, match="0 sharding rules match layers/new/thing"):
        spec_of("layers/new/thing", (2, 8), mesh(1, 1, 1, 1))


def test_moments_and_average_lie_like_the_parameters():
    leaf = jax.ShapeDtypeStruct((2, 8, 8), "float32")
    optim = get_config().optim
    optim.name = "adamw"
    tx, _ = make_optimizer(optim, 1000)
    params = {"layers": {"attention": {"wq": {"kernel": leaf}}}}
    found = state_shardings(jax.eval_shape(lambda p: new_state(p, tx), params), mesh(1, 4, 2, 1))
    kernels = [s.spec for s in jax.tree.leaves(found) if s.spec == P(None, "fsdp", "tensor")]
    assert len(kernels) == 4  # parameters, EMA, two moments
    others = [s.spec for s in jax.tree.leaves(found) if s.spec != P(None, "fsdp", "tensor")]
    assert set(others) == {P()}  # counters
