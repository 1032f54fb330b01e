"""Requests from a file: what a line may say, and how a bad one is told."""

import json

import numpy as np
import pytest
from PIL import Image

from onediff_jax.sampling.lines import read_requests


@pytest.fixture
def write(tmp_path):
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "room.png")

    def to_file(*lines):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "prompts.jsonl").write_text("\n".join(texts) + "\n")
        return tmp_path / "prompts.jsonl"

    return to_file


def test_requests(write):
    file = write(
        {"task": "text2image", "prompt": "a red cube", "seed": 4},
        "",
        {"task": "image2depth", "pictures": ["room.png"]},
        {"task": "canny2image", "prompt": "x", "pictures": ["room.png"], "from_image": True},
        {
            "task": "multiview",
            "prompt": "a cup",
            "pictures": ["room.png"],
            "cameras": {"azimuths": [0, 45, 90], "elevations": 20},
        },
    )
    text, depth, canny, views = read_requests(file)
    assert (text.direction, text.prompt, text.seed, text.images) == (
        "text2image",
        "a red cube",
        4,
        (),
    )
    assert depth.images[0].shape == (32, 48, 3) and depth.seed == 0
    assert canny.from_image and not depth.from_image
    assert len(views.cameras) == 3


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 2: not a JSON object"),
        ("[1]", "line 2: must be a JSON object"),
        ({"prompt": "x"}, "line 2: task is missing"),
        ({"task": "image2music"}, "line 2: task='image2music': unknown task or direction"),
        ({"task": "text2image", "promt": "x"}, r"line 2: unknown fields \['promt'\]; choose from"),
        ({"task": "text2image", "prompt": "x", "seed": "1"}, "line 2: seed='1' must be int"),
        ({"task": "text2image", "prompt": "x", "seed": True}, "line 2: seed=True must be int"),
        ({"task": "text2image", "prompt": "x", "seed": -1}, "line 2: seed=-1 must be at least 0"),
        ({"task": "text2image"}, "line 2: text2image needs a prompt"),
        ({"task": "image2depth", "pictures": ["no.png"]}, "line 2: pictures: image .*no.png"),
        ({"task": "image2depth", "pictures": [3]}, "line 2: pictures: "),
        ({"task": "image2depth"}, "line 2: 0 images were given, but image2depth needs 1"),
        (
            {"task": "multiview", "pictures": ["room.png"], "cameras": {"azimuth": [0]}},
            "line 2: cameras=.* must be a file, or an object with azimuths",
        ),
        (
            {"task": "multiview", "pictures": ["room.png"], "cameras": {"azimuths": ["x", 1]}},
            "line 2: cameras: ",
        ),
    ],
)
def test_a_bad_line_is_named(write, line, message):
    file = write({"task": "text2image", "prompt": "x"}, line)
    with pytest.raises(ValueError, match=message):
        read_requests(file)


def test_no_file_and_an_empty_one(write, tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        read_requests(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="holds no line"):
        read_requests(write(""))
