"""Captions and conditions from other people's models, run through transformers (optional).

    --annotate=depth=MODEL,segmentation=MODEL,caption=MODEL,hed=MODEL
    --annotate=boxes=MODEL,pose=MODEL,people=MODEL

MODEL is a folder or a hub name. Needs `pip install transformers torch`; nothing of it is imported
before an Annotator is made.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from onediff_jax.data.detect import PERSON, Box, Detector, PoseEstimator
from onediff_jax.data.sources.base import BadData, BadRecord, RawExample, check_captions
from onediff_jax.data.sources.labels import check_label, choose_colors, draw_boxes
from onediff_jax.tasks.definitions import BUILT_IN
from onediff_jax.tasks.depth import depth_image
from onediff_jax.tasks.pose import LIMBS, draw_pose
from onediff_jax.tasks.regions import paint_semantic
from onediff_jax.tasks.roles import ROLES

# Kind of annotation → the role of the frame it finds; captions go to the picture itself.
ROLE_OF = {role.annotation: role.name for role in ROLES.values() if role.annotation}
CHOICES = (*ROLE_OF, "caption", "people")  # people: whom pose is estimated of
_PIPELINES = {
    "depth": "depth-estimation",
    "segmentation": "image-segmentation",
    "caption": "image-text-to-text",
    "hed": "depth-estimation",
}
# Kinds of depth models whose output is metres; the others give nearness up to scale and shift.
_METRIC = ("depth_pro", "glpn", "prompt_depth_anything", "zoedepth")
_REQUEST = "Describe the picture in one sentence."


def parse(text: str) -> dict[str, str]:
    """{"depth": MODEL, …} of "depth=MODEL,caption=MODEL".

    Raises:
      ValueError: an unknown kind (lists the choices), one named twice, or one without a model.
    """
    models: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, model = (side.strip() for side in part.partition("="))
        if kind not in CHOICES:
            raise ValueError(f"unknown annotation {kind!r}; choose from {list(CHOICES)}")
        if not model or kind in models:
            raise ValueError(f"{text!r} must name one model for {kind}, as {kind}=MODEL")
        models[kind] = model
    _check_pair(models)
    return models


def _check_pair(models: dict[str, str]) -> None:
    if ("pose" in models) != ("people" in models):
        raise ValueError(
            f"pose=MODEL (a ViTPose) and people=MODEL (a detector that knows {PERSON!r}) go "
            f"together; found {list(models)}"
        )


def task_of(kind: str) -> str:
    """The built-in task of a picture and what that kind of annotation finds in it."""
    frames = ("image", ROLE_OF[kind])
    return next(task.name for task in BUILT_IN.values() if task.frames == frames)


class Annotator:
    """Runs models over captioned pictures.

    Args:
      models: kind -> folder or hub name, see `parse`.
      device: "cpu", "cuda:0", …; None: the GPU where torch finds one.
      batch_size: pictures per call of a model.
      max_caption_tokens: where a caption is cut.
      labels: words that a detector of boxes looks for.

    Raises ValueError for an unknown kind, or a model that cannot be loaded as what it is needed
    for, and ImportError when transformers or torch is not installed.
    """

    def __init__(
        self,
        models: dict[str, str],
        *,
        device: str | None = None,
        batch_size: int = 4,
        max_caption_tokens: int = 60,
        labels: Sequence[str] = (),
    ):
        unknown = [kind for kind in models if kind not in CHOICES]
        if unknown:
            raise ValueError(f"unknown annotation {unknown[0]!r}; choose from {list(CHOICES)}")
        _check_pair(models)
        if batch_size < 1:
            raise ValueError(f"{batch_size=} must be positive")
        try:
            import torch
            import transformers
        except ImportError as error:
            raise ImportError("annotators need `pip install transformers torch`") from error
        if device is None:
            device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self._models, self._batch_size = dict(models), batch_size
        self._max_caption_tokens = max_caption_tokens
        self._pipes: dict[str, Any] = {}
        # People before the poses that need them.
        for kind, model in sorted(models.items(), key=lambda item: item[0] != "people"):
            try:
                self._pipes[kind] = self._load(transformers, kind, model, device, labels)
            except (OSError, ValueError, KeyError) as error:
                raise ValueError(f"{model!r} cannot be loaded for {kind}: {error}") from error

    def _load(
        self, transformers: Any, kind: str, model: str, device: str, labels: Sequence[str]
    ) -> Any:
        if kind == "boxes":
            return Detector(transformers, model, device, labels)
        if kind == "people":
            return Detector(transformers, model, device, (PERSON,))
        if kind == "pose":
            return PoseEstimator(transformers, model, device, self._pipes["people"])
        if kind == "hed":
            names = transformers.AutoConfig.from_pretrained(model).architectures or [""]
            if names[0].endswith("ForSemanticSegmentation"):
                return _EdgeModel(transformers, model, device)
        return transformers.pipeline(_PIPELINES[kind], model=model, device=device)

    def annotate(self, examples: list[RawExample]) -> list[list[RawExample | BadRecord]]:
        """What each picture gives.

        Args:
          examples: of task text2image.

        Returns:
          Per example: itself, with a caption where it had none and a caption model is there; then
          one example with the same key, or a bad record, per condition.

        Raises:
          ValueError: an example of another task.
        """
        for example in examples:
            if example.task != "text2image":
                raise ValueError(f"{example.key}: pictures are annotated, not {example.task}")
        results: list[list[RawExample | BadRecord]] = [[example] for example in examples]
        if "caption" in self._pipes:
            self._caption(
                [
                    result
                    for example, result in zip(examples, results, strict=True)
                    if not example.captions[0]
                ]
            )
        for kind in ROLE_OF:
            if kind in self._pipes:
                self._conditions(kind, results)
        return results

    def _caption(self, results: list[list]) -> None:
        for result in results:
            example = result[0]
            try:
                texts = check_captions(self._describe(example.images[0]))
            except BadData as error:
                texts = ()
                result.append(error.record(f"{example.key}#caption"))
            if texts:
                extras = {**example.extras, "captioned_by": self._models["caption"]}
                result[0] = dataclasses.replace(example, captions=(texts,), extras=extras)
            elif len(result) == 1:
                key = f"{example.key}#caption"
                result.append(BadRecord(key, "failed_annotation", "an empty caption"))

    def _describe(self, image: np.ndarray) -> str:
        pipe = self._pipes["caption"]
        picture = _pil(image)
        options = {"max_new_tokens": self._max_caption_tokens, "do_sample": False}
        if getattr(pipe.processor, "chat_template", None):
            content = [{"type": "image", "image": picture}, {"type": "text", "text": _REQUEST}]
            message = [{"role": "user", "content": content}]
            output = pipe(text=message, return_full_text=False, generate_kwargs=options)
        else:
            output = pipe(images=picture, text="", generate_kwargs=options)
        return output[0]["generated_text"]

    def _conditions(self, kind: str, results: list[list]) -> None:
        outputs = self._run(kind, [result[0].images[0] for result in results])
        for result, output in zip(results, outputs, strict=True):
            example = result[0]
            key = f"{example.key}#{kind}"
            try:
                condition, parts = _READERS[kind](output, example, self._is_metric(kind))
            except BadData as error:
                result.append(error.record(key))
                continue
            extras = {**example.extras, "annotated_by": self._models[kind]} | parts.pop(
                "extras", {}
            )
            result.append(
                dataclasses.replace(
                    example,
                    task=task_of(kind),
                    images=(example.images[0], condition),
                    captions=(example.captions[0], ()),
                    extras=extras,
                    **parts,
                )
            )

    def _run(self, kind: str, images: list[np.ndarray]) -> list:
        pipe = self._pipes[kind]
        if isinstance(pipe, _EdgeModel | Detector | PoseEstimator):
            return [pipe(image) for image in images]
        of_size: dict[tuple, list[int]] = {}
        for index, image in enumerate(images):  # a batch holds pictures of one size
            of_size.setdefault(image.shape, []).append(index)
        outputs: list[Any] = [None] * len(images)
        for indices in of_size.values():
            pictures = [_pil(images[index]) for index in indices]
            with np.errstate(all="ignore"):  # the pipeline divides by the range, which may be 0
                found = pipe(pictures, batch_size=self._batch_size)
            for index, output in zip(indices, found, strict=True):
                outputs[index] = output
        return outputs

    def _is_metric(self, kind: str) -> bool:
        if kind != "depth":
            return False
        config = self._pipes[kind].model.config
        stated = getattr(config, "depth_estimation_type", None)
        return stated == "metric" or config.model_type in _METRIC


class _EdgeModel:
    """A semantic segmentation model with one label, read as the probability of an edge."""

    def __init__(self, transformers, model: str, device: str):
        self._model = transformers.AutoModelForSemanticSegmentation.from_pretrained(model)
        self._model.to(device).eval()
        self._processor = transformers.AutoImageProcessor.from_pretrained(model)
        if self._model.config.num_labels != 1:
            raise ValueError(f"soft edges need one label, it has {self._model.config.num_labels}")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W) float32 in 0..1."""
        import torch

        inputs = self._processor(images=_pil(image), return_tensors="pt").to(self._model.device)
        with torch.no_grad():
            logits = self._model(**inputs).logits.float()
            logits = torch.nn.functional.interpolate(logits, image.shape[:2], mode="bilinear")
            return logits[0, 0].sigmoid().cpu().numpy()


def _read_depth(output, example: RawExample, metric: bool) -> tuple[np.ndarray, dict[str, Any]]:
    values = _dense(output, example)
    if metric:
        try:
            image, norm = depth_image(values)
        except ValueError as error:
            raise BadData("failed_annotation", f"depth: {error}") from None
        return image, {"depth_norm": dataclasses.asdict(norm)}
    return _grey(1 + 254 * _stretch(values)), {"extras": {"depth": "relative"}}


def _read_edges(output, example: RawExample, metric: bool) -> tuple[np.ndarray, dict[str, Any]]:
    if isinstance(output, np.ndarray):
        return _grey(255 * output), {}
    return _grey(255 * _stretch(_dense(output, example))), {}


def _read_segments(output, example: RawExample, metric: bool) -> tuple[np.ndarray, dict[str, Any]]:
    height, width = example.target.shape[:2]
    classes = np.zeros((height, width), np.int32)
    labels = list(dict.fromkeys(check_label(segment["label"]) for segment in output))
    for segment in output:
        classes[np.asarray(segment["mask"]) > 127] = 1 + labels.index(check_label(segment["label"]))
    areas = np.bincount(classes.ravel(), minlength=len(labels) + 1)[1:]
    shown = [labels[i] for i in np.argsort(-areas, kind="stable") if areas[i]]
    if not shown:
        raise BadData("failed_annotation", "no segment was found")
    chosen, left_out = choose_colors(shown, example.key)
    painted = {1 + labels.index(label): color for label, color in chosen.items()}
    parts: dict[str, Any] = {"regions": tuple((color, name) for name, color in chosen.items())}
    if left_out:
        parts["extras"] = {"labels_left_out": left_out}
    return paint_semantic(classes, painted), parts


def _read_boxes(
    output: list[Box], example: RawExample, metric: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    if not output:
        raise BadData("failed_annotation", "nothing was found")
    labels = [check_label(box.label) for box in output]
    corners = [np.array(box.corners) for box in output]
    picture, regions, extras = draw_boxes(example.key, example.target.shape, corners, labels)
    return picture, {"regions": regions, "extras": extras}


def _read_people(
    output: list[np.ndarray], example: RawExample, metric: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    if not any(points[:, 2].any() for points in output):
        raise BadData("failed_annotation", "no person was found")
    height, width = example.target.shape[:2]
    drawn = [draw_pose(height, width, points, LIMBS) for points in output]
    return np.maximum.reduce(drawn), {}


_READERS = {
    "depth": _read_depth,
    "segmentation": _read_segments,
    "hed": _read_edges,
    "boxes": _read_boxes,
    "pose": _read_people,
}


def _dense(output: dict, example: RawExample) -> np.ndarray:
    """(H, W) float32 of a depth pipeline's output."""
    values = output["predicted_depth"].detach().float().cpu().numpy().squeeze()
    if values.shape != example.target.shape[:2] or not np.isfinite(values).all():
        raise BadData("failed_annotation", f"the model gave {values.shape}, not all finite or")
    return values


def _stretch(values: np.ndarray) -> np.ndarray:
    """Values as 0..1 over their own range."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        raise BadData("failed_annotation", f"the model gave {low} everywhere")
    return (values - low) / (high - low)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(values).astype(np.uint8)[..., None], 3, -1)


def _pil(image: np.ndarray):
    from PIL import Image

    return Image.fromarray(image)
