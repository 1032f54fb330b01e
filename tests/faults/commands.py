"""Commands under fault: each is started again until it ends, and its result is compared."""

import dataclasses
import functools
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
# Programs here run a few times: what costs is compiling them.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "OPENBLAS_NUM_THREADS": "1"}


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
    more: dict = dataclasses.field(default_factory=dict)  # of the child: what it spoils


@dataclasses.dataclass
class Started:
    """A process that runs, the mark that its children carry, and where its output goes."""

    pid: int
    mark: str
    files: tuple[Path, Path]
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.code is None:
            self.code = server().ask({"poll": self.pid})["code"]
        return self.code

    def children(self) -> list[int]:
        """Processes that carry its mark in their environment, except zombies."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return [number for number in found if number != self.pid]

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, 9)


class Server:
    """The process of server.py."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/faults/server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | QUICK | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def ask(self, request: dict) -> dict:
        """Its answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends it."""
        self._process.stdin.close()
        self._process.wait(20)


@functools.cache
def server() -> Server:
    """The one that is used; started when it is first asked for."""
    return Server()


def close_server() -> None:
    """Ends it, if it was started."""
    if server.cache_info().currsize:
        server().close()
        server.cache_clear()


def start(
    command: Command,
    folder: Path,
    log: Path,
    *,
    at: int = 0,
    do: str = "",
    root: Path = ROOT,
    weak: bool = False,
    disk: Path | None = None,
    **env: str,
) -> Started:
    """Starts a command with a fault; `weak`: without the power of root to write everywhere."""
    mark = uuid.uuid4().hex
    # An export is written beside its place.
    watch = folder.parent if command.name == "export" else folder
    settings = {"watch": str(watch), "at": at, "do": do, "log": str(log), **command.more}
    settings |= {"disk": str(disk)} if disk else {}
    files = (log.with_name(f"{log.name}.{mark}.out"), log.with_name(f"{log.name}.{mark}.err"))
    pid = server().ask(
        {
            "start": {
                "arguments": [json.dumps(settings), command.module, *command.arguments(folder)],
                "env": os.environ | QUICK | {"ONEDIFF_FAULTS": mark, "PYTHONPATH": str(root)} | env,
                "cwd": str(root),
                "out": str(files[0]),
                "err": str(files[1]),
                "weak": weak,
            }
        }
    )["pid"]
    return Started(pid, mark, files)


def finish(process: Started, limit: float = LIMIT) -> Ended:
    """Waits for the end, at most `limit` seconds; then looks for processes that went on."""
    began = time.monotonic()
    while process.poll() is None and time.monotonic() < began + limit:
        time.sleep(0.03)
    code = process.poll()
    if code is None:
        process.kill()
        for number in process.children():
            os.kill(number, 9)
        while process.poll() is None:
            time.sleep(0.03)
    orphans = process.children()
    until = time.monotonic() + 8  # children notice within some seconds that they are alone
    while orphans and time.monotonic() < until:
        time.sleep(0.2)
        orphans = process.children()
    for number in orphans:
        os.kill(number, 9)
    out, err = (file.read_text(errors="replace") for file in process.files)
    return Ended(code, out, err, orphans, time.monotonic() - began)


def run(command: Command, folder: Path, log: Path, **fault) -> Ended:
    """Starts and waits."""
    return finish(start(command, folder, log, **fault))


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


def trained(folder: Path, steps: int) -> object:
    """The checksums of every array after the last step, and the state of the data stream."""
    about = json.loads((folder / "checkpoints" / str(steps) / "sums.json").read_text())
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


def evaluated(folder: Path) -> object:
    """Every number, but for the seconds that it took."""
    return without_seconds(json.loads((folder / "metrics.json").read_text()))


def without_seconds(values: dict) -> dict:
    """The values but for times, and for where the source lay."""
    return {k: v for k, v in values.items() if k not in ("seconds", "source")}


SMALL = ROOT / "tests/small_run.py"


def training(
    *more: str, name: str = "train", steps: int = STEPS, config: Path = SMALL, **of_child
) -> Command:
    """The smallest run: 12 steps, a checkpoint every 4."""

    def arguments(folder: Path) -> list[str]:
        return [
            f"--config={config}",
            f"--workdir={folder}",
            f"--config.train.steps={steps}",
            "--config.log.held_out_every=1000",
            *more,
        ]

    def result(folder: Path) -> object:
        return trained(folder, steps)

    return Command(name, "onediff_jax.main", arguments, result, of_child)


def exporting(source: Path) -> Command:
    """Replaces an export of a run."""

    def arguments(folder: Path) -> list[str]:
        return [f"--source={source}", f"--out={folder}", "--overwrite"]

    return Command("export", "onediff_jax.export", arguments, exported)


def evaluating(source: Path) -> Command:
    """Evaluates a run on one scene."""

    def arguments(folder: Path) -> list[str]:
        return [f"--source={source}", f"--out={folder}", "--scenes=1", "--steps=1"]

    return Command("evaluate", "onediff_jax.evaluate", arguments, evaluated)


def preparing(pictures: Path) -> Command:
    """Prepares a folder of pictures, with two workers."""

    def arguments(folder: Path) -> list[str]:
        return [f"--input={pictures}", "--format=folder", f"--out={folder}", "--workers=2",
                "--tasks=text2image,canny2image", "--aspects=4:3", "--tokens=48",
                "--option=shard_size=4", "--held_out=0.1"]  # fmt: skip

    return Command("prepare", "onediff_jax.prepare", arguments, prepared)
