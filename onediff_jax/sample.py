"""Generate with a trained model: any task, any direction, any frames.

    python -m onediff_jax.sample --source=runs/t2i_multitask --task=text2image \\
        --prompt="a red cube on a grey floor" --out=cube.png
    python -m onediff_jax.sample --source=runs/t2i_multitask --task=image2depth --scene=3 \\
        --out=depth.png

--source is the workdir of a run or an exported folder. docs/tasks.md shows every task. Files that
exist are replaced.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from PIL import Image, PngImagePlugin

from onediff_jax.data.sources.base import REASONS, BadData
from onediff_jax.data.sources.images import ImageReader
from onediff_jax.sampling.generation import (
    FOCAL,
    Generated,
    SampleRequest,
    generate,
    make_plan,
    request_of_scene,
    trained_size,
)
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
    request = flags_request()
    hole = checked_hole(request)
    if FLAGS.scene is None:
        make_plan(request)
    from tqdm import tqdm

    from onediff_jax.sampling.source import load_source

    source = load_source(FLAGS.source, ema=FLAGS.ema, step=FLAGS.checkpoint_step)
    if FLAGS.scene is not None:
        request = request_of_scene(source, FLAGS.scene, request)
    if FLAGS.from_image or hole is not None:
        task, _ = find_direction(request.direction)
        size = request.size or trained_size(source.experiment, task, request.images)
        request = dataclasses.replace(request, images=derived(request, hole, size))
    result = generate(source, request, functools.partial(tqdm, desc=FLAGS.task, unit="step"))
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    for file in write(result, out):
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


def flags_request() -> SampleRequest:
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
    return SampleRequest(
        direction=FLAGS.task,
        prompt=FLAGS.prompt,
        images=tuple(read_picture(path) for path in _paths(FLAGS.image)),
        generate=None if frames is None else tuple(frames),
        focal=focal,
        size=None if FLAGS.height is None else (FLAGS.height, FLAGS.width),
        regions=tuple(_region(text) for text in FLAGS.region),
        item=FLAGS.item,
        sources=tuple(FLAGS.source_prompt),
        steps=FLAGS.steps,
        guidance=FLAGS.guidance,
        negative_prompt=FLAGS.negative_prompt,
        seed=FLAGS.seed,
        count=FLAGS.num_images,
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


def checked_hole(request: SampleRequest) -> np.ndarray | None:
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
    request: SampleRequest, hole: np.ndarray | None, size: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """The conditions made from an ordinary picture, at the size that is generated."""
    if hole is not None:
        hole = fit(hole.astype(np.uint8), size, nearest=True) > 0
    image = fit(request.images[0], size)
    roles = map(get_role, given_roles(request.direction))
    return tuple(role.derive(image, mask=hole) for role in roles)


def write(result: Generated, out: Path) -> list[Path]:
    """Writes pictures, metric depths (.npy) and cameras (.json); the files, `out` first."""
    frames = [f for f, wanted in enumerate(result.plan.generate) if wanted]
    cells = [(i, f) for i in range(result.request.count) for f in frames]
    pictures = {cell: result.picture(*cell) for cell in cells}
    rows = [[pictures[i, f] for f in frames] for i in range(result.request.count)]
    strip = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    roles = {result.plan.roles[f] for f in frames}
    grey = all(get_role(role).grey for role in roles)
    files = [_save_picture(out, strip, result, 0, grey=grey)]
    for number, (image, frame) in enumerate(cells):
        role = result.plan.roles[frame]
        file = out
        if len(cells) > 1:
            file = out.with_stem(f"{out.stem}_{number}")
            picture = pictures[image, frame]
            grey = get_role(role).grey
            files.append(_save_picture(file, picture, result, image, grey=grey))
        depth = result.metric_depth(image, frame)
        if depth is not None:
            with _replacing(file.with_suffix(".npy"), files) as beside:
                np.save(beside, depth)
    if "ray" in roles:
        views = [cameras_json(result, i) for i in range(result.request.count)]
        with _replacing(out.with_suffix(".json"), files) as beside:
            beside.write((json.dumps({"samples": views}, indent=1) + "\n").encode())
    return files


def _save_picture(file: Path, picture: np.ndarray, result: Generated, image: int, *, grey: bool):
    request = result.request
    told = PngImagePlugin.PngInfo()
    for key, value in (
        ("task", request.direction),
        ("prompt", result.plan.prompt),
        ("negative_prompt", request.negative_prompt),
        ("seed", request.seed + image),
        ("steps", request.steps),
        ("guidance", result.guidance),
    ):
        told.add_itxt(key, str(value))
    if grey:
        picture = np.rint(picture.mean(-1)).astype(np.uint8)
    with _replacing(file, []) as beside:
        Image.fromarray(picture).save(beside, format="PNG", pnginfo=told)
    return file


@contextlib.contextmanager
def _replacing(file: Path, written: list[Path]):
    """A file to write, put in place when it is whole, and then listed."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as stream:
            yield stream
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    written.append(file)


def cameras_json(result: Generated, image: int) -> dict:
    """Cameras found from rays, in the first one's frame, as JSON values."""
    found = result.cameras(image)
    orbits = orbit_of(found, result.request.elevation)
    views = [
        {
            "R": found.R[i].tolist(),
            "T": found.T[i].tolist(),
            "centre": found.centres[i].tolist(),
            **({k: float(v[i]) for k, v in orbits.items()} if orbits else {}),
            "focal": float(found.focal[i, 0] / 2),
        }
        for i in range(len(found))
    ]
    return {
        "seed": result.request.seed + image,
        "convention": "x_cam = x_world @ R + T; x left, y up, z ahead; focal in image sides; "
        "azimuth and elevation in degrees from the first camera's, distance from what all look at",
        "cameras": views,
    }


def orbit_of(cameras: cams.Cameras, elevation: float = 0.0) -> dict[str, np.ndarray] | None:
    """Orbit angles of cameras in the first one's frame, about the point nearest to all axes.

    Args:
      elevation: of the first camera, degrees: it says which way is up.

    Returns:
      azimuth and elevation minus the first camera's (N,) degrees, distance (N,); None where all
      look the same way, so that no such point exists.
    """
    try:
        centre = cams.nearest_point(cameras.centres, cameras.R[:, :, 2])
    except ValueError:
        return None
    angle = np.deg2rad(elevation)
    up = np.array([0.0, np.cos(angle), -np.sin(angle)])
    right = np.array([-1.0, 0.0, 0.0])
    back = np.cross(right, up)
    offsets = cameras.centres - centre
    distance = np.linalg.norm(offsets, axis=-1)
    height = np.rad2deg(np.arcsin(np.clip(offsets @ up / distance, -1, 1)))
    around = np.rad2deg(np.arctan2(offsets @ right, offsets @ back))
    turned = (around - around[0] + 180) % 360 - 180
    return {"azimuth": turned, "elevation": height - height[0], "distance": distance}


if __name__ == "__main__":
    define_flags()
    app.run(main)
