"""Generate with a trained model: any task, any direction, any frames.

    python -m onediff_jax.sample --source=runs/t2i_multitask --task=text2image \\
        --prompt="a red cube on a grey floor" --out=cube.png
    python -m onediff_jax.sample --source=runs/t2i_multitask --task=image2depth --scene=3 \\
        --out=depth.png

--source is the workdir of a run, or an exported folder. docs/tasks.md shows every task. Files that
exist are replaced.
"""

import dataclasses
import functools
import os
import sys
from pathlib import Path

from absl import app, flags, logging

from onediff_jax import api, exits
from onediff_jax.sampling.read import FileReader, cameras_of
from onediff_jax.sampling.request import FOCAL, Request, derivable, given_roles, make_plan
from onediff_jax.sampling.source_tasks import tasks_of_source
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks import colors
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet, mask_generating

FLAGS = flags.FLAGS
DISTANCE = 1.7  # of cameras that are not told one, in world units


def define_flags() -> None:
    """Not at import, so that the functions here can be imported beside other commands."""
    names = ", ".join(direction.name for _, direction in BUILT_IN.directions())
    text, whole, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    text("source", None, "Workdir of a run, or an exported folder.")
    text("task", None, f"One of {names}, or of the source's own tasks.")
    text("out", None, "FILE.png. Several frames: a strip, and FILE_0.png, FILE_1.png, …")
    text("prompt", "", "Plain caption (or instruction); the task's token and format are added.")
    text("negative_prompt", "", "What guidance leads away from.")
    flags.DEFINE_multi_string("image", [], "Given pictures in order: repeated, or with commas.")
    made = derivable(BUILT_IN)
    flags.DEFINE_boolean("from_image", False, f"Derive the condition from --image: {made}.")
    text("mask", None, "For image_inpainting of an ordinary --image: white is painted anew.")
    flags.DEFINE_boolean("keep_given", True, "Inpainting keeps the given pixels as they are.")
    real("depth_scale", 0.001, "Metres per unit of given depth in 16-bit files; of .npy integers.")
    real("depth_near", None, "Metres that white stands for in given depth; default: its nearest.")
    real("depth_far", None, "Metres that dark stands for; default: its farthest.")
    text("classes", None, "Class list (.txt, .json) of given class maps; default: allowed colours.")
    whole("scene", None, "Take pictures, cameras and prompt from this held-out scene of the run.")
    flags.DEFINE_list("generate", None, "Frames to generate, from 0; default by the task.")
    flags.DEFINE_multi_string("region", [], "COLOUR:LABEL, for the map and box tasks; repeatable.")
    text("item", None, "What the subject is, for subject_driven.")
    flags.DEFINE_multi_string("source_prompt", [], "Caption of each given picture; repeatable.")
    text("cameras", None, "transforms.json with the cameras of all views, in place of an orbit.")
    for name, help_text in (
        ("azimuths", "Degrees of all views about the vertical, the given ones first."),
        ("elevations", "Degrees of all views above the floor, or one number; default 0."),
        ("distances", f"Of all views from the centre, or one number; default {DISTANCE}."),
    ):
        flags.DEFINE_list(name, None, help_text)
    real("focal", None, f"Focal length in units of the image side; default {FOCAL}.")
    whole("steps", None, "Euler steps; default: what the source says of the direction.")
    real("guidance", None, "Strength of the prompt; 1 is off; default: that of the run's samples.")
    whole("seed", 0, "Of the starting noise; picture i of --num_images has seed + i.")
    whole("num_images", 1, "How many times to generate, in one batch.")
    whole("height", None, "Pixels, a multiple of 16; default: the trained size nearest in shape.")
    whole("width", None, "Pixels, a multiple of 16; together with --height.")
    flags.DEFINE_boolean("ema", True, "Averaged weights (a run has both; an export holds one).")
    whole("step", None, "Of a run's checkpoint; default: the newest.")
    flags.DEFINE_alias("checkpoint_step", "step")  # its name in earlier versions


def main(argv: list[str]) -> None:
    """Bad input ends with one message and exit code 1."""
    logging.set_verbosity(logging.WARNING)
    try:
        if argv[1:]:
            raise ValueError(f"unexpected arguments {argv[1:]}; every option is --name=value")
        run()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def run() -> None:
    """Checks everything that can be checked first, then loads, generates and writes."""
    for name in ("source", "task", "out"):
        if not FLAGS[name].value:
            raise ValueError(f"--{name} is required")
    tasks = tasks_of_source(FLAGS.source)
    tasks.find_direction(FLAGS.task)
    out = checked_out(Path(FLAGS.out))
    for name in ("num_images", "steps"):
        if (value := getattr(FLAGS, name)) is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    request = flags_request(tasks)
    if FLAGS.scene is None:
        make_plan(request, tasks)
    elif FLAGS.from_image:
        raise ValueError("--from_image derives from --image; --scene brings its own conditions")
    from tqdm import tqdm

    source = api.load(FLAGS.source, ema=FLAGS.ema, step=FLAGS.step)
    if FLAGS.scene is not None:
        request = api.request_of_scene(source, FLAGS.scene, request)
    results = api.generate(
        source,
        [dataclasses.replace(request, seed=request.seed + i) for i in range(FLAGS.num_images)],
        steps=FLAGS.steps,
        guidance=FLAGS.guidance,
        progress=functools.partial(tqdm, desc=FLAGS.task, unit="step"),
    )
    for note in results[0].notes:
        print(f"note: {note}", file=sys.stderr)
    for file in api.save(results, out):
        print(file)


def checked_out(out: Path) -> Path:
    """The file itself; raises ValueError where it could not be written."""
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"--out={out} must be a file that ends in .png")
    if not out.parent.is_dir():
        raise ValueError(f"--out={out}: there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"--out={out}: the folder {out.parent} cannot be written")
    return out


def flags_request(tasks: TaskSet) -> Request:
    """The request that the flags state, with everything that they name read from its file."""
    if (FLAGS.height is None) != (FLAGS.width is None):
        raise ValueError(f"--height={FLAGS.height} and --width={FLAGS.width} go together")
    frames = _numbers("generate", int)
    paths = _paths(FLAGS.image)
    reader = FileReader(FLAGS.depth_scale, FLAGS.depth_near, FLAGS.depth_far, FLAGS.classes)
    given = [
        reader.read(path, role)
        for path, role in zip(paths, image_roles(tasks, frames, len(paths)), strict=True)
    ]
    images = tuple(image for image, _ in given)
    painted = tuple(region for _, regions in given for region in regions)
    mask = None if FLAGS.mask is None else reader.read(FLAGS.mask)[0].mean(-1) > 127
    return Request(
        direction=FLAGS.task,
        prompt=FLAGS.prompt,
        images=images,
        from_image=FLAGS.from_image or mask is not None,
        mask=mask,
        keep_given=FLAGS.keep_given,
        generate=None if frames is None else tuple(frames),
        size=None if FLAGS.height is None else (FLAGS.height, FLAGS.width),
        regions=(*map(_region, FLAGS.region), *painted),
        item=FLAGS.item,
        sources=tuple(FLAGS.source_prompt),
        negative_prompt=FLAGS.negative_prompt,
        seed=FLAGS.seed,
        **_cameras(paths, images),
    )


def image_roles(tasks: TaskSet, frames: list[int] | None, count: int) -> list[str]:
    """The role of each given picture, in order, as far as the direction says it."""
    if FLAGS.from_image or FLAGS.mask is not None:
        return ["image"] * count
    task, _ = tasks.find_direction(FLAGS.task)
    roles = [role for role in given_roles(task, FLAGS.task) if role != "ray"]
    if frames is not None and task.min_frames == task.max_frames:
        mask = mask_generating(frames, task.min_frames)
        roles = [r for r, new in zip(task.frames, mask, strict=True) if not new and r != "ray"]
    return (roles + ["image"] * count)[:count]


def _cameras(paths: list[str], images: tuple) -> dict:
    """What the flags say of cameras, as fields of a Request."""
    elevations = _numbers("elevations", float)
    focal = FOCAL if FLAGS.focal is None else FLAGS.focal
    columns = [_numbers("azimuths", float), elevations, _numbers("distances", float)]
    fields: dict = {"focal": focal}
    if FLAGS.cameras is not None:
        if any(column is not None for column in columns):
            raise ValueError("--cameras names all cameras: give no azimuths, elevations, distances")
        size = images[0].shape[:2] if images else None
        fields["cameras"], fields["camera_size"] = cameras_of(FLAGS.cameras, paths, size)
    elif FLAGS.task == "image2camera" and columns[0] is None and columns[2] is None:
        fields["elevation"] = (elevations or [0.0])[0]
    elif any(column is not None for column in columns):
        filled = [c or [d] for c, d in zip(columns, (0.0, 0.0, DISTANCE), strict=True)]
        fields["cameras"] = cams.orbit_cameras(*filled, focal=focal)
    return fields


def _numbers(name: str, kind: type) -> list | None:
    texts = FLAGS[name].value
    if texts is None:
        return None
    try:
        return [kind(text) for text in texts]
    except ValueError:
        raise ValueError(f"--{name}={','.join(texts)} must be numbers such as 0,2") from None


def _paths(values: list[str]) -> list[str]:
    """A value with commas is several paths, unless a file of that very name exists."""
    found = []
    for value in values:
        found += [value] if Path(value).exists() else value.split(",")
    return found


def _region(text: str) -> tuple[str, str]:
    color, colon, label = text.partition(":")
    if not colon:
        raise ValueError(f"--region={text} must be COLOUR:LABEL, such as cyan:cube")
    colors.rgb(color)
    return color, label


if __name__ == "__main__":
    with exits.foreseen():
        define_flags()
        app.run(main)
