"""Others, and other surroundings: a second run, lost peers, changed code, weights and data."""

import os
import shutil
import signal
import socket
import time
from pathlib import Path

from tests.faults import commands
from tests.faults.commands import LIMIT, ROOT, Command, Ended, finish, run, start

LORA = """
from tests import small_run
from tests.runs import lora_config

def get_config():
    return lora_config({base!r}, **small_run.CONFIG)
"""

# How processes end that are killed, or lose another: jax's coordinator ends them by SIGABRT.
ENDS = (0, 76, -signal.SIGKILL, -signal.SIGABRT)


def second(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """The same command is started twice at a time."""
    folder = place / "train"
    process = start(command, folder, place / "log")
    until = time.monotonic() + LIMIT / 2
    while not (folder / ".lock").exists() and time.monotonic() < until:
        time.sleep(0.02)
    other = run(command, folder, place / "log2")
    first = finish(process)
    if first.code == 0 and other.code == 0:  # one after the other
        return "one after the other", *rounds.again(command, folder, place, first)
    ends = sorted(((first.code, first), (other.code, other)), key=lambda pair: pair[0] or 0)
    if ends[0][0] != 0 or ends[1][0] != 1 or "in use by another process" not in ends[1][1].err:
        return "", "wrong", f"they ended with {first.code} and {other.code}: {other.said}"
    return "", *rounds.again(command, folder, place, ends[0][1])


def peer(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """One of two processes that train together is killed; both are started again. They save where
    all can read, or ("local peer") each on a disk of its own.
    """
    whole = rounds.folder / "straight-two"
    two = commands.training(name="two")
    if "two" not in rounds.want:
        ends = [finish(p) for p in _pair(two, whole, rounds.folder)]
        assert [end.code for end in ends] == [0, 0], ends[0].err + ends[1].err
        rounds.want["two"] = two.result(whole)
    if kind == "local peer":
        two = commands.training(
            "--config.checkpoint.every_steps=1000",
            f"--config.checkpoint.local_folder={place / 'disk'}",
            "--config.checkpoint.local_every=2",
            name="two",
        )
    folder = place / "train"
    processes = _pair(two, folder, place)
    until = time.monotonic() + LIMIT / 2
    while not _reports(folder) and time.monotonic() < until:
        time.sleep(0.02)
    wait = 4 * float(rounds.rng.random())
    time.sleep(wait)
    victim = processes[int(rounds.rng.integers(2))]
    number = (signal.SIGKILL, signal.SIGTERM)[int(rounds.rng.integers(2))]
    where = f"{number.name} after {wait:.1f} s to process {processes.index(victim)}"
    if victim.poll() is None:
        os.kill(victim.pid, number)
    ends = [finish(process, 100) for process in processes]
    for end in ends:
        if end.code not in ENDS:
            return where, ("hang" if end.code is None else "exit"), f"exit {end.code}: {end.said}"
    for _ in range(4):
        ends = [finish(process) for process in _pair(two, folder, place)]
        if [end.code for end in ends] == [0, 0]:
            same = two.result(folder) == rounds.want["two"]
            where += f"; {_told(ends)}"
            return where, ("identical" if same else "wrong"), ends[0].said
        if not all(end.code in ENDS for end in ends):
            break
    return where, "hands", " / ".join(f"exit {end.code}: {end.said[-140:]}" for end in ends)


def _told(ends: list[Ended]) -> str:
    """Where the processes went on."""
    lines = [line for end in ends for line in end.out.splitlines() if "continuing from" in line]
    return lines[0] if lines else "from step 0"


def _reports(folder: Path) -> bool:
    """Whether a run has made its first steps."""
    file = folder / "metrics.jsonl"
    return file.exists() and file.stat().st_size > 0


def _pair(command: Command, folder: Path, place: Path) -> list:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    env = {"ONEDIFF_COORDINATOR": f"localhost:{port}", "ONEDIFF_PROCESSES": "2"}
    env["ONEDIFF_HEARTBEAT"] = "20"
    return [
        start(command, folder, place / f"log{i}", **env, ONEDIFF_PROCESS=str(i)) for i in range(2)
    ]


def code(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """A file of the package changes between two starts."""
    folder, root = rounds.stopped(place / "train"), place / "root"
    root.mkdir()
    for name in ("onediff_jax", "tests", "configs"):
        shutil.copytree(ROOT / name, root / name, ignore=_caches)
    files = sorted((root / "onediff_jax").rglob("*.py"))
    file = files[int(rounds.rng.integers(len(files)))]
    file.write_text(file.read_text() + "\n# changed\n")
    name = str(file.relative_to(root / "onediff_jax"))
    ended = run(command, folder, place / "log", root=root)
    return name, *_accepted(rounds, command, ended, f"{name} changed", folder, place, root=root)


def base(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """Other weights lie under a LoRA run than at its last start: a changed number, and restored."""
    root, config = rounds.folder / "base", rounds.folder / "lora.py"
    if not root.exists():
        ended = run(commands.exporting(rounds.whole), root, rounds.folder / "base.log")
        assert ended.code == 0, ended.err
        config.write_text(LORA.format(base=str(root)))
    lora = commands.training(name="lora", config=config)
    whole = rounds.straight(lora)
    folder = place / "train"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / str(commands.STEPS))
    (file,) = (root / "transformer").glob("*.safetensors")
    content = file.read_bytes()
    changed = bytearray(content)
    changed[-1 - int(rounds.rng.integers(1000))] ^= 1 << int(rounds.rng.integers(8))
    try:
        file.write_bytes(bytes(changed))
        ended = run(lora, folder, place / "log")
    finally:
        file.write_bytes(content)
    if ended.code != 1 or file.name not in ended.err:
        return "", "wrong", f"exit {ended.code}: {ended.said}"
    result, _ = rounds.again(lora, folder, place, None)
    return file.name, ("refused" if result == "identical" else result), ended.said


def data(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """The pictures of a preparation change between two starts: named, or made anew."""
    folder = place / "prepare"
    pictures = place / "pictures"
    shutil.copytree(rounds.folder / "pictures", pictures)
    own = commands.preparing(pictures)
    first = run(own, folder, place / "log", at=rounds.moment(command), do="kill")
    files = sorted(pictures.iterdir())
    file = files[int(rounds.rng.integers(len(files)))]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    ended = run(own, folder, place / "log")
    file.write_bytes(content)
    if problem := ended.problem():
        return file.name, problem.split(" ")[0].rstrip(":"), problem
    fresh = place / "fresh"
    if ended.code == 0:
        return file.name, "identical" if _seen(folder) else "wrong", ended.said
    return file.name, *rounds.again(own, fresh, place, first)


def _seen(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


def _accepted(
    rounds, command: Command, ended: Ended, named: str, folder: Path, place: Path, **options
) -> tuple[str, str]:
    """Refused by that name, nothing written; with --accept_changes it goes on."""
    if ended.code != 1 or named not in ended.err:
        return "wrong", f"exit {ended.code}: {ended.said}"
    again = run(commands.training("--accept_changes"), folder, place / "log", **options)
    same = again.code == 0 and command.result(folder) == rounds.want["train"]
    return ("refused" if same else "wrong"), ended.said


def _caches(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("__pycache__", "golden")]
