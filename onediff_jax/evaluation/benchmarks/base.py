"""The shape that all benchmarks have: items, their truth, a prediction's file, its score."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from onediff_jax.evaluation.results import bootstrap, bootstrap_means

Pictures = list[tuple[str, np.ndarray]]  # label, uint8 (H, W, 3)


class LayoutError(ValueError):
    """A folder without the files of the layout; the message says what was looked for."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One example of a benchmark.

    name: how files and messages call it. files: role → its file of the benchmark.
    known: what else scoring needs.
    """

    name: str
    files: dict[str, Path] = dataclasses.field(default_factory=dict)
    known: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A key of the summary: whether more is better, and the paper's figure."""

    better: str = "higher"
    paper: float | None = None


class Benchmark(abc.ABC):
    """A benchmark's folder. A subclass says where things lie and what its protocol computes.

    Attributes:
      name, task, protocol: of the rows.
      official: how many examples the official set has.
      measures: key → Measure.
      missing_counts: what an example without prediction counts as with --allow_missing.
    """

    name: ClassVar[str]
    task: ClassVar[str]
    protocol: ClassVar[str]
    official: ClassVar[int]
    measures: Mapping[str, Measure]
    missing_counts: ClassVar[str] = "left out"

    def __init__(self, folder: Path, predictions: Path | None, options: dict[str, Any]):
        """Args:
        folder: of the benchmark.
        predictions: folder or file of what is scored; None before there is one.
        options: of the command: align, ….
        """
        self.folder, self.predictions, self.options = folder, predictions, options
        self.items: list[Item] = self.find_items()

    @property
    def predicted(self) -> Path:
        """Where the predictions are. Raises ValueError before there is such a place."""
        if self.predictions is None:
            raise ValueError(f"{self.name} has no predictions yet")
        return self.predictions

    @abc.abstractmethod
    def find_items(self) -> list[Item]:
        """All examples, in the benchmark's order. Raises LayoutError."""

    @abc.abstractmethod
    def prediction(self, item: Item) -> Any | None:
        """What was predicted for an item: usually its file; None where there is nothing."""

    @abc.abstractmethod
    def score(self, item: Item, prediction: Any) -> Any:
        """What the set's summary needs of one example. Raises ValueError for what does not fit."""

    def score_of_missing(self, item: Item) -> Any | None:
        """The same of an item without prediction; None leaves it out."""
        return None

    def controls(self, item: Item, other: Any) -> dict[str, Any]:
        """Name → what `score` gives of an example for what nobody had to learn.

        Args:
          other: the prediction of another example.
        """
        return {}

    def anothers(self, item: Item, other: Any) -> dict[str, Any]:
        """The control that every file of predictions has; none where its size is another."""
        try:
            return {"another's": self.score(item, other)}
        except ValueError:
            return {}

    def prepare(self, items: Sequence[Item]) -> None:  # noqa: B027 most need nothing
        """What must be known of the whole set before the first score."""

    def summarize(self, scores: Sequence[Any]) -> dict[str, float]:
        """The set's numbers: the plain mean of dictionaries."""
        return {key: float(np.mean([s[key] for s in scores])) for key in self.measures}

    def intervals(self, scores: Sequence[Any]) -> dict[str, tuple[float, float] | None]:
        """The bootstrap interval of every number of the summary."""
        if scores and isinstance(scores[0], dict) and type(self).summarize is Benchmark.summarize:
            return {k: bootstrap_means(np.array([s[k] for s in scores])) for k in self.measures}
        return bootstrap(scores, self.summarize)

    def labels(self) -> dict[str, str]:
        """More precise `data` and `protocol` of the rows."""
        return {}

    def pictures(self, item: Item, prediction: Any) -> Pictures:
        """What the report shows of an example, in order: given, predicted, true."""
        return []

    def words(self, item: Item) -> str:
        """What was asked in words; "" where it is a picture alone."""
        return ""

    def measure(self, key: str) -> Measure:
        """How a key of the summary is to be read."""
        return self.measures.get(key, Measure())


def read_picture(path: Path) -> np.ndarray:
    """A file as uint8 (H, W, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def given_picture(item: Item, role: str = "image") -> Pictures:
    """The picture that was given, where the benchmark's folder has it."""
    file = item.files.get(role)
    return [("given", read_picture(file))] if file is not None and file.is_file() else []


def first_existing(folder: Path, places: Sequence[str], what: str) -> Path:
    """The first of the places inside the folder that exists; raises LayoutError with all."""
    for place in places:
        if (folder / place).exists():
            return folder / place
    looked = ", ".join(str(folder / place) for place in places)
    raise LayoutError(f"{what} not found; looked for {looked}")


def listed_files(root: Path, listing: Path, columns: Sequence[str]) -> list[dict[str, Path]]:
    """The files that a list names, a line an example. Raises LayoutError where some are missing."""
    lines = [line.split() for line in listing.read_text().splitlines() if line.strip()]
    if not lines or any(len(line) < len(columns) for line in lines):
        raise LayoutError(f"{listing}: every line must name {len(columns)} files: {columns}")
    found = [
        {name: root / part for name, part in zip(columns, line, strict=False)} for line in lines
    ]
    missing = [path for files in found for path in files.values() if not path.is_file()]
    if missing:
        raise LayoutError(
            f"{listing} names {len(missing)} files that are not there: "
            + ", ".join(map(str, missing[:5]))
        )
    return found
