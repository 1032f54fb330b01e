"""What a setting is: its type, its range, and what a run may do with it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any


class _Required:
    """Marks a field that every run has stated since the first version."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers a field may have, and how a message and the docs say it."""

    says: str
    holds: Callable[[float], bool]


POSITIVE = Range("positive", lambda value: value > 0)
NOT_NEGATIVE = Range("≥ 0", lambda value: value >= 0)
SHARE = Range("in 0..1", lambda value: 0 <= value <= 1)
BELOW_ONE = Range("in [0, 1)", lambda value: 0 <= value < 1)
SEED = Range("in 0..4294967295", lambda value: 0 <= value < 2**32)
ANY = Range("any finite number", math.isfinite)
AXIS = Range("positive, or −1: the devices that are left", lambda value: value > 0 or value == -1)


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      path: its section and name, e.g. "train.steps".
      kind: "int", "float", "bool", "str"; "names", "steps" (tuples of str and of int); "slots",
        "folders" (tuples of tuples, of config.rows and data.folders,
        where a folder alone has weight 1); "weights" (a section of
        numbers whose names are free); "tasks" (definitions of tasks of one's own).
      says: what it is, for docs/settings.md.
      allowed: the Range of a number; the choices of a str, or of each of several names; None: any.
      unit: of a number.
      lacking: its value in runs that were started before it existed; REQUIRED: all have it.
      none: whether it may be None.
      stream: whether it changes which rows are trained on, and in what order.
      free: whether it may differ between two starts of one run.
      rounding: whether it changes rounding alone: it may differ when that is accepted.
      only: the data.name that has it; "": both.
    """

    path: str
    kind: str
    says: str
    allowed: Range | tuple[str, ...] | None = None
    unit: str = ""
    lacking: Any = REQUIRED
    none: bool = False
    stream: bool = False
    free: bool = False
    rounding: bool = False
    only: str = ""

    @property
    def section(self) -> str:
        """The section it is in; "" for those of the config itself."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Its name within the section."""
        return self.path.rpartition(".")[2]
