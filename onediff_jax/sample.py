"""Generate with a trained model: any task, any direction, any frames.

    python -m onediff_jax.sample --source=runs/t2i_multitask --task=text2image \\
        --prompt="a red cube on a grey floor" --out=cube.png
    python -m onediff_jax.sample --source=runs/t2i_multitask --task=image2depth --scene=3 \\
        --out=depth.png

--source is the workdir of a run or an exported folder. docs/tasks.md shows every task. Files that
exist are replaced.
"""

import dataclasses
import functools
import os
import sys
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from onediff_jax.data.sources.base import REASONS, BadData
from onediff_jax.data.sources.images import ImageReader
from onediff_jax.sampling.request import FOCAL, Request, make_plan
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks import colors
from onediff_jax.tasks.definitions import all_directions, find_direction
from onediff_jax.tasks.pictures import fit
from onediff_jax.tasks.roles import get_role

FLAGS = flags.FLAGS
MAX_PIXELS = 64_000_000
DISTANCE = 1.7  # of cameras that are not told one, in world units


def define_flags() -> None:
    """Not at import, so that the functions here can be imported beside other commands."""
    names = ", ".join(direction.name for _, direction in all_directions())
    text, whole, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    text("source", None, "Workdir of a run, or an exported folder.")
    text("task", None, f"One of {names}.")
    text("out", None, "FILE.png. Several frames: a strip, and FILE_0.png, FILE_1.png, …")
    text("prompt", "", "Plain caption (or instruction); the task's token and format are added.")
    text("negative_prompt", "", "What guidance leads away from.")
    flags.DEFINE_multi_string("image", [], "Given pictures in order: repeated, or with commas.")
    flags.DEFINE_boolean("from_image", False, f"Derive the condition from --image: {derivable()}.")
    text("mask", None, "For image_inpainting of an ordinary --image: white is painted anew.")
    whole("scene", None, "Take pictures, cameras and prompt from this held-out scene of the run.")
    flags.DEFINE_list("generate", None, "Frames to generate, from 0; default by the task.")
    flags.DEFINE_multi_string("region", [], "COLOUR:LABEL, for the map and box tasks; repeatable.")
    text("item", None, "What the subject is, for subject_driven.")
    flags.DEFINE_multi_string("source_prompt", [], "Caption of each given picture; repeatable.")
    for name, help_text in (
        ("azimuths", "Degrees of all views about the vertical, the given ones first."),
        ("elevations", "Degrees of all views above the floor, or one number; default 0."),
        ("distances", f"Of all views from the centre, or one number; default {DISTANCE}."),
    ):
        flags.DEFINE_list(name, None, help_text)
    real("focal", None, f"Focal length in units of the image side; default {FOCAL}.")
    whole("steps", 20, "Euler steps.")
    real("guidance", None, "Strength of the prompt; 1 is off; default: that of the run's samples.")
    whole("seed", 0, "Of the starting noise; picture i of --num_images has seed + i.")
    whole("num_images", 1, "How many times to generate, in one batch.")
    whole("height", None, "Pixels, a multiple of 16; default: the trained size nearest in shape.")
    whole("width", None, "Pixels, a multiple of 16; together with --height.")
    flags.DEFINE_boolean("ema", True, "Averaged weights (a run has both; an export holds one).")
    whole("checkpoint_step", None, "Of a run; default: the newest.")


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
    find_direction(FLAGS.task)
    out = checked_out(Path(FLAGS.out))
    if not FLAGS.num_images >= 1:
        raise ValueError(f"num_images={FLAGS.num_images} must be at least 1")
    if not FLAGS.steps >= 1:
        raise ValueError(f"steps={FLAGS.steps} must be at least 1")
    request = flags_request()
    hole = checked_hole(request)
    if FLAGS.scene is None:
        make_plan(request)
    from tqdm import tqdm

    from onediff_jax.sampling.encode import trained_size
    from onediff_jax.sampling.generate import generate
    from onediff_jax.sampling.scene import request_of_scene
    from onediff_jax.sampling.source import load_source
    from onediff_jax.sampling.write import write

    source = load_source(FLAGS.source, ema=FLAGS.ema, step=FLAGS.checkpoint_step)
    if FLAGS.scene is not None:
        request = request_of_scene(source, FLAGS.scene, request)
    if FLAGS.from_image or hole is not None:
        task, _ = find_direction(request.direction)
        size = request.size or trained_size(source.experiment, task, request.images)
        request = dataclasses.replace(request, images=derived(request, hole, size))
    results = generate(
        source,
        [dataclasses.replace(request, seed=request.seed + i) for i in range(FLAGS.num_images)],
        steps=FLAGS.steps,
        guidance=FLAGS.guidance,
        progress=functools.partial(tqdm, desc=FLAGS.task, unit="step"),
    )
    for note in results[0].notes:
        print(f"note: {note}", file=sys.stderr)
    for file in write(results, out):
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


def flags_request() -> Request:
    """The request that the flags state, with pictures as they are in the files."""
    if (FLAGS.height is None) != (FLAGS.width is None):
        raise ValueError(f"--height={FLAGS.height} and --width={FLAGS.width} go together")
    frames = _numbers("generate", int)
    elevations = _numbers("elevations", float)
    focal = FOCAL if FLAGS.focal is None else FLAGS.focal
    more = {}
    columns = [_numbers("azimuths", float), elevations, _numbers("distances", float)]
    if FLAGS.task == "image2camera" and columns[0] is None and columns[2] is None:
        more["elevation"] = (elevations or [0.0])[0]
    elif any(column is not None for column in columns):
        filled = [c or [d] for c, d in zip(columns, (0.0, 0.0, DISTANCE), strict=True)]
        more["cameras"] = cams.orbit_cameras(*filled, focal=focal)
    return Request(
        direction=FLAGS.task,
        prompt=FLAGS.prompt,
        images=tuple(read_picture(path) for path in _paths(FLAGS.image)),
        generate=None if frames is None else tuple(frames),
        focal=focal,
        size=None if FLAGS.height is None else (FLAGS.height, FLAGS.width),
        regions=tuple(_region(text) for text in FLAGS.region),
        item=FLAGS.item,
        sources=tuple(FLAGS.source_prompt),
        negative_prompt=FLAGS.negative_prompt,
        seed=FLAGS.seed,
        **more,
    )


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


def read_picture(path: str) -> np.ndarray:
    """(H, W, 3) uint8 of a picture file, upright, on white where it is transparent.

    Raises ValueError when there is none, it does not decode, or it has over 64 million pixels.
    """
    if not Path(path).is_file():
        raise ValueError(f"image {path} is not a file")
    try:
        return ImageReader(max_pixels=MAX_PIXELS, min_side=1).read(path)
    except BadData as error:
        detail = f" ({error.detail})" if error.detail else ""
        raise ValueError(f"image {path}: {REASONS[error.reason]}{detail}") from None


def derivable() -> list[str]:
    """The directions whose given frames an ordinary picture is enough to make."""
    pairs = ((direction.name, given_roles(direction.name)) for _, direction in all_directions())
    return [name for name, roles in pairs if roles and all(get_role(r).derived for r in roles)]


def given_roles(direction: str) -> list[str]:
    """The roles of the frames that a direction is given, in their order."""
    task, _ = find_direction(direction)
    mask = task.denoise_mask(direction, task.min_frames)
    return [role for role, wanted in zip(task.frames, mask, strict=True) if not wanted]


def checked_hole(request: Request) -> np.ndarray | None:
    """--mask as bool (H, W), True to be painted anew; raises where it or --from_image is wrong."""
    name = request.direction
    if not FLAGS.from_image and FLAGS.mask is None:
        return None
    if name not in derivable() or request.generate is not None or FLAGS.scene is not None:
        raise ValueError(
            f"--from_image and --mask work for {derivable()}, without --generate and --scene. "
            f"Otherwise give the condition of {name} itself as --image"
        )
    if (FLAGS.mask is None) == any(get_role(role).needs_mask for role in given_roles(name)):
        raise ValueError("--mask is needed to inpaint an ordinary --image, and for nothing else")
    if FLAGS.mask is None:
        return None
    hole = read_picture(FLAGS.mask).mean(-1) > 127
    if request.images and hole.shape != request.images[0].shape[:2]:
        sizes = [f"{s[1]}x{s[0]}" for s in (hole.shape, request.images[0].shape)]
        raise ValueError(f"--mask has {sizes[0]} pixels, --image {sizes[1]}: they must agree")
    return hole


def derived(
    request: Request, hole: np.ndarray | None, size: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """The conditions made from an ordinary picture, at the size that is generated."""
    if hole is not None:
        hole = fit(hole.astype(np.uint8), size, nearest=True) > 0
    image = fit(request.images[0], size)
    roles = map(get_role, given_roles(request.direction))
    return tuple(role.derive(image, mask=hole) for role in roles)


if __name__ == "__main__":
    define_flags()
    app.run(main)
