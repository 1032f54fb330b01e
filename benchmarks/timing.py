"""What the measurements here share: runs taken in turn, wall and CPU time, tables."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of one run: on the clock, and of all threads of this process together.

    CPU time is what a busy machine disturbs least; it says nothing about a GPU's work.
    """

    wall: float
    cpu: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.cpu - other.cpu)


def timed(run: Callable[[], object]) -> Cost:
    """One run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def median(costs: Iterable[Cost]) -> Cost:
    """Of wall and CPU time, each on its own."""
    costs = list(costs)
    return Cost(*(statistics.median(getattr(c, field) for c in costs) for field in ("wall", "cpu")))


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Medians over rounds, in each of which every run has its turn: a drift hits all alike.

    Every run goes once before, unmeasured: what is compiled or cached is ready then.
    """
    found: dict[str, list[Cost]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            progress(f"round {number}/{rounds}: {name}")
            found[name].append(timed(run))
    return {name: median(costs[1:]) for name, costs in found.items()}


def progress(line: str) -> None:
    """One line to whoever waits; not part of the result."""
    print(f"  {line}", file=sys.stderr, flush=True)


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Prints a Markdown table; numbers get three digits."""
    header = list(header)
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(map(_cell, row)) + " |")


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
