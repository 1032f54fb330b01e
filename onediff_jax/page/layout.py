"""How the page looks, and which function each of its parts calls."""

import dataclasses
import html
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np

from onediff_jax.evaluation.frusta import frusta
from onediff_jax.page import drawings
from onediff_jax.page.studio import Form, Studio, numbers
from onediff_jax.sampling.directions import Asking
from onediff_jax.sampling.generate import Generated
from onediff_jax.tasks import colors
from onediff_jax.tasks.roles import get_role

# Fields of a Form in the order of the page's components.
FIELDS = tuple(field.name for field in dataclasses.fields(Form) if field.name != "mask")
FILE_TYPES = ["image", ".npy", ".tif", ".tiff"]
CSS = """
.palette {display: flex; flex-wrap: wrap; gap: 2px 10px; font-size: 12px}
.swatch i {display: inline-block; width: 12px; height: 12px; margin-right: 4px; border-radius: 3px}
.depth {margin: 0} .depth > div {position: relative; width: 100%; max-width: 420px}
.depth img {width: 100%; height: 100%; position: absolute; inset: 0}
.depth > div > div {position: absolute; inset: 0; display: grid}
.depth b:hover {outline: 1px solid #f80}
.dome {width: 100%; max-width: 260px; display: block; margin: auto}
.dome .ring {fill: none; stroke: currentColor; opacity: .3}
.dome line {stroke: currentColor; opacity: .4}
.dome circle.given {fill: #4b7} .dome circle.new {fill: #f80}
.dome text {font-size: 10px; text-anchor: middle; fill: #000}
.frusta {width: 100%; max-width: 420px}
.frusta text {font-size: 9px; fill: currentColor}
.notice {opacity: .8}
"""


class Page:
    """The page of a studio; `blocks` is what is served."""

    def __init__(self, studio: Studio):
        self._studio = studio
        self.blocks = gr.Blocks(
            title=f"OneDiffusion: {studio.path.name}",
            analytics_enabled=False,
            delete_cache=(600, 3600),
        )
        with self.blocks:
            self._draw()

    def _draw(self) -> None:
        studio = self._studio
        choices = [(self._menu(asking), name) for name, asking in studio.directions.items()]
        first = choices[0][1]
        gr.HTML(f"<h1>OneDiffusion: {html.escape(studio.path.resolve().name)}</h1>")
        self._step = gr.HTML()
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                self._inputs(choices, first)
            with gr.Column(scale=1, min_width=320):
                self._outputs()
        self._connect()

    def _menu(self, asking: Asking) -> str:
        return str(asking) + ("" if asking.trained else " (not trained)")

    def _inputs(self, choices: list[tuple[str, str]], first: str) -> None:
        limits = self._studio.limits
        self.direction = gr.Dropdown(choices, value=first, label="Task", elem_id="task")
        with gr.Row(visible=self._studio.has_examples):
            self.scene = gr.Number(0, label="Scene", precision=0, minimum=0, min_width=80)
            self.example = gr.Button("Fill in an example", elem_id="example", scale=2)
        self.files = gr.File(
            label="Pictures, in order",
            file_count="multiple",
            file_types=FILE_TYPES,
            allow_reordering=True,
            elem_id="files",
            height=140,
            visible=bool(self._studio.asking(first).most),
        )
        self.from_image = gr.Checkbox(
            label="Make the condition from an ordinary picture", visible=False, elem_id="derive"
        )
        self.editor = gr.ImageEditor(
            label="Paint what is to be made anew",
            type="numpy",
            sources=("upload", "clipboard"),
            brush=gr.Brush(default_size=24, colors=["#ffffff"], color_mode="fixed"),
            elem_id="mask",
            visible=False,
            transforms=(),
        )
        self.keep_given = gr.Checkbox(True, label="Keep the given pixels", visible=False)
        self.prompt = gr.Textbox(label="Prompt", lines=2, elem_id="prompt")
        self._regions()
        self.item = gr.Textbox(label="What the subject is", visible=False, elem_id="item")
        self.sources = gr.Textbox(
            label="Captions of the given pictures, a line each", lines=2, visible=False
        )
        self._views()
        self.whole = gr.Textbox(label="What the model reads", interactive=False, elem_id="whole")
        with gr.Row():
            self.count = gr.Slider(1, limits.count, 1, step=1, label="Seeds side by side")
            self.steps = gr.Slider(1, limits.steps, 20, step=1, label="Steps", elem_id="steps")
        with gr.Accordion("More settings", open=False):
            self.generate = gr.CheckboxGroup(
                label="Frames to generate (none: as the task says)", choices=[]
            )
            self.seed = gr.Number(0, label="First seed", precision=0, minimum=0)
            self.guidance = gr.Slider(
                1, 15, max(1.0, self._studio.guidance), step=0.1, label="Guidance (1 is off)"
            )
            self.negative_prompt = gr.Textbox(label="Lead away from")
            with gr.Row():
                self.height, self.width = (
                    gr.Number(0, label=f"{name} (0: as trained)", precision=0, minimum=0, step=16)
                    for name in ("Height", "Width")
                )
            self.depth_scale = gr.Number(0.001, label="Metres per unit of 16-bit depth")
            self.classes = gr.File(label="Class list of class maps", file_types=[".txt", ".json"])
        with gr.Row():
            self.run = gr.Button("Generate", variant="primary", elem_id="run")
            self.stop = gr.Button("Stop", elem_id="stop")

    def _regions(self) -> None:
        with gr.Group(visible=False) as self.region_group:
            gr.HTML(drawings.palette())
            with gr.Row():
                self.color = gr.Dropdown(list(colors.COLORS), value="cyan", label="Colour")
                self.label = gr.Textbox(label="Label")
                self.add = gr.Button("Add region", min_width=80)
            self.regions = gr.Textbox(
                label="Regions, a line each, such as cyan: cube", lines=2, elem_id="regions"
            )
            codes: list[Any] = [colors.hex_code(name) for name in colors.COLORS]
            self.painted = gr.ImageEditor(
                label="Or paint the map (used where no picture is given)",
                type="numpy",
                sources=(),
                brush=gr.Brush(default_size=20, colors=codes, color_mode="fixed"),
                canvas_size=(512, 512),
                fixed_canvas=True,
                transforms=(),
            )

    def _views(self) -> None:
        with gr.Group(visible=False) as self.view_group:
            with gr.Row():
                self.views = gr.Slider(2, self._studio.limits.frames // 2, 3, step=1, label="Views")
                self.turn = gr.Slider(-90, 90, 30, step=1, label="Degrees from view to view")
            with gr.Row():
                self.elevations = gr.Textbox("20", label="Degrees above the floor")
                self.distances = gr.Textbox("1.7", label="Distances")
            self.azimuths = gr.Textbox("0, 30, 60", label="Degrees around, of every view")
            self.dome = gr.HTML()
            self.focal = gr.Number(1.3887, label="Focal length, in image sides")
            self.cameras = gr.File(label="Or a transforms.json", file_types=[".json"], height=100)

    def _outputs(self) -> None:
        self.given = gr.Gallery(
            label="Given", columns=4, fit_columns=False, height=200, elem_id="given"
        )
        self.state = gr.HTML(elem_id="state")
        self.results = gr.Gallery(
            label="Generated", columns=3, elem_id="results", format="png", object_fit="contain"
        )
        self.depth = gr.HTML(elem_id="depth")
        self.found = gr.State()
        self.space = gr.HTML(elem_id="cameras")
        self.walk = gr.Slider(0, 360, 30, step=5, label="Walk around the cameras", visible=False)
        self.downloads = gr.File(label="Download", visible=False, elem_id="downloads")

    def _connect(self) -> None:
        self.parts = {name: getattr(self, name) for name in FIELDS if name != "painted"}
        self.parts["painted"] = self.painted
        ordered = [self.parts[name] for name in FIELDS]
        form = [self.editor, *ordered]
        shown = [
            *(self.from_image, self.editor, self.keep_given, self.region_group, self.item),
            *(self.sources, self.view_group, self.azimuths, self.dome, self.files, self.generate),
            *(self.prompt, self.steps),
        ]
        quick = {"queue": False, "show_progress": "hidden"}
        self.blocks.load(self._newest, None, [self._step], **quick)
        self.blocks.load(self._fit_to, [self.direction, self.prompt], shown, **quick)
        self.direction.change(self._fit_to, [self.direction, self.prompt], shown, **quick)
        for part in (*(p for n, p in self.parts.items() if n not in ("painted", "steps")),):
            part.change(self._whole, form, [self.whole], **quick, trigger_mode="always_last")
        self.files.change(self._to_editor, [self.direction, self.files], [self.editor], **quick)
        self.from_image.change(self._editor_shown, [self.direction, self.from_image], [self.editor])
        gr.on(
            [self.views.change, self.turn.change],
            self._azimuths,
            [self.views, self.turn],
            [self.azimuths],
            **quick,
        )
        gr.on(
            [self.azimuths.change, self.elevations.change, self.files.change],
            self._dome,
            [self.azimuths, self.elevations, self.files],
            [self.dome],
            **quick,
        )
        self.add.click(self._add, [self.regions, self.color, self.label], [self.regions], **quick)
        filled = ("files", "prompt", "azimuths", "elevations", "distances", "focal")
        self.example.click(
            self._example,
            [self.direction, self.scene],
            [self.parts[name] for name in filled],
            show_progress="hidden",
        )
        outputs = [
            *(self.given, self.state, self.results, self.depth),
            *(self.found, self.space, self.walk, self.downloads),
        ]
        self.walk.change(self._walked, [self.found, self.walk], [self.space], **quick)
        running = self.run.click(
            self._generate, form, outputs, concurrency_limit=1, show_progress="hidden"
        )
        self.stop.click(None, None, None, cancels=[running])

    def _newest(self) -> str:
        try:
            step = self._studio.newest()
        except ValueError as error:
            return drawings.notice(f"the newest checkpoint cannot be read: {error}")
        return drawings.notice("" if step is None else f"checkpoint of step {step:,}")

    def _fit_to(self, direction: str, prompt: str) -> list[Any]:
        """What a direction needs is shown, and nothing else."""
        asking = self._studio.asking(direction)
        views = "ray" in (*asking.given, *asking.generated)
        pictures = [role for role in asking.given if role != "ray"]
        titles = ", ".join(get_role(role).title for role in pictures)
        frames = self._frames(asking)
        return [
            gr.update(visible=asking.derived and not asking.needs_mask, value=False),
            gr.update(visible=asking.needs_mask, value=None),
            gr.update(visible=asking.needs_mask),
            gr.update(visible=asking.regions),
            gr.update(visible=asking.item),
            gr.update(visible=asking.sources),
            gr.update(visible=views),
            gr.update(visible=asking.cameras),
            gr.update(visible=asking.cameras),
            gr.update(
                visible=bool(pictures) or asking.most > 0,
                label=f"Pictures, in order: {titles}"
                + (f" (up to {asking.most})" if asking.most > len(pictures) else ""),
                value=None,
            ),
            gr.update(choices=frames, value=[], visible=len(frames) > 1),
            "" if prompt.startswith("[[") else gr.skip(),  # the whole prompt of another task
            self._studio.steps_of(direction),
        ]

    def _frames(self, asking: Asking) -> list[tuple[str, int]]:
        """Names and numbers of the frames that can be chosen, of a task of fixed length."""
        task, _ = self._studio.find(asking.name)
        if task.min_frames != task.max_frames:
            return []
        roles = task.roles(task.min_frames)
        return [(f"{i}: {get_role(role).title}", i) for i, role in enumerate(roles)]

    def _to_editor(self, direction: str, files: list[str] | None) -> Any:
        """The dropped picture, to be painted on."""
        if not files or not self._studio.asking(direction).needs_mask:
            return gr.skip()
        try:
            picture = self._studio.read(files[0])
        except (ValueError, OSError):
            return gr.skip()  # said when it is generated
        return {"background": picture, "layers": [], "composite": None}

    def _editor_shown(self, direction: str, from_image: bool) -> Any:
        return gr.update(visible=self._studio.asking(direction).needs_mask)

    def _azimuths(self, views: float, turn: float) -> str:
        return ", ".join(f"{turn * index:g}" for index in range(int(views)))

    def _dome(self, azimuths: str, elevations: str, files: list[str] | None) -> str:
        try:
            around, above = numbers("azimuths", azimuths), numbers("elevations", elevations)
        except ValueError:
            return ""
        return drawings.dome(around[: self._studio.limits.frames], above, len(files or ()))

    def _add(self, regions: str, color: str, label: str) -> str:
        return f"{regions.rstrip()}\n{color}: {label}".strip() if label.strip() else regions

    def _example(self, direction: str, scene: float) -> list[Any]:
        with _plain_errors():
            form = self._studio.example(direction, int(scene or 0))
        values = (form.prompt, form.azimuths, form.elevations, form.distances, form.focal)
        return [list(form.files) or None, *values]

    def _form(self, editor: dict | None, *values: Any) -> Form:
        fields = dict(zip(FIELDS, values, strict=True))
        fields["files"] = list(fields["files"] or ())
        asking = self._studio.asking(fields["direction"])
        fields["painted"] = _painted(fields["painted"]) if asking.regions else None
        mask = None
        if asking.needs_mask and editor is not None and editor.get("background") is not None:
            mask = _painted(editor)
            mask = None if mask is None else mask[..., 3] > 127
        for name in ("height", "width", "seed", "count", "steps"):
            fields[name] = int(fields[name] or 0)
        if not asking.derived:
            fields["from_image"] = False
        return Form(**fields, mask=mask)

    def _whole(self, editor: dict | None, *values: Any) -> str:
        """The whole prompt, or what is still missing."""
        try:
            return self._studio.plan(self._studio.request(self._form(editor, *values))).prompt
        except (ValueError, OSError) as error:
            return f"({error})"

    def _generate(self, editor: dict | None, *values: Any) -> Iterator[list[Any]]:
        """Results so far, then the results with their files."""
        with _plain_errors():
            form = self._form(editor, *values)
            hidden = gr.update(visible=False)
            yield [[], drawings.notice("starting"), [], "", None, "", hidden, hidden]
            given = self._given
            for step, results, files in self._studio.generate(form):
                yield [given(results[0]), *self._shown(form, step, results, files)]
                given = _same  # drawn once

    def _given(self, result: Generated) -> list[tuple[np.ndarray, str]]:
        return [
            (result.picture(frame), get_role(role).title)
            for frame, role in enumerate(result.plan.roles)
            if not result.plan.generate[frame] and role != "ray"
        ]

    def _shown(
        self, form: Form, step: int, results: Sequence[Generated], files: Sequence
    ) -> list[Any]:
        """All outputs but what was given."""
        first = results[0]
        pictures = [
            (result.picture(f), f"seed {result.request.seed}: {result.plan.roles[f]} {f}")
            for result in results
            for f in result.generated
        ]
        if not files:
            state = drawings.notice(f"step {step} of {form.steps}")
            hidden = gr.update(visible=False)
            return [state, pictures, "", None, "", hidden, hidden]
        depth = "".join(self._depths(results))
        cameras = None
        if first.plan.task.rays:  # those that were found, or those that were asked for
            rays = [f for f, role in enumerate(first.plan.roles) if role == "ray"]
            found = any(first.plan.generate[f] for f in rays)
            cameras = first.cameras() if found else first.request.cameras
        space = "" if cameras is None else frusta(cameras)
        walk = gr.update(visible=cameras is not None, value=30)
        state = drawings.notice("; ".join([f"finished after {form.steps} steps", *first.notes]))
        names = [str(file) for file in files]
        shown = gr.update(visible=True, value=names)
        return [state, pictures, depth, cameras, space, walk, shown]

    def _walked(self, cameras: Any, turn: float) -> str:
        return "" if cameras is None else frusta(cameras, turn)

    def _depths(self, results: Sequence[Generated]) -> Iterator[str]:
        unit = "units" if self._studio.has_examples else "m"
        for result in results:
            for frame in result.generated:
                depth = result.metric_depth(frame)
                if depth is not None:
                    yield drawings.depth_map(result.picture(frame), depth, unit)


def _same(result: Generated) -> Any:
    return gr.skip()


class _plain_errors:
    """Errors of input as a message on the page; nothing in it is taken as HTML."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, ValueError | OSError):
            raise gr.Error(html.escape(str(error)), duration=20, print_exception=False) from None


def _painted(editor: dict | None) -> np.ndarray | None:
    """What was painted over an editor's background, (H, W, 4); None where nothing was."""
    layers = [np.asarray(layer) for layer in (editor or {}).get("layers") or ()]
    layers = [layer for layer in layers if layer.ndim == 3 and layer.shape[-1] == 4]
    if not layers or not any(layer[..., 3].any() for layer in layers):
        return None
    total = layers[0].copy()
    for layer in layers[1:]:
        over = layer[..., 3:] > 127
        total = np.where(over, layer, total)
    return total
