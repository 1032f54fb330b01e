"""What is behind the page, without the page: forms to requests, requests to files, under limits."""

import collections
import dataclasses
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from onediff_jax import api
from onediff_jax.sampling.directions import Asking, directions_of
from onediff_jax.sampling.generate import Generated
from onediff_jax.sampling.read import FileReader, cameras_of
from onediff_jax.sampling.request import FOCAL, Plan, Request, make_plan
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks import colors
from onediff_jax.tasks.definitions import Direction, Task, TaskSet

_KEPT = 64  # results whose files stay


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one visitor may ask.

    Attributes:
      upload: bytes per file. pixels: of a given picture. side: of a generated picture, pixels.
      steps, count, frames: Euler steps, seeds at a time, frames of one result.
      words: characters of a prompt. seconds: of one generation.
    """

    upload: int = 32 * 2**20
    pixels: int = 16_000_000
    side: int = 1536
    steps: int = 100
    count: int = 8
    frames: int = 12
    words: int = 4000
    seconds: float = 300.0


@dataclasses.dataclass
class Form:
    """What is filled in on the page; see the fields of sampling.request.Request.

    Attributes:
      files: given pictures, in order. classes, cameras: files, or None.
      painted: (H, W, 4) uint8 that was painted in place of a given map, or None.
      regions: lines COLOUR: label. sources: lines, a caption per given picture.
      azimuths, elevations, distances: numbers with commas.
      height, width: 0 for the trained size nearest in shape.
    """

    direction: str
    prompt: str = ""
    negative_prompt: str = ""
    files: Sequence[str] = ()
    from_image: bool = False
    mask: np.ndarray | None = None
    painted: np.ndarray | None = None
    keep_given: bool = True
    regions: str = ""
    item: str = ""
    sources: str = ""
    generate: Sequence[int] = ()
    azimuths: str = ""
    elevations: str = "0"
    distances: str = "1.7"
    focal: float = FOCAL
    cameras: str | None = None
    classes: str | None = None
    depth_scale: float = 0.001
    height: int = 0
    width: int = 0
    seed: int = 0
    count: int = 1
    steps: int = 20
    guidance: float = 1.0

    def __post_init__(self):
        for field in dataclasses.fields(self):  # the page sends None for what is empty or hidden
            if getattr(self, field.name) is None and field.default is not dataclasses.MISSING:
                setattr(self, field.name, field.default)


class TooLong(ValueError):
    """A generation that was ended: by its limit of time, or by whoever asked for it."""


class Studio:
    """A source and a folder of results.

    Args:
      path: workdir of a run, or an exported folder.
      ema: averaged weights (of a run).
      limits: of every visitor.

    Attributes:
      folder: where everything it writes lies; `close` removes it.

    Raises ValueError when the source cannot be loaded.
    """

    def __init__(self, path: str | Path, *, ema: bool = True, limits: Limits | None = None):
        self.path, self.limits = Path(path), limits or Limits()
        self._ema, self._loading, self._running = ema, threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._source = api.load(path, ema=ema)
        self.folder = Path(tempfile.mkdtemp(prefix="onediff-page-"))
        self._results: collections.deque[Path] = collections.deque()

    def close(self) -> None:
        """Ends what is being generated, and removes every file that was written."""
        self._closed.set()
        if self._running.acquire(timeout=60):  # at most a step, or a program being compiled
            self._running.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def directions(self) -> dict[str, Asking]:
        """Every direction by its name, those that were trained first."""
        return directions_of(self._source.experiment)

    def asking(self, name: str) -> Asking:
        """The direction of that name; ValueError lists the choices."""
        if name not in self.directions:
            raise ValueError(f"unknown direction {name!r}; choose from {list(self.directions)}")
        return self.directions[name]

    @property
    def guidance(self) -> float:
        """What the source was sampled with in training."""
        return self._source.experiment.config.log.guidance

    @property
    def step(self) -> int | None:
        """The checkpoint that is loaded; None for an export."""
        return self._source.step

    def newest(self) -> int | None:
        """Loads the newest checkpoint of a run, which may be going on; returns its step."""
        with self._loading:
            if self._source.step is not None:
                from onediff_jax.run.checkpoint import SavedState

                if SavedState(self.path).step != self._source.step:
                    self._source = api.load(self.path, ema=self._ema)
            return self._source.step

    def request(self, form: Form) -> Request:
        """The request that a form states, everything checked.

        Raises ValueError in words for whoever filled it in.
        """
        asking, limits = self.asking(form.direction), self.limits
        for name, value, most in (
            ("steps", form.steps, limits.steps),
            ("seeds", form.count, limits.count),
            ("characters in the prompt", len(form.prompt), limits.words),
            ("height", form.height, limits.side),
            ("width", form.width, limits.side),
        ):
            if value > most:
                raise ValueError(f"{value} {name}: at most {most} here")
        if form.count < 1 or form.steps < 1:
            raise ValueError(f"steps={form.steps} and seeds={form.count} must be at least 1")
        if bool(form.height) != bool(form.width):
            raise ValueError("height and width go together; 0 is the trained size for both")
        images, painted = self._images(asking, form)
        request = Request(
            form.direction,
            form.prompt,
            images,
            from_image=form.from_image or form.mask is not None,
            mask=form.mask,
            keep_given=form.keep_given,
            generate=tuple(map(int, form.generate)) or None,
            size=(form.height, form.width) if form.height else None,
            regions=(*(_regions(form.regions) if asking.regions else ()), *painted),
            item=form.item.strip() or None if asking.item else None,
            sources=_lines(form.sources) if asking.sources else (),
            negative_prompt=form.negative_prompt,
            seed=int(form.seed),
            **_cameras(asking, form, images),
        )
        if len(self.plan(request).roles) > limits.frames:
            raise ValueError(f"more than {limits.frames} frames are not generated here")
        return request

    @property
    def _tasks(self) -> TaskSet:
        return self._source.experiment.tasks

    def find(self, direction: str) -> tuple[Task, Direction]:
        """The task and direction of that name."""
        return self._tasks.find_direction(direction)

    def steps_of(self, direction: str) -> int:
        """What the source says of a direction, within the page's limit."""
        return min(self._source.steps_of(direction), self.limits.steps)

    def plan(self, request: Request) -> Plan:
        """The request checked against the source's tasks: its whole prompt, its frames."""
        return make_plan(request, self._tasks)

    def read(self, file: str) -> np.ndarray:
        """An ordinary picture (H, W, 3) uint8 from an uploaded file."""
        return FileReader(max_pixels=self.limits.pixels).read(file)[0]

    def _images(self, asking: Asking, form: Form) -> tuple[tuple[np.ndarray, ...], tuple]:
        if form.painted is not None and not form.files:
            return (snap_to_palette(form.painted),), ()
        reader = FileReader(
            depth_scale=form.depth_scale, classes=form.classes, max_pixels=self.limits.pixels
        )
        roles = [role for role in asking.given if role != "ray"]
        if form.from_image or form.mask is not None or form.generate:
            roles = []
        if len(form.files) > max(asking.most, self.limits.frames):
            raise ValueError(f"{len(form.files)} pictures: {asking.name} takes {asking.most}")
        roles = (roles + ["image"] * len(form.files))[: len(form.files)]
        found = []
        for number, (file, role) in enumerate(zip(form.files, roles, strict=True)):
            if Path(file).stat().st_size > self.limits.upload:
                raise ValueError(f"picture {number + 1} has more than {self.limits.upload} bytes")
            try:
                found.append(reader.read(file, role))
            except ValueError as error:
                raise ValueError(str(error).replace(file, Path(file).name)) from None
        regions = tuple(region for _, painted in found for region in painted)
        return tuple(image for image, _ in found), regions

    def generate(
        self, form: Form, every: int = 4
    ) -> Iterator[tuple[int, list[Generated], list[Path]]]:
        """(steps done, results so far, files): while it goes on, and at the end with its files.

        It runs in a thread of its own, one at a time, and ends when the iterator is closed.

        Raises ValueError for a form that does not fit, TooLong above the limit of time.
        """
        request = self.request(form)
        requests = [dataclasses.replace(request, seed=request.seed + i) for i in range(form.count)]
        told: queue.Queue = queue.Queue()
        left, ends = threading.Event(), time.monotonic() + self.limits.seconds

        def watch(step, results):
            if step < form.steps:  # the end comes with its files, and its pictures only once
                told.put((step, results))

        def steps(iterable):
            for item in iterable:
                if left.is_set() or self._closed.is_set() or time.monotonic() > ends:
                    raise TooLong(f"ended after {self.limits.seconds:.0f} s: ask for less")
                yield item

        def run():
            try:
                options = {"steps": form.steps, "guidance": form.guidance, "progress": steps}
                source = self._source
                with self._running:
                    found = api.generate(
                        source, requests, watch=watch, watch_every=every, **options
                    )
                told.put((form.steps, found))
            except Exception as error:
                told.put(error)
            told.put(None)

        threading.Thread(target=run, daemon=True).start()
        try:
            results = []
            while (item := told.get()) is not None:
                if isinstance(item, Exception):
                    raise _in_words(item)
                step, results = item
                if step < form.steps:
                    yield step, results, []
            yield form.steps, results, self._write(results)
        finally:
            left.set()

    def _write(self, results: Sequence[Generated]) -> list[Path]:
        folder = Path(tempfile.mkdtemp(prefix="result-", dir=self.folder))
        self._results.append(folder)
        while len(self._results) > _KEPT:
            shutil.rmtree(self._results.popleft(), ignore_errors=True)
        return api.save(results, folder / f"{results[0].request.direction}.png")

    @property
    def has_examples(self) -> bool:
        """Whether there are scenes to try with."""
        return self._source.experiment.config.data.name == "world"

    def example(self, direction: str, scene: int) -> Form:
        """A form filled from a held-out scene: pictures as files, the whole prompt, cameras."""
        asking = self.asking(direction)
        if scene < 0 or scene >= 2**20:
            raise ValueError(f"scene {scene} must be 0 or more, and below a million")
        request = api.request_of_scene(self._source, int(scene), Request(direction))
        folder = Path(tempfile.mkdtemp(prefix="example-", dir=self.folder))
        self._results.append(folder)
        files = []
        for number, image in enumerate(request.images):
            files.append(str(folder / f"{number}_{asking.task}.png"))
            Image.fromarray(image).save(files[-1])
        form = Form(direction, request.prompt, files=files, focal=request.focal)
        form.elevations = f"{request.elevation:g}"
        if request.cameras is not None:
            form.azimuths, form.elevations, form.distances = self._orbit(asking.task, scene)
        return form

    def _orbit(self, task: str, scene: int) -> tuple[str, str, str]:
        bundles = self._source.experiment.bundles(task, held_out=True, scenes=scene + 1)
        orbit = bundles[scene].truth["orbit"]
        columns = [(c.azimuth_deg, c.elevation_deg, c.distance) for c in orbit]
        azimuths, elevations, distances = (
            ", ".join(f"{value:.6g}" for value in column) for column in zip(*columns, strict=True)
        )
        return azimuths, elevations, distances


def _in_words(error: Exception) -> Exception:
    """The error as whoever asked should read it."""
    if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
        return ValueError("too large for this machine's memory: smaller pictures, or fewer seeds")
    return error


def _cameras(asking: Asking, form: Form, images: Sequence[np.ndarray]) -> dict:
    rays = "ray" in (*asking.given, *asking.generated)
    if not rays:
        return {}
    fields: dict = {"focal": form.focal}
    if form.cameras is not None:
        size = images[0].shape[:2] if images else None
        fields["cameras"], fields["camera_size"] = cameras_of(form.cameras, form.files, size)
    elif asking.cameras and form.azimuths.strip() and not form.generate:
        names = ("azimuths", "elevations", "distances")
        columns = [numbers(name, getattr(form, name)) for name in names]
        fields["cameras"] = cams.orbit_cameras(*columns, focal=form.focal)
    elif not asking.cameras:
        fields["elevation"] = numbers("elevations", form.elevations)[0]
    return fields


def numbers(name: str, text: str) -> list[float]:
    """The numbers of a text with commas; ValueError names the field."""
    try:
        found = [float(part) for part in str(text).split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or not np.isfinite(found).all():
        raise ValueError(f"{name}: {text!r} must be numbers such as 0, 30, 60")
    return found


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _regions(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for line in _lines(text):
        color, colon, label = line.partition(":")
        if not colon:
            raise ValueError(f"region {line!r} must be a colour, a colon and a label: cyan: cube")
        colors.rgb(color.strip())
        pairs.append((color.strip(), label.strip()))
    return tuple(pairs)


def snap_to_palette(painted: np.ndarray) -> np.ndarray:
    """What was painted, (H, W, 4) uint8, in the palette's colours alone, black where nothing is.

    A brush has soft edges, whose mixed colours would stand for other regions.
    """
    palette = np.array([colors.BLACK, *colors.COLORS.values()], np.int32)
    values = painted[..., :3].reshape(-1, 3)
    found, where = np.unique(values, axis=0, return_inverse=True)
    distance = ((found[:, None].astype(np.int32) - palette) ** 2).sum(-1)
    snapped = palette[distance.argmin(-1)].astype(np.uint8)[where.reshape(-1)]
    snapped = snapped.reshape(*painted.shape[:2], 3)
    return np.where(painted[..., 3:] > 127, snapped, np.uint8(0))
