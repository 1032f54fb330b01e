"""Rounds of faults: one each, chosen by a seed; then the same command again until it ends."""

import dataclasses
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults import commands
from tests.faults.commands import Command, Ended, finish, power_cut, run, start

AGAIN = 4  # starts after the fault
KINDS = {
    "train": (
        *("kill", "kill", "power", "power", "term", "int", "term2", "int2", "full", "tmpfs"),
        *("flip", "cut", "empty", "remove", "back", "forth", "worker", "second", "code"),
    ),
    "export": ("kill", "kill", "term", "full"),
    "prepare": ("kill", "int", "term", "full"),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A round. result: identical, refused (by name, and then mended as it says), wrong, hang,
    orphan, hands (it did not end well by itself), or exit (a code without its reason)."""

    command: str
    kind: str
    where: str
    result: str
    said: str
    seconds: float


class Rounds:
    """What rounds share: results without a fault, and the number of events of each command."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.train = commands.training()
        self.number = 0
        self.whole = folder / "whole"
        self.events: dict[str, int] = {}
        self.want: dict[str, object] = {}
        self._straight(self.train, self.whole)
        self.others: dict[str, Command] = {}

    def _straight(self, command: Command, folder: Path) -> None:
        log = self.folder / f"{command.name}.log"
        ended = run(command, folder, log)
        assert ended.code == 0, ended.err
        self.want[command.name] = command.result(folder)
        self.events[command.name] = int(Path(f"{log}.count").read_text())

    def command(self, name: str) -> Command:
        """Of that name; what it needs is made when it is first asked for."""
        if name == "train":
            return self.train
        if name not in self.others:
            if name == "export":
                self.others[name] = commands.exporting(self.whole)
            else:
                self.others[name] = commands.preparing(pictures(self.folder / "pictures"))
            self._straight(self.others[name], self.folder / f"straight-{name}")
        return self.others[name]

    def round(self, name: str = "", kind: str = "") -> Outcome:
        """One fault, and what became of it."""
        name = name or str(self.rng.choice(list(KINDS), p=(0.7, 0.15, 0.15)))
        kind = kind or str(self.rng.choice(KINDS[name]))
        command = self.command(name)
        self.number += 1
        place = self.folder / f"round-{self.number}"
        place.mkdir()
        began = time.monotonic()
        try:
            where, result, said = self._fault(command, kind, place)
        finally:
            if os.path.ismount(place / "tmpfs"):
                subprocess.run(["umount", str(place / "tmpfs")], check=False)
            shutil.rmtree(place, ignore_errors=True)
        return Outcome(name, kind, where, result, said, time.monotonic() - began)

    def _fault(self, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
        special: dict[str, Callable] = {
            **dict.fromkeys(("flip", "cut", "empty", "remove"), self._damage),
            "worker": self._worker,
            "second": self._second,
            "code": self._code,
            "tmpfs": self._tmpfs,
        }
        if kind in special:
            return special[kind](command, kind, place)
        folder, log = place / command.name, place / "log"
        if command.name == "export":
            shutil.copytree(self.folder / "straight-export", folder)
        at = int(self.rng.integers(1, self.events[command.name] + 1))
        first = run(command, folder, log, at=at, do=kind)
        where = f"event {at} of {self.events[command.name]}"
        if kind == "power":
            where += f", {power_cut(folder, log, self.rng)} files forgotten"
        missing = command.name == "export" and not folder.exists()
        where += ", the export was missing" if missing else ""
        return where, *self._again(command, folder, place, first)

    def _again(
        self, command: Command, folder: Path, place: Path, first: Ended | None
    ) -> tuple[str, str]:
        """Starts the command again until it ends well; (result, the last line of trouble)."""
        said = first.said if first else ""
        if first and (problem := first.problem()):
            return problem.split(" ")[0].rstrip(":"), problem
        for _ in range(AGAIN):
            ended = run(command, folder, place / "log")
            if problem := ended.problem():
                return problem.split(" ")[0].rstrip(":"), problem
            if ended.code == 0:
                same = command.result(folder) == self.want[command.name]
                return ("identical" if same else "wrong"), said
            said = ended.said
            if ended.code == 1:
                return "refused", said
        return "hands", said

    def _damage(self, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
        """Of one file of a run that was stopped after step 8, which has checkpoints 4 and 8."""
        folder = place / "train"
        shutil.copytree(self._stopped(), folder)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
        file = files[int(self.rng.integers(len(files)))]
        if self.rng.random() < 0.5:  # most bytes are those of arrays
            file = max(files, key=lambda p: (p.stat().st_size, "/8/" in str(p)))
        content = bytearray(file.read_bytes())
        if kind == "flip":
            content[int(self.rng.integers(len(content)))] ^= 1 << int(self.rng.integers(8))
        size = {"flip": len(content), "cut": len(content) // 2}.get(kind, 0)
        file.write_bytes(bytes(content[:size])) if kind != "remove" else file.unlink()
        result, said = self._again(command, folder, place, None)
        if result == "refused" and str(file.relative_to(folder)) in said:
            file.unlink(missing_ok=True)  # as the message says
            result, _ = self._again(command, folder, place, None)
            result = "refused" if result == "identical" else result
        elif result == "refused":
            result = "refused, not by name"
        return str(file.relative_to(folder)), result, said

    def _stopped(self) -> Path:
        """A run that was killed after step 8."""
        folder = self.folder / "stopped"
        if not folder.exists():
            shorter = commands.training("--config.train.steps=1000000")
            process, mark = start(shorter, folder, self.folder / "stopped.log")
            until = time.monotonic() + commands.LIMIT
            while not (folder / "checkpoints" / "8").exists() and time.monotonic() < until:
                time.sleep(0.02)
            process.kill()
            finish(process, mark)
            for step in (folder / "checkpoints").iterdir():
                if step.name not in ("4", "8"):
                    shutil.rmtree(step)
            config = json.loads((folder / "config.json").read_text())
            config["train"]["steps"] = commands.STEPS
            for file in (folder / "config.json", *folder.glob("checkpoints/*/sums.json")):
                text = json.loads(file.read_text())
                (text.get("config") or text)["train"]["steps"] = commands.STEPS
                file.write_text(json.dumps(text))
        return folder

    def _worker(self, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
        """A reading process is killed while the run goes on."""
        folder = place / "train"
        one = commands.training("--config.data.workers=1")
        process, mark = start(one, folder, place / "log")
        until = time.monotonic() + commands.LIMIT / 2
        victims: list[int] = []
        while process.poll() is None and not victims and time.monotonic() < until:
            time.sleep(0.05)
            victims = [n for n in commands.marked(mark) if n != process.pid and _is_reader(n)]
        time.sleep(float(self.rng.random()))
        for number in victims:
            os.kill(number, 9)
        first = finish(process, mark)
        return f"{len(victims)} readers", *self._again(one, folder, place, first)

    def _second(self, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
        """The same command is started twice at a time."""
        folder = place / "train"
        process, mark = start(command, folder, place / "log")
        until = time.monotonic() + commands.LIMIT / 2
        while not (folder / ".lock").exists() and time.monotonic() < until:
            time.sleep(0.02)
        second = run(command, folder, place / "log2")
        first = finish(process, mark)
        if first.code == 0 and second.code == 0:  # one after the other
            second = Ended(1, "", "error: in use by another process", [], 0)
        if second.code != 1 or "in use by another process" not in second.err:
            return "", "wrong", f"the second ended with {second.code}: {second.said}"
        return "", *self._again(command, folder, place, first)

    def _code(self, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
        """A file of the package changes between two starts."""
        folder, root = place / "train", place / "root"
        shutil.copytree(self._stopped(), folder)
        root.mkdir()
        for name in ("onediff_jax", "tests", "configs"):
            shutil.copytree(commands.ROOT / name, root / name, ignore=_caches)
        files = sorted((root / "onediff_jax").rglob("*.py"))
        file = files[int(self.rng.integers(len(files)))]
        file.write_text(file.read_text() + "\n# changed\n")
        name = str(file.relative_to(root / "onediff_jax"))
        ended = run(command, folder, place / "log", root=root)
        if ended.code != 1 or f"{name} changed" not in ended.err:
            return name, "wrong", f"exit {ended.code}: {ended.said}"
        accepted = commands.training("--accept_changes")
        ended = run(accepted, folder, place / "log", root=root)
        same = ended.code == 0 and command.result(folder) == self.want["train"]
        return name, ("identical" if same else "wrong"), ended.said

    def _tmpfs(self, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
        """A disk that is really full (where there is root), and then has room."""
        disk = place / "tmpfs"
        disk.mkdir()
        size = int(self.rng.integers(1, 12)) * 256 * 1024
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            return "no root", "identical", "not tried"
        folder = disk / "train"
        first = run(command, folder, place / "log")
        room = ["mount", "-o", "remount,size=200m", str(disk)]
        subprocess.run(room, check=True)
        where = f"{size / 1e6:.2f} MB"
        if first.code not in (0, 74):
            return where, "exit", f"exit {first.code}: {first.said[:300]}"
        return where, *self._again(command, folder, place, first)


def pictures(folder: Path) -> Path:
    """Twelve pictures with captions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg")
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")
    return folder


def _is_reader(process: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _caches(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("__pycache__", "golden")]
