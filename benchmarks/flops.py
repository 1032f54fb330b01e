"""How many floating-point operations the matrix products of a function are."""

import math
from typing import Any

import jax


def matmul_flops(jaxpr: Any) -> int:
    """Of all matrix products, those in the body of a scan as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            shape, (contract, _) = (
                equation.invars[0].aval.shape,
                equation.params["dimension_numbers"][0],
            )
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contract)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(leaf):
                total += times * matmul_flops(getattr(leaf, "jaxpr", leaf))
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
