"""Rounds of faults: one each, chosen by a seed; then the same command again until it ends."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults import commands
from tests.faults.commands import Command, Ended, run
from tests.faults.kinds import KINDS

AGAIN = 4  # starts after the fault
SHARES = {"train": 0.64, "export": 0.12, "prepare": 0.16, "evaluate": 0.08}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A round. result: identical, refused (by name, and then mended as it says), untried (this
    machine cannot), wrong, hang, orphan, hands (it did not end well by itself), or exit (a code
    without its reason). lost: steps that were trained again, at most.
    faults: how many there were, one after the other."""

    command: str
    kind: str
    where: str
    result: str
    said: str
    seconds: float
    lost: int = 0
    faults: int = 1


class Rounds:
    """What rounds share: results without a fault, and the number of events of each command."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.number, self.lost, self.faults = 0, 0, 1
        self.events: dict[str, int] = {}
        self.want: dict[str, object] = {}
        self._others: dict[str, Command] = {}
        # Keeps all its checkpoints: a run that was stopped is made of it.
        keeps = commands.training("--config.checkpoint.keep_last=3")
        self.whole = self.straight(keeps)
        self.train = commands.training()

    def straight(self, command: Command) -> Path:
        """The folder that a command makes without a fault."""
        folder = self.folder / f"straight-{command.name}"
        if command.name not in self.want:
            log = self.folder / f"{command.name}.log"
            ended = run(command, folder, log)
            assert ended.code == 0, ended.err
            self.want[command.name] = command.result(folder)
            self.events[command.name] = int(Path(f"{log}.count").read_text())
        return folder

    def command(self, name: str) -> Command:
        """Of that name; what it needs is made when it is first asked for."""
        if name == "train":
            return self.train
        if name not in self._others:
            made = {
                "export": lambda: commands.exporting(self.whole),
                "evaluate": lambda: commands.evaluating(self.whole),
                "prepare": lambda: commands.preparing(pictures(self.folder / "pictures")),
            }[name]()
            self._others[name] = made
            self.straight(made)
        return self._others[name]

    def moment(self, command: Command) -> int:
        """The number of one of its events."""
        self.straight(command)
        return int(self.rng.integers(1, self.events[command.name] + 1))

    def stopped(self, folder: Path) -> Path:
        """Makes the folder that of a run that was stopped after step 8."""
        shutil.copytree(self.whole, folder)
        shutil.rmtree(folder / "checkpoints" / str(commands.STEPS))
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        early = [line for line in lines if json.loads(line)["step"] <= 8]
        (folder / "metrics.jsonl").write_text("".join(early))
        return folder

    def round(self, name: str = "", kind: str = "") -> Outcome:
        """One fault, and what became of it."""
        name = name or str(self.rng.choice(list(SHARES), p=list(SHARES.values())))
        kind = kind or str(self.rng.choice(list(KINDS[name])))
        command = self.command(name)
        self.number, self.lost, self.faults = self.number + 1, 0, kind.count("+") + 1
        place = self.folder / f"round-{self.number}"
        place.mkdir()
        began = time.monotonic()
        try:
            where, result, said = KINDS[name][kind](self, command, kind, place)
        finally:
            for disk in place.iterdir():
                if os.path.ismount(disk):
                    subprocess.run(["umount", "-l", str(disk)], check=False)
            shutil.rmtree(place, ignore_errors=True)
        seconds = round(time.monotonic() - began, 1)
        return Outcome(name, kind, where, result, said[:300], seconds, self.lost, self.faults)

    def again(
        self, command: Command, folder: Path, place: Path, first: Ended | None, **options
    ) -> tuple[str, str]:
        """Starts the command again until it ends well; (result, the last line of trouble)."""
        self.straight(command)
        said = first.said if first else ""
        if first and (problem := first.problem()):
            return problem.split(" ")[0].rstrip(":"), problem
        for _ in range(AGAIN):
            ended = run(command, folder, place / "log", **options)
            if problem := ended.problem():
                return problem.split(" ")[0].rstrip(":"), problem
            if ended.code == 0:
                same = command.result(folder) == self.want[command.name]
                self.lost = max(self.lost, steps_lost(folder))
                return ("identical" if same else "wrong"), said
            said = ended.said
            if ended.code == 1:
                return "refused", ended.err
        return "hands", said


def steps_lost(folder: Path) -> int:
    """The most steps that a run trained again at once, by its metrics."""
    file, steps = folder / "metrics.jsonl", []
    if file.exists():
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        steps = [line["step"] for line in lines if "loss" in line]
    return max((a - b + 1 for a, b in itertools.pairwise(steps) if b <= a), default=0)


def pictures(folder: Path) -> Path:
    """Twelve pictures with captions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg")
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")
    return folder
