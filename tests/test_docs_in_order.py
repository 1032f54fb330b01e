"""The commands of docs/prepare.md, in order, in one folder: each works on what came before."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.sources.conftest import Files

ROOT = Path(__file__).parents[1]
# Smaller than the page's, for want of time and of released weights.
SMALLER = {
    "--resolution=512": "--resolution=32",
    "--encoder=released": "--encoder=light",
    "--text=released": "--text=none",
}

NOT_PREPARED = ("deblurring", "image_inpainting", "super_resolution", "hed2img")


def commands(page: str, module: str) -> list[list[str]]:
    """The arguments of every whole command of a page that starts a module."""
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    lines = re.findall(rf"^    python -m onediff_jax\.{module} (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines if "…" not in line]


def run(folder: Path, module: str, arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"onediff_jax.{module}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight captioned photographs, in photos/."""
    folder = tmp_path_factory.mktemp("docs")
    files = Files(folder)
    for number in range(8):
        files.write(f"photos/{number}.png", files.photo(number, 48, 64))
        files.write(f"photos/{number}.txt", f"picture {number}")
    return folder


def test_the_pages_commands_follow_on_one_another(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = commands("prepare.md", "prepare")
    assert len(found) == 3
    for arguments in found:
        run(folder, "prepare", [SMALLER.get(a, a) for a in arguments])
    assert (folder / "prepared/photos/manifest.json").exists() and (folder / "sheet.png").exists()
    (arguments,) = commands("data.md", "prepare")
    run(folder, "prepare", [*arguments, "--resolution=32", "--workers=1"])


@pytest.mark.slow
def test_the_page_trains_on_what_it_prepared(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if not (folder / "prepared/photos/manifest.json").exists():
        run(folder, "prepare", [SMALLER.get(a, a) for a in commands("prepare.md", "prepare")[0]])
    (arguments,) = commands("prepare.md", "main")
    config = arguments[0].replace("configs/", f"{ROOT}/configs/")
    assert config.startswith("--config=")
    smaller = ["train.steps=2", "train.batch_rows=2", "optim.warmup_steps=0", "log.sample_every=0"]
    smaller += ["model.depth=1", "log.held_out_batches=1"]
    smaller += [f"data.tasks.{task}=0.0" for task in NOT_PREPARED]
    run(folder, "main", [config, *arguments[1:], *(f"--config.{field}" for field in smaller)])
