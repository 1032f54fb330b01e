"""Boxes and people's keypoints in pictures, by models of transformers; annotate.py uses it."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

SCORE = 0.3  # a box or keypoint counts from here on
PERSON = "person"


@dataclasses.dataclass(frozen=True)
class Box:
    """A thing that was found: its label, and x0, y0, x1, y1 in pixels."""

    label: str
    corners: tuple[float, ...]


class Detector:
    """Finds boxes: of its own classes, or, by an open-vocabulary model, of words.

    Args:
      model: folder or hub name; of open vocabulary are Grounding DINO, OWL-ViT and OWLv2.
      labels: the words; those of another model are its own, and this picks among them.

    Raises ValueError where an open-vocabulary model is given no words, or another lacks one.
    """

    def __init__(self, transformers: Any, model: str, device: str, labels: Sequence[str] = ()):
        auto = transformers.models.auto.modeling_auto
        kind = transformers.AutoConfig.from_pretrained(model).model_type
        self._open = kind in auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES
        self._labels = tuple(labels)
        if self._open and not labels:
            raise ValueError("it finds what words name: give --annotate_labels=person,dog,…")
        loaded, processor = (
            (transformers.AutoModelForZeroShotObjectDetection, transformers.AutoProcessor)
            if self._open
            else (transformers.AutoModelForObjectDetection, transformers.AutoImageProcessor)
        )
        self._model = loaded.from_pretrained(model).to(device).eval()
        self._processor = processor.from_pretrained(model)
        own = self._model.config.id2label.values()
        if not self._open and (unknown := sorted(set(labels) - set(own))):
            raise ValueError(f"it knows no {unknown[0]!r}; its labels are {sorted(own)[:20]}")

    def __call__(self, image: np.ndarray) -> list[Box]:
        """What is found in (H, W, 3) uint8, the most certain first."""
        import torch

        words = {"text": [list(self._labels)]} if self._open else {}
        inputs = self._processor(images=_pil(image), return_tensors="pt", **words)
        inputs = inputs.to(self._model.device)
        with torch.no_grad():
            outputs = self._model(**inputs)
        size = {"threshold": SCORE, "target_sizes": [image.shape[:2]]}
        if self._open:
            read = self._processor.post_process_grounded_object_detection
            if "input_ids" in inspect.signature(read).parameters:  # Grounding DINO
                size |= {"input_ids": inputs["input_ids"]}
            (found,) = read(outputs, text_labels=[list(self._labels)], **size)
            names = found["text_labels"]
        else:
            (found,) = self._processor.post_process_object_detection(outputs, **size)
            names = [self._model.config.id2label[int(number)] for number in found["labels"]]
        order = np.argsort(-found["scores"].float().cpu().numpy(), kind="stable")
        corners = found["boxes"].float().cpu().numpy()
        named = ((self._named(str(names[i])), tuple(map(float, corners[i]))) for i in order)
        return [Box(label, box) for label, box in named if label is not None]

    def _named(self, phrase: str) -> str | None:
        """The wanted label that the model's words say: Grounding DINO gives parts of its prompt."""
        if not self._labels:
            return phrase
        said = [
            label
            for label in self._labels
            if re.search(rf"\b{re.escape(label)}\b", phrase, re.IGNORECASE)
        ]
        return max(said, key=len, default=None)


class PoseEstimator:
    """Finds the keypoints of people, whom a detector finds first.

    Args:
      model: folder or hub name of a ViTPose of transformers, with COCO's 17 keypoints.
      people: what finds them.
    """

    def __init__(self, transformers: Any, model: str, device: str, people: Detector):
        loaded = transformers.VitPoseForPoseEstimation.from_pretrained(model)
        self._model, self._people = loaded.to(device).eval(), people
        self._processor = transformers.AutoImageProcessor.from_pretrained(model)
        self._experts = loaded.config.backbone_config.num_experts > 1
        if loaded.config.num_labels != 17:
            raise ValueError(f"COCO has 17 keypoints, it gives {loaded.config.num_labels}")

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """(17, 3) x, y in pixels and whether it is seen, of every person in (H, W, 3) uint8."""
        import torch

        boxes = [box.corners for box in self._people(image) if box.label.lower() == PERSON]
        if not boxes:
            return []
        sides = [[(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]]
        inputs = self._processor(_pil(image), boxes=sides, return_tensors="pt")
        inputs = inputs.to(self._model.device)
        if self._experts:  # the first of them is COCO's
            inputs["dataset_index"] = torch.zeros(
                len(boxes), dtype=torch.int64, device=self._model.device
            )
        with torch.no_grad():
            outputs = self._model(**inputs)
        (found,) = self._processor.post_process_pose_estimation(outputs, boxes=sides)
        people = []
        for person in found:
            points = np.zeros((17, 3))
            places = person["labels"].cpu().numpy()
            points[places, :2] = person["keypoints"].float().cpu().numpy()
            points[places, 2] = person["scores"].float().cpu().numpy() >= SCORE
            people.append(points)
        return people


def _pil(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image)
