"""DreamBench: pictures of thirty subjects, judged by DINO and CLIP."""

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onediff_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    LayoutError,
    Measure,
    Pictures,
    first_existing,
    read_picture,
)

_SHOWN = 3  # pictures of a prompt in the report
_LIVE = ("cat", "dog")  # classes with prompts of their own
_PROMPT = re.compile(r"'(.*?)'\.format\(")


class DreamBench(Benchmark):
    """30 subjects × 25 prompts; predictions are SUBJECT/00/*.png, by the number of the prompt.

    Numbers are mean cosines of embeddings, of the networks that are given: dino and clip_image
    between a picture and all real ones of its subject, clip_text between it and its prompt.
    """

    name, task, official = "dreambench", "subject_driven", 750
    protocol = "DreamBooth's fidelity (mean cosines of embeddings)"

    def __init__(self, folder: Path, predictions: Path | None, options: dict[str, Any]):
        self._clip, self._dino = options.get("clip"), options.get("dino")
        if predictions is not None and not (self._clip or self._dino):
            raise ValueError("dreambench: all its numbers need a network: give --dino or --clip")
        keys = ["dino"] * bool(self._dino) + ["clip_image", "clip_text"] * bool(self._clip)
        self.measures = {key: Measure() for key in keys}
        self._real: dict[str, dict[str, np.ndarray]] = {}
        super().__init__(folder, predictions, options)

    measures: ClassVar = {}

    def find_items(self) -> list[Item]:
        places = ("dataset/prompts_and_classes.txt", "prompts_and_classes.txt")
        listing = first_existing(self.folder, places, "DreamBench's prompts and classes")
        classes, objects, live = _read(listing)
        items = []
        for subject, kind in classes.items():
            pictures = sorted(p for p in (listing.parent / subject).glob("*") if _is_picture(p))
            if not pictures:
                raise LayoutError(f"{listing} names {subject}; no picture in {listing.parent}/it")
            files = {str(n): path for n, path in enumerate(pictures)}
            for number, words in enumerate(live if kind in _LIVE else objects):
                prompt = re.sub(r"\s+", " ", words.format("", kind)).strip()
                known = {"subject": subject, "class": kind, "prompt": prompt}
                items.append(Item(f"{subject}/{number:02}", files, known))
        return items

    def prediction(self, item: Item) -> list[Path] | None:
        return sorted((self.predicted / item.name).glob("*.png")) or None

    def prepare(self, items) -> None:
        for item in items:
            subject = item.known["subject"]
            if subject not in self._real:
                pictures = [read_picture(path) for path in item.files.values()]
                self._real[subject] = {
                    name: network.pictures(pictures)
                    for name, network in (("dino", self._dino), ("clip", self._clip))
                    if network
                }

    def words(self, item: Item) -> str:
        return item.known["prompt"]

    def pictures(self, item: Item, prediction: list[Path]) -> Pictures:
        real = read_picture(next(iter(item.files.values())))
        return [("subject", real), *(("predicted", read_picture(p)) for p in prediction[:_SHOWN])]

    def score(self, item: Item, prediction: list[Path]) -> dict[str, float]:
        pictures = [read_picture(path) for path in prediction]
        real, found = self._real[item.known["subject"]], {}
        if self._dino:
            found["dino"] = float((self._dino.pictures(pictures) @ real["dino"].T).mean())
        if self._clip:
            ours = self._clip.pictures(pictures)
            found["clip_image"] = float((ours @ real["clip"].T).mean())
            found["clip_text"] = float((ours @ self._clip.texts([item.known["prompt"]]).T).mean())
        return found


def _read(listing: Path) -> tuple[dict[str, str], list[str], list[str]]:
    """Subject → class, the prompts of things, and those of animals."""
    text = listing.read_text()
    head, found, prompts = text.partition("Object Prompts")
    things, _, animals = prompts.partition("Live Subject Prompts")
    pairs = [line.split(",") for line in head.splitlines() if "," in line]
    classes = {a.strip(): b.strip() for a, b in pairs if a.strip() != "subject_name"}
    of_things, of_animals = (_PROMPT.findall(part) for part in (things, animals))
    if not found or not classes or not of_things or not of_animals:
        raise LayoutError(f"{listing} has no classes, object prompts and live subject prompts")
    return classes, of_things, of_animals


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg", ".png")
