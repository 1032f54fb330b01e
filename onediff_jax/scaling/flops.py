"""How many floating-point operations the matrix products of a step are, from its trace."""

import dataclasses
import math
from typing import Any

import jax
from ml_collections import ConfigDict

from onediff_jax.experiment.build import make_experiment
from onediff_jax.models.lora import join
from onediff_jax.run.train_step import flow_loss
from onediff_jax.scaling.program import batch_shapes, shapes_only


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations (2 per multiplication) of one step's products.

    `dense` are products with parameters, `attention` those of activations with each other.
    """

    dense: int
    attention: int

    @property
    def total(self) -> int:
        """Both."""
        return self.dense + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.dense + other.dense, self.attention + other.attention)

    def __mul__(self, times: int) -> "Flops":
        return Flops(self.dense * times, self.attention * times)


def model_flops(config: ConfigDict) -> Flops:
    """Of a train step of `config` that recomputes nothing: of the loss and its gradient.

    Traced from shapes with plain attention, since kernels hide their products.
    """
    config = shapes_only(config).unlock()
    config.model.update(attention="reference", remat="none", unroll=1)
    config.train.update(batch_rows=config.train.batch_rows * config.train.accumulate, accumulate=1)
    experiment = make_experiment(config.lock(), with_data=False)

    def loss(params, frozen, batch, key):
        return flow_loss(join(params, frozen), batch, key, experiment)[0]

    params, batch = experiment.shapes, batch_shapes(experiment)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return matmul_flops(
        jax.make_jaxpr(jax.grad(loss))(params, experiment.frozen_shapes, batch, key)
    )


def matmul_flops(jaxpr: Any) -> Flops:
    """Of all matrix products, those in the body of a scan as often as it runs."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = Flops(0, 0)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            shape, (contract, batched) = (
                equation.invars[0].aval.shape,
                equation.params["dimension_numbers"],
            )
            shared = math.prod(shape[i] for i in contract[0])
            flops = 2 * equation.outvars[0].aval.size * shared
            # A parameter has no dimension in common with activations, two of these share rows.
            total += Flops(0, flops) if batched[0] else Flops(flops, 0)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(leaf):
                total += matmul_flops(leaf) * times
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
