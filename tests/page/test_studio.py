"""What is behind the page: forms to requests, limits, results as files. No browser, no Gradio."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onediff_jax.page import drawings
from onediff_jax.page.studio import Form, Limits, Studio, TooLong, snap_to_palette
from onediff_jax.tasks.definitions import all_directions
from tests.experiments import shrunken
from tests.runs import save_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def studio():
    limits = Limits(upload=200_000, pixels=250_000, side=128, steps=20, count=2, words=600)
    found = Studio(ROOT / "assets/tiny", limits=limits)
    yield found
    found.close()
    assert not found.folder.exists()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("upload") / "photo.png"
    Image.fromarray(np.full((60, 80, 3), 120, np.uint8)).save(file)
    return str(file)


@pytest.mark.parametrize("name", [direction.name for _, direction in all_directions()])
def test_every_direction_has_an_example_that_can_be_asked(studio, name):
    form = studio.example(name, 1)
    plan = studio.plan(studio.request(form))
    assert plan.prompt.startswith(f"[[{studio.asking(name).task}]]")
    assert all(Path(file).is_relative_to(studio.folder) for file in form.files)
    assert str(studio.asking(name)).startswith(f"{name}: ")


def test_from_form_to_files(studio, photo):
    form = Form("image2depth", files=[photo], count=2, steps=2)
    told = list(studio.generate(form, every=1))
    assert [(step, bool(files)) for step, _, files in told] == [(1, False), (2, True)]
    _, results, files = told[-1]
    assert [r.request.seed for r in results] == [0, 1]
    names = [file.name for file in files]
    assert names[0] == "image2depth.png" and "image2depth_1.npy" in names
    assert all(file.is_file() and file.is_relative_to(studio.folder) for file in files)
    drawn = drawings.depth_map(results[0].picture(1), results[0].metric_depth(1), "<m>")
    assert drawn.count("<b title=") == 32 * 32


def test_a_painted_hole_and_a_painted_map(studio, photo):
    hole = np.zeros((60, 80), bool)
    hole[:30] = True
    request = studio.request(Form("image_inpainting", files=[photo], mask=hole))
    assert request.from_image and request.mask is hole
    painted = np.zeros((64, 64, 4), np.uint8)
    painted[:20] = (0, 250, 250, 255)  # nearly cyan
    form = Form("semanticmap2image", "a cube", painted=painted, regions="cyan: cube\n red : a ball")
    request = studio.request(form)
    assert request.regions == (("cyan", "cube"), ("red", "a ball"))
    assert set(map(tuple, request.images[0].reshape(-1, 3))) == {(0, 255, 255), (0, 0, 0)}
    assert not snap_to_palette(np.full((2, 2, 4), 100, np.uint8)).any()  # hardly painted


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"direction": "nothing"}, "unknown direction 'nothing'; choose from"),
        ({"prompt": "x" * 601}, "601 characters in the prompt: at most 600"),
        ({"steps": 21}, "21 steps: at most 20"),
        ({"count": 3}, "3 seeds: at most 2"),
        ({"height": 256, "width": 64}, "256 height: at most 128"),
        ({"height": 64}, "go together"),
        ({"direction": "depth2image"}, "0 images were given"),
        ({"direction": "multiview", "azimuths": "a"}, "azimuths: 'a' must be numbers"),
        ({"direction": "text2multiview", "azimuths": "0,1,2,3,4,5,6"}, "more than 12 frames"),
        ({"direction": "image2semanticmap", "regions": "cube"}, "a colour, a colon and a label"),
        ({"direction": "deblurring", "files": ["large.png"]}, "more than 200000 bytes"),
        ({"direction": "deblurring", "files": ["wide.png"]}, "image wide.png: more pixels"),
        ({"direction": "deblurring", "files": ["text.png"]}, "image text.png: the bytes are no"),
    ],
)
def test_what_is_refused_is_said_in_words(studio, tmp_path, fields, message):
    (tmp_path / "large.png").write_bytes(bytes(200_001))
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (600, 600)).save(tmp_path / "wide.png")
    files = [str(tmp_path / name) for name in fields.get("files", ())]
    with pytest.raises(ValueError, match=message) as caught:
        studio.request(Form(**{"direction": "text2image", "prompt": "x", **fields, "files": files}))
    assert str(tmp_path) not in str(caught.value)


def test_a_generation_ends_at_its_limit_of_time(studio, monkeypatch):
    monkeypatch.setattr(studio, "limits", Limits(seconds=-1.0))
    with pytest.raises(TooLong, match="ended after"):
        list(studio.generate(Form("text2image", "a cube", steps=2)))


def test_a_run_in_progress_gives_its_newest_checkpoint(tmp_path):
    save_run(tmp_path / "run", shrunken())
    later = tmp_path / "run/checkpoints/7"
    later.rename(tmp_path / "7")
    found = Studio(tmp_path / "run")
    assert found.step == found.newest() == 3
    (tmp_path / "7").rename(later)
    assert found.newest() == found.step == 7
    found.close()


def test_nothing_in_a_message_is_html():
    assert "<script>" not in drawings.notice("<script>alert(1)</script>")


def test_what_is_empty_or_hidden_has_its_default():
    form = Form("depth2image", sources=None, item=None, steps=None, height=None)
    assert (form.sources, form.item, form.steps, form.height) == ("", "", 20, 0)
