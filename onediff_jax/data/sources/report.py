"""The record report: how many records were good, and which were bad and why."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator

from onediff_jax.data.sources.base import REASONS, BadRecord, RawExample

# Below this many records a share says little: one bad picture of fifty is already 2 %.
_ENOUGH = 1000


class TooManyBadRecords(RuntimeError):
    """The share of bad records is above the limit; the message is the report's table."""


@dataclasses.dataclass
class Report:
    """Counts records as they are read.

    Attributes:
      max_share: the share of bad records (0..1) above which `check` raises.
      good: number of good examples.
      bad: the bad records, in the order they came.

    Raises:
      ValueError: a share outside 0..1.
    """

    max_share: float = 0.01
    good: int = 0
    bad: list[BadRecord] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if not 0 <= self.max_share <= 1:
            raise ValueError(f"max_share={self.max_share} must be in 0..1")

    @property
    def total(self) -> int:
        return self.good + len(self.bad)

    @property
    def share(self) -> float:
        """Of the records so far, how many are bad (0..1)."""
        return len(self.bad) / self.total if self.total else 0.0

    def add(self, record: RawExample | BadRecord) -> None:
        if isinstance(record, BadRecord):
            self.bad.append(record)
        else:
            self.good += 1

    def merge(self, other: "Report") -> None:
        """Adds the counts of another part of the same source."""
        self.good += other.good
        self.bad.extend(other.bad)

    def counts(self) -> dict[str, int]:
        """Reason -> number of bad records, the most frequent first."""
        counter = collections.Counter(record.reason for record in self.bad)
        return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))

    def table(self, names: int = 5) -> str:
        """Counts by reason, each with its meaning and the first few names."""
        lines = [f"{self.good} good, {len(self.bad)} bad ({100 * self.share:.2f} %) records"]
        for reason, count in self.counts().items():
            lines.append(f"{count:>9}  {reason}: {REASONS[reason]}")
            same = [record for record in self.bad if record.reason == reason]
            for record in same[:names]:
                lines.append(
                    f"           - {record.key}" + (f" ({record.detail})" * bool(record.detail))
                )
            if count > names:
                lines.append(f"           … and {count - names} more")
        return "\n".join(lines)

    def check(self, *, final: bool = True) -> None:
        """Stops when too much is bad.

        Args:
          final: all records are counted. While reading (False), only after 1,000 records.

        Raises:
          TooManyBadRecords: the share is above `max_share`; the message holds the table.
        """
        if self.share > self.max_share and (final or self.total >= _ENOUGH):
            raise TooManyBadRecords(
                f"{100 * self.share:.2f} % of the records are bad, more than "
                f"max_share={self.max_share} allows:\n{self.table()}"
            )

    def to_json(self) -> dict:
        """Everything, as plain values: {"good", "counts", "bad": [[key, reason, detail], …]}."""
        rows = [[record.key, record.reason, record.detail] for record in self.bad]
        return {"good": self.good, "counts": self.counts(), "bad": rows}

    @classmethod
    def from_json(cls, values: dict, max_share: float = 0.01) -> "Report":
        """The report that `to_json` wrote."""
        return cls(max_share, values["good"], [BadRecord(*row) for row in values["bad"]])


def good_only(records: Iterable[RawExample | BadRecord], report: Report) -> Iterator[RawExample]:
    """The good examples; all are counted in the report, which stops the reading when it must."""
    for record in records:
        report.add(record)
        if isinstance(record, RawExample):
            yield record
        else:
            report.check(final=False)
