"""Reading the text of a compiled XLA program: computations, instructions, shapes, how often."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1.0),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2.0),
    **dict.fromkeys(("f32", "s32", "u32"), 4.0),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8.0),
    **dict.fromkeys(("s4", "u4"), 0.5),
}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
ASYNCHRONOUS = ("async-start", "call-start")  # start a computation that runs beside what follows
_END = re.compile(r"^\}(, execution_thread=.*)?$")
_COMMENT = re.compile(r"/\*[^*]*\*/")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a result: element type, dimensions, memory space (0 is HBM)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Without the padding of its layout."""
        return self.size * _BYTES.get(self.dtype, 0.0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: %name = arrays opcode(operands), rest."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of its result, tuples flattened
    operands: tuple[str, ...]
    rest: str  # attributes; for constants and parameters with what stands in the brackets
    is_root: bool

    def attribute(self, key: str) -> str:
        """The value of key=value up to the next comma, without a leading %; empty without one."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""

    @property
    def bytes(self) -> float:
        """Of all its arrays."""
        return sum(array.bytes for array in self.arrays)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        """Its instructions by name."""
        return {instruction.name: instruction for instruction in self.instructions}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name → the instructions that read it."""
        found: dict[str, list[Instruction]] = {i.name: [] for i in self.instructions}
        for instruction in self.instructions:
            for operand in dict.fromkeys(instruction.operands):
                if operand in found:
                    found[operand].append(instruction)
        return found

    @functools.cached_property
    def root(self) -> Instruction:
        """What it returns."""
        return next(i for i in self.instructions if i.is_root)

    def parameters(self) -> list[Instruction]:
        """Its parameters in order."""
        found = [i for i in self.instructions if i.opcode == "parameter"]
        return sorted(found, key=lambda i: int(i.rest.split(")")[0]))


@dataclasses.dataclass(frozen=True)
class Run:
    """A computation that is executed: how often in one step, and within which loops."""

    computation: Computation
    times: int
    loops: tuple[str, ...]  # names of the bodies around it, outermost first
    asynchronous: bool = False  # beside what called it, e.g. on a TPU's sparse cores


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program."""

    computations: dict[str, Computation]
    entry: str

    def runs(self) -> Iterator[Run]:
        """Every computation that is executed by itself, fusions left to who reads them."""
        yield from self._runs(Run(self.computations[self.entry], 1, ()))

    def _runs(self, run: Run) -> Iterator[Run]:
        yield run
        for instruction in run.computation.instructions:
            if instruction.opcode == "while":
                body, trips = instruction.attribute("body"), self.trip_count(instruction)
                inside = (self.computations[body], run.times * trips, (*run.loops, body))
                yield from self._runs(Run(*inside, run.asynchronous))
            elif instruction.opcode in ("call", "conditional", *ASYNCHRONOUS):
                beside = run.asynchronous or instruction.opcode in ASYNCHRONOUS
                for name in self.called(instruction):
                    inside = (self.computations[name], run.times, run.loops)
                    yield from self._runs(Run(*inside, beside))

    def called(self, instruction: Instruction) -> list[str]:
        """Names of the computations that it runs."""
        branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
        if branches:
            return _NAME.findall(branches[1])
        keys = ("calls", "to_apply", "true_computation", "false_computation")
        names = [instruction.attribute(key) for key in keys]
        return [name for name in names if name in self.computations]

    def trip_count(self, loop: Instruction) -> int:
        """How often a `while` runs: known to XLA, or read from `i < n` in its condition.

        Raises ValueError where neither says.
        """
        known = re.search(r'"?known_trip_count"?\s*[:=]\s*\{"?n"?\s*[:=]\s*"?(\d+)', loop.rest)
        if known:
            return int(known[1])
        condition = self.computations[loop.attribute("condition")]
        compare = condition.root
        if compare.opcode == "fusion":  # the comparison alone, its operands outside
            inner = self.computations[compare.attribute("calls")].root
            limits = [condition.by_name[name] for name in compare.operands]
        else:
            inner, limits = compare, [condition.by_name[name] for name in compare.operands]
        numbers = [int(i.rest.split(")")[0]) for i in limits if i.opcode == "constant"]
        if inner.opcode != "compare" or "direction=LT" not in inner.rest or len(numbers) != 1:
            raise ValueError(f"cannot read how often %{loop.name} runs from %{condition.name}")
        return numbers[0]


def parse(text: str) -> Module:
    """The program of `compiled.as_text()`.

    Raises ValueError when there is no ENTRY.
    """
    computations, entry = {}, None
    name, lines = None, []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif _END.match(line) and name is not None:
            computations[name] = Computation(name, tuple(lines))
            name = None
        elif name is not None and _INSTRUCTION.match(line):
            lines.append(_instruction(line))
    if entry is None:
        raise ValueError("no ENTRY in what should be the text of an XLA program")
    return Module(computations, entry)


def arrays_of(text: str) -> tuple[Array, ...]:
    """The arrays in a type, tuples flattened."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        shape = tuple(int(n) for n in dims.split(",") if n)
        found.append(Array(dtype, shape, int(space[1]) if space else 0))
    return tuple(found)


def _instruction(line: str) -> Instruction:
    head = _INSTRUCTION.match(line)
    assert head is not None, line  # `parse` looked
    text = _COMMENT.sub("", line[head.end() :])
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opcode, _, after = text[end + 1 if text[end] == " " else end :].strip().partition("(")
    close = _closing("(" + after, 0) - 1
    inside, rest = after[:close], after[close + 1 :]
    keep = opcode in ("constant", "parameter")
    return Instruction(
        name=head[2],
        opcode=opcode,
        arrays=arrays_of(text[:end]),
        operands=() if keep else tuple(_NAME.findall(inside)),
        rest=f"{inside}){rest}" if keep else rest,
        is_root=bool(head[1]),
    )


def _closing(text: str, start: int) -> int:
    """Position of the bracket that closes the one at `start`; the end where a line is cut."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    return len(text)
