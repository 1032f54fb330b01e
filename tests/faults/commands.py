"""Commands under fault: each is started again until it ends, and its result is compared."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from onediff_jax import exits

ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds; a command of these takes some ten on a free machine
STEPS = 12


@dataclasses.dataclass
class Ended:
    """How a process ended: exit code (negative: a signal), its output, and what went on living."""

    code: int | None  # None: it hung, and was killed
    out: str
    err: str
    orphans: list[int]
    seconds: float

    @property
    def said(self) -> str:
        """The last line."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def problem(self) -> str:
        """What is wrong with the end itself: "", hang, orphan, or an exit without a reason."""
        if self.code is None:
            return "hang"
        if self.orphans:
            return "orphan"
        codes = {entry.code for entry in exits.ALL}
        if self.code > 0 and (self.code not in codes or self.code == exits.FAULT.code):
            return f"exit {self.code}: {self.said[:200]}"
        if self.code in (1, 74) and "error:" not in self.err:
            return f"exit {self.code} without a reason"
        return ""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that makes a folder. `arguments` takes the folder; `result` reads what it made."""

    name: str
    module: str
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], object]


def start(
    command: Command, folder: Path, log: Path, *, at: int = 0, do: str = "", root: Path = ROOT
) -> tuple[subprocess.Popen, str]:
    """Starts a command with a fault; the process, and the mark that it and its children carry."""
    mark = uuid.uuid4().hex
    # An export is written beside its place.
    watch = folder.parent if command.name == "export" else folder
    settings = json.dumps({"watch": str(watch), "at": at, "do": do, "log": str(log)})
    environment = os.environ | {"ONEDIFF_FAULTS": mark, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/faults/child.py"), settings, command.module]
        + command.arguments(folder),
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, mark


def finish(process: subprocess.Popen, mark: str) -> Ended:
    """Waits for the end, at most LIMIT seconds; then looks for processes that went on."""
    began = time.monotonic()
    try:
        out, err = process.communicate(timeout=LIMIT)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        for number in marked(mark):
            os.kill(number, 9)
        out, err = process.communicate()
        code = None
    orphans = marked(mark)
    until = time.monotonic() + 8  # children notice within some seconds that they are alone
    while orphans and time.monotonic() < until:
        time.sleep(0.2)
        orphans = marked(mark)
    for number in orphans:
        os.kill(number, 9)
    return Ended(code, out, err, orphans, time.monotonic() - began)


def run(command: Command, folder: Path, log: Path, **fault) -> Ended:
    """Starts and waits."""
    return finish(*start(command, folder, log, **fault))


def marked(mark: str) -> list[int]:
    """Processes that carry a mark in their environment, except zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def power_cut(folder: Path, log: Path, rng) -> int:
    """Forgets what was not synced: such files are emptied, cut or zeroed. How many those were."""
    known = set()
    if log.exists():
        known = {tuple(json.loads(line)) for line in log.read_text().splitlines()}
    lost = 0
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        told = file.stat()
        if (told.st_ino, told.st_mtime_ns, told.st_size) in known or not told.st_size:
            continue
        lost += 1
        kind = rng.integers(3)
        content = b"" if kind == 0 else bytes(told.st_size)
        if kind == 1:
            content = file.read_bytes()[: told.st_size // 2]
        file.write_bytes(content)
    return lost


def trained(folder: Path) -> object:
    """The checksums of every array after the last step, and the state of the data stream."""
    about = json.loads((folder / "checkpoints" / str(STEPS) / "sums.json").read_text())
    return about["arrays"], about["step"]


def exported(folder: Path) -> object:
    """SHA-256 of every file but the model card, which names the folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "README.md"
    }


def prepared(folder: Path) -> object:
    """The content hash of a prepared folder, and what its shards really hold."""
    manifest = json.loads((folder / "manifest.json").read_text())
    shards = {
        entry["file"]: hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
        for entry in manifest["files"]
    }
    return manifest["sha256"], shards


def training(*more: str) -> Command:
    """The smallest run: 12 steps, a checkpoint every 4."""

    def arguments(folder: Path) -> list[str]:
        return [
            f"--config={ROOT / 'tests/small_run.py'}",
            f"--workdir={folder}",
            f"--config.train.steps={STEPS}",
            "--config.log.held_out_every=1000",
            *more,
        ]

    return Command("train", "onediff_jax.main", arguments, trained)


def exporting(source: Path) -> Command:
    """Replaces an export of a run."""

    def arguments(folder: Path) -> list[str]:
        return [f"--source={source}", f"--out={folder}", "--overwrite"]

    return Command("export", "onediff_jax.export", arguments, exported)


def preparing(pictures: Path) -> Command:
    """Prepares a folder of pictures, with two workers."""

    def arguments(folder: Path) -> list[str]:
        return [f"--input={pictures}", "--format=folder", f"--out={folder}", "--workers=2",
                "--tasks=text2image,canny2image", "--aspects=4:3", "--tokens=48",
                "--option=shard_size=4", "--held_out=0.1"]  # fmt: skip

    return Command("prepare", "onediff_jax.prepare", arguments, prepared)
