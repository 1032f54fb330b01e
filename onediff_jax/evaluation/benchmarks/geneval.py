"""GenEval: pictures from prompts, judged by what a detector saw in them (detections.json)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from onediff_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    LayoutError,
    Measure,
    Pictures,
    read_picture,
)
from onediff_jax.evaluation.metrics import geneval_decision, geneval_summary
from onediff_jax.files import read_json


class GenEval(Benchmark):
    """553 prompts. Predictions are GenEval's output folder: 00000/metadata.jsonl, samples/*.png.

    detections.json says what the detector and the colour classifier saw: picture → class → boxes;
    it lies in the folder of predictions, above it, or in the benchmark's.
    """

    name, task, official = "geneval", "text2image", 553
    protocol = "GenEval (mean over pictures per tag, mean over tags)"
    measures: ClassVar = {"overall": Measure("higher", 0.65)}

    def find_items(self) -> list[Item]:
        if self.predictions is None:
            return self._asked()
        images = next(
            (p for p in (self.predictions, self.predictions / "images") if _prompts(p)), None
        )
        if images is None:
            raise LayoutError(
                f"no prompt found; looked for {self.predictions}/00000/metadata.jsonl and "
                f"{self.predictions}/images/00000/metadata.jsonl"
            )
        self.images = images
        detector = self.options.get("detector")
        self.detections = None if detector else read_json(self._detections_file())
        items = []
        for place in _prompts(self.images):
            metadata = json.loads((place / "metadata.jsonl").read_text())
            samples = sorted(
                p for p in (place / "samples").glob("*.png") if re.match(r"\d+\.png", p.name)
            )
            known = {
                "metadata": metadata,
                "samples": [str(p.relative_to(self.images)) for p in samples],
            }
            items.append(Item(place.name, known=known))
        return items + self._without_pictures([item.known["metadata"] for item in items])

    def _asked(self) -> list[Item]:
        """All prompts of the benchmark's folder, for a model to answer."""
        found = _prompt_list(self.folder)
        if found is None:
            looked = ", ".join(str(self.folder / place) for place in _LISTS)
            raise LayoutError(f"the prompts of geneval not found; looked for {looked}")
        return [Item(f"{i:05}", known={"metadata": m, "samples": []}) for i, m in enumerate(found)]

    def _without_pictures(self, shown: Sequence[dict]) -> list[Item]:
        """The prompts of the benchmark's folder, where it has their list, that have no picture."""
        asked = _prompt_list(self.folder) or []
        lacking = [(i, m) for i, m in enumerate(asked) if m not in shown]
        return [Item(f"{i:05}", known={"metadata": m, "samples": []}) for i, m in lacking]

    def _detections_file(self) -> Path:
        places = [self.images, self.images.parent, self.folder]
        for place in places:
            if (place / "detections.json").is_file():
                return place / "detections.json"
        looked = ", ".join(str(p / "detections.json") for p in places)
        raise LayoutError(
            "GenEval's detector and colour classifier are networks: give --detector and --clip. "
            f"Without, what they saw is read from detections.json, not found; looked for {looked}"
        )

    def prediction(self, item: Item) -> dict[str, Any] | None:
        samples, metadata = item.known["samples"], item.known["metadata"]
        if samples and self.detections is None:
            detector = self.options["detector"]
            return {name: detector(self.images / name, metadata) for name in samples}
        if (
            self.detections is None
            or not samples
            or any(name not in self.detections for name in samples)
        ):
            return None
        return {name: self.detections[name] for name in samples}

    def score(self, item: Item, prediction: dict[str, Any]) -> list[tuple[str, str, bool]]:
        metadata = item.known["metadata"]
        return [
            (metadata["tag"], json.dumps(metadata), geneval_decision(metadata, seen)["correct"])
            for seen in prediction.values()
        ]

    def words(self, item: Item) -> str:
        return item.known["metadata"].get("prompt", "")

    def pictures(self, item: Item, prediction: dict[str, Any]) -> Pictures:
        metadata, found = item.known["metadata"], []
        for name, seen in list(prediction.items())[:_SHOWN]:
            right = "right" if geneval_decision(metadata, seen)["correct"] else "wrong"
            found.append((f"{right}: {Path(name).name}", read_picture(self.images / name)))
        return found

    def summarize(self, scores: Sequence[list]) -> dict[str, float]:
        return geneval_summary(row for rows in scores for row in rows)


_SHOWN = 4  # pictures of a prompt in the report
_LISTS = ("prompts/evaluation_metadata.jsonl", "evaluation_metadata.jsonl")


def _prompt_list(folder: Path) -> list[dict[str, Any]] | None:
    """The prompts' metadata, in order; None where the folder has no list of them."""
    for place in _LISTS:
        if (folder / place).is_file():
            lines = (folder / place).read_text().splitlines()
            return [json.loads(line) for line in lines if line.strip()]
    return None


def _prompts(folder: Path) -> list[Path]:
    return sorted(p.parent for p in folder.glob("*/metadata.jsonl") if p.parent.name.isdigit())
