import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs.t2i_multitask import get_config
from onediff_jax.experiment.build import make_experiment
from onediff_jax.run.checkpoint import Checkpoints
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.state import new_state
from onediff_jax.run.workdir import Workdir
from onediff_jax.tasks.colors import COLORS, hex_code
from onediff_jax.tasks.definitions import all_directions

# Runs the command for each list of arguments in one process; prints what each exits with.
DRIVER = """
import json, sys
from onediff_jax import sample
sample.define_flags()
messages = []
for arguments in json.load(sys.stdin):
    sample.FLAGS.unparse_flags()
    try:
        sample.main(sample.FLAGS(["sample", *arguments]))
        messages.append("no error")
    except SystemExit as exit:
        messages.append(str(exit.code))
print(json.dumps(messages))
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run at step 3, never trained."""
    config = get_config("tiny")
    config.model.update(hidden_size=48, depth=1, num_heads=2, num_kv_heads=1, multiple_of=16)
    folder = tmp_path_factory.mktemp("run")
    Workdir(folder, config).release()
    tx, _ = make_optimizer(config.optim, config.train.steps)
    state = jax.jit(lambda: new_state(make_experiment(config).init_params(), tx))()
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, state, {"batches": 3})
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Good and bad picture files."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(folder / "good.png")
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(folder / "mask.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "square_mask.png")
    whole = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("not a picture")
    Image.new("1", (9000, 8000)).save(folder / "huge.png")
    return folder


def run(*arguments, **kwargs):
    command = [sys.executable, "-m", "onediff_jax.sample", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)


@pytest.mark.slow
def test_depth_of_a_scene(workdir, tmp_path):
    out = tmp_path / "depth.png"
    out.write_text("old")
    done = run(
        f"--source={workdir}", "--task=image2depth", "--scene=3", "--steps=2", f"--out={out}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out), str(out.with_suffix(".npy"))]
    assert "2/2" in done.stderr and "Traceback" not in done.stderr
    with Image.open(out) as image:
        assert image.size == (64, 64) and image.mode == "L"
        assert image.text["task"] == "image2depth" and image.text["seed"] == "0"
        assert image.text["prompt"].startswith("[[depth2image]] ")
    assert np.load(out.with_suffix(".npy")).shape == (64, 64)
    assert sorted(os.listdir(tmp_path)) == ["depth.npy", "depth.png"]  # nothing half-written


@pytest.mark.slow
def test_views_and_cameras(workdir, pictures, tmp_path):
    common = (f"--source={workdir}", "--steps=1", "--num_images=2", "--checkpoint_step=3")
    views = ("--task=multiview", "--azimuths=0,30,60", f"--image={pictures / 'good.png'}")
    done = run(*common, *views, "--height=32", "--width=48", f"--out={tmp_path / 'views.png'}")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "views.png") as strip:
        assert strip.size == (2 * 48, 2 * 32)
    names = [f"views{end}.png" for end in ("", "_0", "_1", "_2", "_3")]
    assert sorted(os.listdir(tmp_path)) == names
    with Image.open(tmp_path / "views_3.png") as last:
        assert last.text["seed"] == "1"

    both = f"{pictures / 'good.png'},{pictures / 'mask.png'}"
    done = run(*common, "--task=image2camera", f"--image={both}", f"--out={tmp_path / 'rays.png'}")
    assert done.returncode == 0, done.stderr
    samples = json.loads((tmp_path / "rays.json").read_text())["samples"]
    assert [sample["seed"] for sample in samples] == [0, 1]
    for sample in samples:
        first = sample["cameras"][0]
        np.testing.assert_allclose(first["R"], np.eye(3), atol=1e-6)
        np.testing.assert_allclose(first["centre"], 0, atol=1e-6)
        assert first["focal"] == pytest.approx(1.3887)


CASES = {
    "--task is required": (None, None),
    "unknown task or direction 'depth'; choose from": ("depth",),
    "0 images were given, but depth2image needs 1: depth": ("depth2image",),
    "/nothing.png is not a file": ("depth2image", "nothing.png"),
    "/text.png: the bytes are no picture": ("depth2image", "text.png"),
    "/cut.png: it starts like a picture but does not decode": ("depth2image", "cut.png"),
    "/huge.png: more pixels or bytes than allowed": ("depth2image", "huge.png"),
    "9000x8000": ("depth2image", "huge.png"),
    "unknown colour 'crimson'; choose from ['red', 'lime'": (
        "semanticmap2image",
        "good.png",
        "--region=crimson:cube",
    ),
    "--region=cube must be COLOUR:LABEL": ("semanticmap2image", "good.png", "--region=cube"),
    "steps=-2 must be at least 1": ("depth2image", "good.png", "--steps=-2"),
    "--height=64 and --width=None go together": ("depth2image", "good.png", "--height=64"),
    "generate=[] must name frames": ("depth2image", "good.png", "--generate="),
    "--generate=a must be numbers": ("depth2image", "good.png", "--generate=a"),
    "--out=x.jpg must be a file that ends in .png": ("depth2image", "good.png", "--out=x.jpg"),
    "there is no folder /nowhere": ("depth2image", "good.png", "--out=/nowhere/x.png"),
    "no folder": ("depth2image", "good.png", "--source=/nowhere"),
    "unexpected arguments ['x.png']": ("depth2image", "good.png", "x.png"),
    "from_image works for ['deblurring'": ("depth2image", "good.png", "--from_image"),
    "a mask is needed to inpaint": ("image_inpainting", "good.png", "--from_image"),
    "and for nothing else": ("deblurring", "good.png", "--mask=mask.png"),
    "mask has 40x40 pixels, the image 60x40": (
        "image_inpainting",
        "good.png",
        "--mask=square_mask.png",
    ),
}


@pytest.fixture(scope="module")
def messages(pictures, tmp_path_factory):
    """What each of CASES ends with."""
    out = tmp_path_factory.mktemp("out") / "x.png"

    def arguments(task, image=None, *more):
        found = [f"--source={pictures}", f"--out={out}"]
        found += [f"--task={task}"] if task else []
        found += [f"--image={pictures / image}"] if image else []
        return found + [m.replace("--mask=", f"--mask={pictures}/") for m in more]

    lists = [arguments(*case) for case in CASES.values()]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(lists),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not out.exists()
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("expected", CASES)
def test_bad_input_ends_with_one_line(messages, expected):
    message = messages[expected]
    assert message.startswith("error: ") and expected in message
    assert "\n" not in message


def test_bad_input_exits_with_1_and_no_traceback(tmp_path):
    done = run("--source=x", "--task=depth", f"--out={tmp_path / 'x.png'}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown task") and len(done.stderr.splitlines()) == 1


def test_the_documentation_has_every_direction_and_colour():
    text = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    for _, direction in all_directions():
        assert f"--task={direction.name} " in text
    for name in COLORS:
        assert f"{name} {hex_code(name)} " in text
