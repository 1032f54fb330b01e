"""Matrix products of a compiled program."""

import math
import re

import numpy as np

from onediff_jax.scaling.hlo import Computation, Instruction, Module

CUBLAS = 'custom_call_target="__cublas$'


def product_flops(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Of matrix products, fused ones included."""
    if instruction.opcode == "fusion":
        inner = module.computations[instruction.attribute("calls")]
        return sum(product_flops(module, inner, i) for i in inner.instructions)
    if instruction.opcode == "convolution":
        return _convolution_flops(computation, instruction)
    if instruction.opcode == "dot":
        left = computation.by_name[instruction.operands[0]].arrays[0].dims
        contracted = _search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)[1]
        shared = math.prod(left[int(n)] for n in contracted.split(",") if n)
        return 2.0 * instruction.arrays[0].size * shared
    if instruction.opcode == "custom-call" and CUBLAS in instruction.rest:
        left = computation.by_name[instruction.operands[0]].arrays[0].dims
        contracted = _search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.rest)[1]
        shared = math.prod(left[int(n)] for n in re.findall(r"\d+", contracted))
        return 2.0 * instruction.arrays[0].size * shared
    return 0.0


def _search(pattern: str, text: str) -> re.Match[str]:
    """What must be in the text of an instruction."""
    found = re.search(pattern, text)
    assert found is not None, (pattern, text)
    return found


def _convolution_flops(computation: Computation, instruction: Instruction) -> float:
    """TPUs write products as convolutions; window positions outside the input do no work."""
    labels = _search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    left, right = (computation.by_name[n].arrays[0].dims for n in instruction.operands[:2])
    (lhs, _, out), result = labels.groups(), instruction.arrays[0].dims
    window = _window(instruction.rest, sum(c.isdigit() for c in lhs))
    pairs = 1.0
    for axis, settings in enumerate(window):
        name = str(axis)
        pairs *= _positions(left[lhs.index(name)], result[out.index(name)], **settings)
    features, batches = (
        int(found[1]) if (found := re.search(rf"{key}=(\d+)", instruction.rest)) else 1
        for key in ("feature_group_count", "batch_group_count")
    )
    inner = left[lhs.index("f")] / features
    return 2.0 * inner * result[out.index("f")] * left[lhs.index("b")] / batches * pairs


def _window(text: str, axes: int) -> list[dict[str, int]]:
    """Settings of every spatial axis."""
    found = re.search(r"window=\{([^}]*)\}", text)
    given = dict(part.split("=") for part in found[1].split()) if found else {}

    def values(key: str, default: str) -> list[str]:
        return given[key].split("x") if key in given else [default] * axes

    names = ("size", "stride", "lhs_dilate", "rhs_dilate")
    columns = [[int(n) for n in values(name, "1")] for name in names]
    columns.append([int(n.split("_")[0]) for n in values("pad", "0_0")])
    return [
        dict(zip((*names, "pad"), settings, strict=True)) for settings in zip(*columns, strict=True)
    ]


def _positions(
    length: int, result: int, *, size: int, stride: int, lhs_dilate: int, rhs_dilate: int, pad: int
) -> int:
    """How many (output, window) pairs meet an element of the input."""
    at = np.arange(result)[:, None] * stride - pad + np.arange(size) * rhs_dilate
    inside = (at >= 0) & (at < (length - 1) * lhs_dilate + 1) & (at % lhs_dilate == 0)
    return int(inside.sum())
