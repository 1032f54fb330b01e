"""Exchanges between devices in a compiled program."""

import dataclasses
import math
import re

import numpy as np

from onediff_jax.scaling.hlo import Computation, Instruction, Module, Run

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_START, _DONE = "AsyncCollectiveStart", "AsyncCollectiveDone"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: one of KINDS.
      sizes: elements of each array, whole: gathered, or before it is scattered.
      bytes: of all of them.
      times: how often in a step.
      loop: name of the innermost loop around it; "" for none.
      asynchronous: it runs beside other instructions.
      group: positions in the mesh of the devices that exchange, of the first group.
    """

    kind: str
    sizes: tuple[int, ...]
    bytes: float
    times: int
    loop: str
    asynchronous: bool
    group: tuple[int, ...]


def is_part_of_asynchronous(instruction: Instruction) -> bool:
    """Whether a custom call only starts or awaits a collective."""
    return _START in instruction.rest or _DONE in instruction.rest


def collectives_of(module: Module, run: Run, instruction: Instruction) -> list[Collective]:
    """Those of one instruction; an asynchronous one is counted where it starts."""
    kind = instruction.opcode.removesuffix("-start")
    if kind in KINDS:
        beside = run.asynchronous or kind != instruction.opcode
        return [_collective(run, run.computation, instruction, kind, beside)]
    if instruction.opcode != "fusion":
        return []
    inner = module.computations[instruction.attribute("calls")]
    starts = any(_START in i.rest for i in inner.instructions)
    found = []
    for i in inner.instructions:
        if i.opcode not in KINDS or ("chain_id" in i.rest and not starts):
            continue
        scatters = "reduce-scatter" in inner.name and i.opcode == "all-reduce"
        kind = "reduce-scatter" if scatters or "all-reduce-scatter" in inner.name else i.opcode
        found.append(_collective(run, inner, i, kind, starts))
    return found


def _collective(
    run: Run, computation: Computation, instruction: Instruction, kind: str, asynchronous: bool
) -> Collective:
    group = _first_group(instruction.rest)
    operands = [computation.by_name[name] for name in instruction.operands]
    arrays = [array for operand in operands for array in operand.arrays]
    whole = len(group) if kind == "all-gather" else 1
    return Collective(
        kind=kind,
        sizes=tuple(array.size * whole for array in arrays),
        bytes=sum(array.bytes for array in arrays) * whole,
        times=run.times,
        loop=run.loops[-1] if run.loops else "",
        asynchronous=asynchronous,
        group=group,
    )


def _first_group(text: str) -> tuple[int, ...]:
    """The first group of devices of a collective, in any of the forms that XLA writes."""
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? "
        r"\{([^}]*)\}",
        text,
    )
    if named:
        axes = {k.strip(" '"): int(v) for k, v in (p.split("=") for p in named[1].split(","))}
        ids = np.arange(math.prod(axes.values()))
        if named[2]:
            ids = ids.reshape(_numbers(named[2]))
            ids = ids.transpose(_numbers(named[3])) if named[3] else ids
        ids = ids.reshape(tuple(axes.values()))
        over = {name.strip(" '") for name in named[4].split(",")}
        return tuple(ids[tuple(slice(None) if a in over else 0 for a in axes)].ravel().tolist())
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", text)
    if listed:
        return _numbers(listed[1])
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not iota:
        return ()
    ids = np.arange(math.prod(_numbers(iota[3]))).reshape(_numbers(iota[3]))
    ids = ids.transpose(_numbers(iota[4])) if iota[4] else ids
    return tuple(ids.ravel()[: int(iota[2])].tolist())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(","))
