"""What a compiled program does in one step on one device."""

import dataclasses
import math
import re

from onediff_jax.scaling.collectives import Collective, collectives_of
from onediff_jax.scaling.hlo import Instruction, Module, Run
from onediff_jax.scaling.products import product_flops
from onediff_jax.scaling.traffic import hbm_bytes

_TARGETS = ("tpu_custom_call", "mosaic_gpu", "__gpu$xla.gpu.triton", "__cudnn$fmha")
_KERNELS = [f'custom_call_target="{name}' for name in _TARGETS]
# Of models/attention/triton.py: name → products of t × s × h per head.
_TRITON = {"attention_forward": 2, "attention_backward_queries": 3, "attention_backward_keys": 4}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A Pallas kernel, or one of cuDNN: XLA knows nothing of what it computes."""

    name: str
    flops: float | None  # of one call; None where it is not known here
    times: int


@dataclasses.dataclass
class Costs:
    """Of one step on one device.

    Attributes:
      flops: of matrix products in XLA's own instructions, 2 per multiplication.
      loop_flops: of these, within each loop, by its name.
      hbm_bytes: read and written in HBM, each operand and result of an instruction once.
      loops: name → how often it runs in all.
      labels: name → "forward" or "backward" for the loops over layers, else the name.
    """

    flops: float = 0.0
    loop_flops: dict[str, float] = dataclasses.field(default_factory=dict)
    hbm_bytes: float = 0.0
    loops: dict[str, int] = dataclasses.field(default_factory=dict)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    kernels: list[Kernel] = dataclasses.field(default_factory=list)


def costs_of(module: Module) -> Costs:
    """Sums over everything that runs, loops as often as they do."""
    found = Costs()
    for run in module.runs():
        loop = run.loops[-1] if run.loops else ""
        if loop:
            found.loops[loop] = run.times
        for instruction in run.computation.instructions:
            if instruction.opcode == "while":
                found.labels[instruction.attribute("body")] = _label(instruction)
            flops = run.times * product_flops(module, run.computation, instruction)
            found.flops += flops
            found.loop_flops[loop] = found.loop_flops.get(loop, 0.0) + flops
            found.hbm_bytes += run.times * hbm_bytes(module, run.computation, instruction)
            found.collectives += collectives_of(module, run, instruction)
            if any(target in instruction.rest for target in _KERNELS):
                found.kernels.append(_kernel(run, instruction))
    return found


def _label(loop: Instruction) -> str:
    """Which pass of the layers a loop is, from what jax calls it."""
    name = re.search(r'op_name="([^"]*)"', loop.rest)
    if name is None or "jvp" not in name[1]:
        return loop.name
    return "backward" if "transpose" in name[1] else "forward"


def _kernel(run: Run, instruction: Instruction) -> Kernel:
    """Attention is known by its name: each product is of t × s × h per head."""
    arrays = [run.computation.by_name[n].arrays[0] for n in instruction.operands]
    wide = [a.dims for a in arrays if a.dtype in ("bf16", "f16", "f32") and len(a.dims) >= 3]
    name, products, keys = re.sub(r"\.\d+$", "", instruction.name), None, -3
    if "splash" in instruction.name:
        phases = {"fwd": 2, "dkv": 5, "dq": 3}
        phase = next((p for p in phases if f"_{p}_" in f"{instruction.name}_"), "")
        products, keys = phases.get(phase), -2
    elif ours := next((n for n in _TRITON if f'"{n}"' in instruction.rest), None):
        name, products = f"triton_{ours.removeprefix('attention_')}", _TRITON[ours]
    elif "FlashAttention" in instruction.rest:  # of tokamax
        backward = "dkv" if len(instruction.arrays) > 1 else "dq"
        phase = backward if "FlashAttentionVjp" in instruction.rest else "fwd"
        name, products = f"tokamax_{phase}", {"fwd": 2, "dkv": 4, "dq": 3}[phase]
    elif "__cudnn$fmha" in instruction.rest:
        backward = "Backward" in instruction.rest
        name, products = ("cudnn_bwd", 5) if backward else ("cudnn_fwd", 2)
    if products is None or len(wide) < 2:
        return Kernel(name, None, run.times)
    return Kernel(name, 2.0 * products * math.prod(wide[0]) * wide[1][keys], run.times)
