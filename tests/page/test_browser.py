"""The page in a real browser: every task from click to picture, errors in plain words.

It needs Gradio, Playwright and an installed Chromium, and is left out without them.
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onediff_jax.tasks.definitions import all_directions

pytest.importorskip("gradio")
sync = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]
ROOT = Path(__file__).parents[2]
WAIT = 90_000  # milliseconds


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page of assets/tiny, served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("page") / "log.txt"
    command = [sys.executable, "-m", "onediff_jax.demo", "--source=assets/tiny", f"--port={port}"]
    with log.open("w") as stream:
        served = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT)
        for _ in range(240):
            if "http://" in log.read_text() or served.poll() is not None:
                break
            time.sleep(0.5)
        assert served.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
        served.terminate()
        assert served.wait(30) == 0
    text = log.read_text()
    assert "Traceback" not in text, text[-3000:]


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as play:
        options = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        started = play.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


def opened(browser, address, **options):
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 1000}, **options})
    page.goto(address, timeout=WAIT)
    page.wait_for_selector("#run", timeout=WAIT)
    page.locator("#steps input[type=number]").fill("2")
    return page


def choose(page, direction):
    box = page.locator("#task input")
    box.click()
    box.fill(f"{direction}:")
    box.press("Enter")
    page.wait_for_timeout(500)


def generated(page):
    """Clicks Generate and waits for the files."""
    files = "(document.querySelector('#downloads a') || {href: ''}).href"
    before = page.evaluate(files)
    page.locator("#run").click()
    page.wait_for_function(f"{files} && {files} != '{before}'", timeout=WAIT)
    return page.locator("#results img").count()


@pytest.fixture(scope="module")
def page(browser, address):
    found = opened(browser, address)
    yield found
    found.close()


@pytest.mark.parametrize("direction", [direction.name for _, direction in all_directions()])
def test_from_click_to_picture(page, direction):
    choose(page, direction)
    page.locator("#example").click()
    token = "[[multiview]]" if direction == "image2camera" else "[["
    page.wait_for_function(
        f"document.querySelector('#whole textarea').value.startsWith('{token}')", timeout=WAIT
    )
    page.wait_for_timeout(1000)  # the one before may have had the same token: until all is there
    assert generated(page) >= 1
    if direction == "image2depth":
        assert page.locator("#depth b").first.get_attribute("title").split()[1] == "units"
    if direction == "image2camera":
        assert page.locator("#cameras line").count() >= 20


def test_a_hole_is_drawn_on_a_picture_of_ones_own(page, tmp_path):
    picture = np.full((96, 96, 3), (200, 120, 40), np.uint8)
    Image.fromarray(picture).save(tmp_path / "own.png")
    choose(page, "image_inpainting")
    page.locator("#files input[type=file]").set_input_files(tmp_path / "own.png")
    canvas = page.locator("#mask canvas").first
    canvas.wait_for(timeout=WAIT)
    page.wait_for_timeout(1500)
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] - 30, middle[1])
    page.mouse.down()
    page.mouse.move(middle[0] + 30, middle[1], steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    assert generated(page) >= 1
    source = page.locator("#results img").first.get_attribute("src")
    with urllib.request.urlopen(source) as answer:
        found = np.asarray(Image.open(answer).convert("RGB")).astype(int)
    given = np.abs(found - picture[0, 0]).max(-1) == 0
    assert 0.3 < given.mean() < 0.99  # the rest is kept, bit for bit, and something is new


def test_errors_are_plain_words(page):
    choose(page, "depth2image")
    page.locator("#run").click()
    message = page.locator(".toast-body").first
    message.wait_for(timeout=WAIT)
    assert "0 images were given, but depth2image needs 1: depth" in message.inner_text()
    assert "Traceback" not in page.content()


def test_two_visitors_at_once(browser, address):
    pages = [opened(browser, address) for _ in range(2)]
    for number, page in enumerate(pages):
        choose(page, "text2image")
        page.locator("#prompt textarea").fill(f"a red cube {number}")
        page.wait_for_timeout(800)
        page.locator("#run").click()
    for number, page in enumerate(pages):
        page.wait_for_selector("#downloads a", timeout=WAIT, state="visible")
        assert f"a red cube {number}" in page.locator("#whole textarea").input_value()
        page.close()


def test_a_phone_and_the_dark(browser, address):
    """Nothing is wider than the screen."""
    for options in (
        {"viewport": {"width": 390, "height": 844}},
        {"color_scheme": "dark"},
    ):
        page = opened(browser, address, **options)
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0
        page.close()


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "README.md")])
def test_files_of_the_machine_are_not_served(address, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/gradio_api/file={path}")
    assert caught.value.code in (403, 404)


def test_a_port_in_use(address):
    port = address.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "onediff_jax.demo", "--source=assets/tiny", f"--port={port}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --host=127.0.0.1 --port={port} cannot be served on")
    assert len(done.stderr.splitlines()) == 1
