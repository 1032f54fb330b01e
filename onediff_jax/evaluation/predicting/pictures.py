"""Predictions that are pictures: other views, edits, pictures of prompts and of subjects."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from onediff_jax.evaluation.benchmarks.base import Item, read_picture
from onediff_jax.evaluation.benchmarks.views import FIRST_SCORED, GSO30, SIZE, VIEWS, read_truth
from onediff_jax.evaluation.predicting.base import Made, Predictor, write_picture
from onediff_jax.files import replace_file
from onediff_jax.sampling.request import Request
from onediff_jax.tasks.cameras import cameras_from_transforms

_LENS, _SENSOR = 35.0, 32.0  # millimetres, of EscherNet's renderer
_GREY = 127  # of the views of a strip that are not predicted
SAMPLES = 4  # pictures of a prompt


class ViewPredictor(Predictor):
    """Views 10 … 24 from the first ones, as strips of 25 views.

    As many views are generated together as the model was trained on; the given ones are in every
    request. How many are given, the folder says (N1M25: one).
    """

    benchmark: GSO30
    direction = "multiview"

    def _known(self) -> int:
        known = self.benchmark.known_views()
        if known is None:
            raise ValueError(f"{self.benchmark.predictions} must be named N<known views>M25")
        return known

    def _together(self) -> int:
        most = max(slot.frames for slot in self.experiment.slots(self.task.name)) // 2
        return max(1, most - self._known())

    def _groups(self) -> list[list[int]]:
        views, step = list(range(FIRST_SCORED, VIEWS)), self._together()
        return [views[i : i + step] for i in range(0, len(views), step)]

    def requests(self, item: Item) -> list[Request]:
        known = list(range(self._known()))
        folder = next(iter(item.files.values())).parent
        images = tuple(read_truth(folder / f"{view:03}.png") for view in known)
        found = []
        for group in self._groups():
            w2c = np.stack([np.load(folder / f"{view:03}.npy") for view in known + group])
            c2w = np.zeros((len(w2c), 4, 4))
            c2w[:, :3, :3] = w2c[:, :3, :3].swapaxes(1, 2)
            c2w[:, :3, 3] = -np.einsum("nji,nj->ni", w2c[:, :3, :3], w2c[:, :3, 3])
            c2w[:, 3, 3] = 1
            focal = SIZE * _LENS / _SENSOR
            cameras = cameras_from_transforms(c2w, height=SIZE, width=SIZE, fl_x=focal, fl_y=focal)
            size = (SIZE, SIZE)
            found.append(Request(self.direction, images=images, cameras=cameras, camera_size=size))
        return found

    def write(self, item: Item, made: list[Made]) -> None:
        strip = np.full((SIZE, SIZE * VIEWS, 3), _GREY, np.uint8)
        views = [view for group in self._groups() for view in group]
        pictures = [picture for group in made for picture in group]
        for view, picture in zip(views, pictures, strict=True):
            resized = Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            strip[:, view * SIZE : (view + 1) * SIZE] = np.asarray(resized)
        write_picture(self._file(item), strip)

    def _file(self, item: Item) -> Path:
        return self.out / item.name / "0.png"

    def done(self, item: Item) -> bool:
        return self._file(item).is_file()


class EditPredictor(Predictor):
    """The edited picture by its instruction, at the source's size."""

    direction = "image_editing"

    def requests(self, item: Item) -> list[Request]:
        source = self.stretched(read_picture(item.files["source"]))
        words = item.known.get("editing_instruction") or item.known["editing_prompt"]
        return [Request(self.direction, words, images=(source,))]

    def write(self, item: Item, made: list[Made]) -> None:
        with Image.open(item.files["source"]) as source:
            size = source.size
        resized = Image.fromarray(made[0][0]).resize(size, Image.Resampling.BICUBIC)
        write_picture(self._file(item), np.asarray(resized))

    def _file(self, item: Item) -> Path:
        return (self.out / "annotation_images" / item.known["image_path"]).with_suffix(".png")

    def done(self, item: Item) -> bool:
        return self._file(item).is_file()


class PromptPredictor(Predictor):
    """GenEval's output folder: four pictures of every prompt, and the prompt's metadata."""

    direction = "text2image"

    def _place(self, item: Item) -> Path:
        return self.out / item.name

    def requests(self, item: Item) -> list[Request]:
        return [Request(self.direction, item.known["metadata"]["prompt"])] * SAMPLES

    def write(self, item: Item, made: list[Made]) -> None:
        for number, (picture,) in enumerate(made):
            write_picture(self._place(item) / "samples" / f"{number:04}.png", picture)
        line = json.dumps(item.known["metadata"]) + "\n"
        replace_file(self._place(item) / "metadata.jsonl", line.encode())

    def done(self, item: Item) -> bool:
        return (self._place(item) / "metadata.jsonl").is_file()  # written last


class SubjectPredictor(Predictor):
    """SUBJECT/PROMPT/0.png … 3.png: four pictures of every prompt of every subject."""

    direction = "subject_driven"

    def requests(self, item: Item) -> list[Request]:
        most = max(slot.frames for slot in self.experiment.slots(self.task.name)) - 1
        images = tuple(read_picture(path) for path in item.files.values())[:most]
        words, kind = item.known["prompt"], item.known["class"]
        return [Request(self.direction, words, images=images, item=kind)] * SAMPLES

    def write(self, item: Item, made: list[Made]) -> None:
        for number, (picture,) in enumerate(made):
            write_picture(self.out / item.name / f"{number}.png", picture)

    def done(self, item: Item) -> bool:
        return all((self.out / item.name / f"{n}.png").is_file() for n in range(SAMPLES))
