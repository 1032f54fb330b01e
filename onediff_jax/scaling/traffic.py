"""What the instructions of a compiled program read and write in HBM."""

from onediff_jax.scaling.collectives import KINDS, is_part_of_asynchronous
from onediff_jax.scaling.hlo import ASYNCHRONOUS, Computation, Instruction, Module
from onediff_jax.scaling.products import CUBLAS

_FREE = (
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota"),
    *("while", "call", "conditional", *ASYNCHRONOUS, "async-update"),
    *("copy-done", "slice-done", "partition-id", "replica-id", "opt-barrier"),
)
_MOVES = ("copy-start", "slice-start")


def hbm_bytes(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Bytes that one instruction reads and writes in HBM."""
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0.0
    operands = [computation.by_name[n] for n in instruction.operands if n in computation.by_name]
    read = [
        _read(module, computation, instruction, operand)
        if operand.arrays and operand.arrays[0].space == 0
        else 0.0
        for operand in operands
    ]
    if instruction.opcode in _MOVES:
        moved = instruction.arrays[instruction.opcode == "slice-start"]  # the other is the source
        from_hbm = bool(operands) and operands[0].arrays[0].space == 0
        return moved.bytes * (from_hbm + (moved.space == 0))
    return sum(read) + _written(module, computation, instruction)


def _read(
    module: Module, computation: Computation, user: Instruction, operand: Instruction
) -> float:
    """Bytes of an operand that one user reads: of slices only what they take."""
    if user.opcode in ("dynamic-slice", "slice", "gather"):
        return user.bytes if operand.name == user.operands[0] else 0.0
    if user.opcode == "dynamic-update-slice" and operand.name == user.operands[0]:
        return 0.0
    if user.opcode in ("tuple", "custom-call", *KINDS) and user.opcode != operand.opcode:
        inside_fusion = operand.opcode == "parameter" and user.opcode != "custom-call"
        return 0.0 if inside_fusion or is_part_of_asynchronous(user) else operand.bytes
    if user.opcode != "fusion":
        return operand.bytes
    inner = module.computations[user.attribute("calls")]
    parameters = inner.parameters()
    total = 0.0
    for place, name in enumerate(user.operands):
        if name == operand.name:
            total += _read_inside(module, inner, parameters[place])
    return min(total, operand.bytes)


def _read_inside(module: Module, inner: Computation, value: Instruction) -> float:
    """Bytes of a fusion's parameter that its instructions read."""
    total = 0.0
    for user in inner.users[value.name]:
        if user.opcode == "bitcast":
            total += _read_inside(module, inner, user)
        else:
            total += _read(module, inner, user, value)
    return min(total, value.bytes)


def _written(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Bytes of the results that lie in HBM: of updates in place only the update."""
    roots, inner = [instruction], computation
    if instruction.opcode == "fusion":
        inner = module.computations[instruction.attribute("calls")]
        roots = [inner.root]
        if inner.root.opcode == "tuple":
            roots = [inner.by_name[name] for name in inner.root.operands]
    total = 0.0
    for place, array in enumerate(instruction.arrays):
        if CUBLAS in instruction.rest and place:
            break  # its workspace
        root = roots[place] if len(roots) == len(instruction.arrays) else roots[0]
        while root.opcode == "bitcast":
            root = inner.by_name[root.operands[0]]
        if array.space or root.opcode in ("parameter", "get-tuple-element"):
            continue
        if root.opcode == "dynamic-update-slice":
            total += inner.by_name[root.operands[1]].bytes
        elif is_part_of_asynchronous(root):
            continue
        else:
            total += array.bytes
    return total
