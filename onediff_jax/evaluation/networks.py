"""Networks that some measures need: given by flag, run by the libraries that keep them.

    --clip=FOLDER|HUB      transformers' CLIPModel          similarity of pictures and words
    --dino=FOLDER|HUB      transformers' AutoModel          similarity of pictures
    --detector=FOLDER|HUB  transformers' Mask2Former        GenEval, with --clip for colours
    --lpips=FILE           torchvision's AlexNet            LPIPS, with the lpips package's weights

A name that is no folder is one of the Hugging Face hub, which is downloaded. What is not given is
not measured.
"""

import importlib.util
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onediff_jax.evaluation.metrics.lpips import lpips_distance

HELP = {
    "lpips": "file of torchvision's AlexNet weights",
    "clip": "folder or hub name of a CLIP of transformers",
    "dino": "folder or hub name of a DINO of transformers",
    "detector": "folder or hub name of a Mask2Former of transformers; with --clip",
}
FLAGS = tuple(HELP)
# What GenEval calls COCO's classes, where it differs.
_GENEVAL = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
_COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
_BACKGROUND = 0x99  # of what the colour classifier sees beside the object
_LEAST = 0.3  # score of a detection that counts
_TOGETHER = 16  # pictures


def open_networks(named: Mapping[str, str | None]) -> dict[str, Any]:
    """The networks of the flags that are given, by flag.

    Args:
      named: flag → folder, file or hub name; None where it is not given.

    Raises ValueError for one that cannot be opened, naming the flag.
    """
    found: dict[str, Any] = {}
    kinds = {"clip": Clip, "dino": Dino, "detector": Detector, "lpips": Lpips}
    if named.get("detector") and not named.get("clip"):
        raise ValueError("--detector sees objects; GenEval's colours need --clip too")
    for flag in ("clip", "dino", "lpips", "detector"):
        value = named.get(flag)
        if not value:
            continue
        try:
            arguments = (found["clip"],) if flag == "detector" else ()
            found[flag] = kinds[flag](value, *arguments)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ValueError(f"--{flag}={value} cannot be opened: {error}") from error
    return found


class _Torch:
    """A network of torch: one picture batch at a time, also when several threads ask."""

    def __init__(self):
        import torch

        self._torch, self._lock = torch, threading.Lock()

    def _run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        with self._lock, self._torch.inference_mode():
            return function(*args, **kwargs)

    def _embedded(self, function: Any, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, d) unit vectors."""
        parts = [
            self._run(function, [Image.fromarray(p) for p in pictures[i : i + _TOGETHER]])
            for i in range(0, len(pictures), _TOGETHER)
        ]
        return _unit(np.concatenate([np.asarray(part.float()) for part in parts]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class Clip(_Torch):
    """Pictures and words as unit vectors of one space."""

    def __init__(self, name: str):
        super().__init__()
        from transformers import CLIPModel, CLIPProcessor

        self._model = CLIPModel.from_pretrained(name).eval()
        self._processor = CLIPProcessor.from_pretrained(name)

    def pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, d) of uint8 (H, W, 3)."""
        return self._embedded(self._of_pictures, pictures)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) of words."""
        return _unit(np.asarray(self._run(self._of_texts, list(texts)).float()))

    def _of_pictures(self, pictures: list[Image.Image]) -> Any:
        given = self._processor(images=pictures, return_tensors="pt")
        return _tensor(self._model.get_image_features(**given))

    def _of_texts(self, texts: list[str]) -> Any:
        options = {"padding": True, "truncation": True, "return_tensors": "pt"}
        return _tensor(self._model.get_text_features(**self._processor(text=texts, **options)))


def _tensor(found: Any) -> Any:
    """The embedding, which newer versions of transformers wrap."""
    return getattr(found, "pooler_output", found)


class Dino(_Torch):
    """Pictures as unit vectors: the class token of the last layer."""

    def __init__(self, name: str):
        super().__init__()
        from transformers import AutoImageProcessor, AutoModel

        self._model = AutoModel.from_pretrained(name).eval()
        self._processor = AutoImageProcessor.from_pretrained(name)

    def pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, d) of uint8 (H, W, 3)."""
        return self._embedded(self._of_pictures, pictures)

    def _of_pictures(self, pictures: list[Image.Image]) -> Any:
        given = self._processor(images=pictures, return_tensors="pt")
        return self._model(**given).last_hidden_state[:, 0]


class Lpips:
    """The learned perceptual distance LPIPS-Alex.

    The trunk is a file of torchvision's AlexNet weights (alexnet-owt-7be5be79.pth); the linear
    weights lie in the lpips package.
    """

    def __init__(self, file: str):
        import torch

        package = importlib.util.find_spec("lpips")
        if package is None or package.origin is None:
            raise ValueError("its linear weights are part of the lpips package: pip install lpips")
        linear = Path(package.origin).parent / "weights" / "v0.1" / "alex.pth"
        self._trunk = _arrays(torch.load(file, map_location="cpu", weights_only=True))
        found = _arrays(torch.load(linear, map_location="cpu", weights_only=True))
        self._linear = [found[f"lin{n}.model.1.weight"].reshape(-1) for n in range(5)]

    def __call__(self, first: np.ndarray, second: np.ndarray) -> float:
        """The distance of two uint8 (H, W, 3)."""
        return lpips_distance((self._trunk, self._linear), first, second)


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(tensor.float()) for name, tensor in state.items()}


class Detector(_Torch):
    """GenEval's detector (Mask2Former) and colour classifier (CLIP): picture → its detections."""

    def __init__(self, name: str, clip: Clip):
        super().__init__()
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        self._model = Mask2FormerForUniversalSegmentation.from_pretrained(name).eval()
        self._processor = AutoImageProcessor.from_pretrained(name)
        self._clip = clip
        self._words: dict[str, np.ndarray] = {}

    def __call__(self, file: Path, metadata: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
        """Class → boxes [x1, y1, x2, y2, score, colour]; a colour where the prompt asks for it."""
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        masks, segments = self._run(self._segmented, picture)
        colored = {clause["class"] for clause in metadata.get("include", ()) if "color" in clause}
        names, found = self._model.config.id2label, {}
        for mask, segment in zip(masks, segments, strict=True):
            if not mask.any():
                continue
            label = names[segment["label_id"]]
            label = _GENEVAL.get(label, label)
            rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
            box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
            color = self._color(picture, mask, box, label) if label and label in colored else None
            found.setdefault(label, []).append([*box, float(segment["score"]), color])
        return found

    def _segmented(self, picture: Image.Image) -> tuple[list[np.ndarray], list[dict]]:
        given = self._processor(images=picture, return_tensors="pt")
        (found,) = self._processor.post_process_instance_segmentation(
            self._model(**given),
            threshold=_LEAST,
            target_sizes=[picture.size[::-1]],
            return_binary_maps=True,
        )
        maps = found["segmentation"]
        masks = [] if maps is None else [np.asarray(m) > 0.5 for m in np.asarray(maps)]
        return masks[: len(found["segments_info"])], found["segments_info"]

    def _color(self, picture: Image.Image, mask: np.ndarray, box: list[int], label: str) -> str:
        """The colour of an object: of three sentences per colour, on a grey ground."""
        pixels = np.where(mask[..., None], np.asarray(picture), np.uint8(_BACKGROUND))
        x0, y0, x1, y1 = box
        (seen,) = self._clip.pictures([pixels[y0:y1, x0:x1]])
        if label not in self._words:
            forms = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
            each = [[form.format(color, label) for form in forms] for color in _COLORS]
            self._words[label] = _unit(np.stack([self._clip.texts(one).mean(0) for one in each]))
        return _COLORS[int(np.argmax(self._words[label] @ seen))]
