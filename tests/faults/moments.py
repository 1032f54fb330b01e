"""Faults at a moment of a command: signals, kills, full disks, clocks, power, permissions."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.faults.commands import LIMIT, Command, finish, power_cut, run, start, training

LONG, FAULTS = 48, 6  # steps of a run that has so many faults, one after the other
CHAINED = (
    "kill",
    "kill",
    "power",
    "power",
    "term",
    "int",
    "term2",
    "int2",
    "full",
    "back",
    "forth",
)
SIZE = 96 * 2**20  # bytes of a file system of its own


def at_a_moment(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """At one event of the command's files; child.py does it. A kind such as power+term is one after
    the other: the command is started again after the first.
    """
    folder, log = place / command.name, place / "log"
    if command.name == "export":
        shutil.copytree(rounds.straight(command), folder)
    where, parts = [], kind.split("+")
    for number, part in enumerate(parts):
        at = max(1, rounds.moment(command) // len(parts))
        first = run(command, folder, log, at=at, do=part)
        where.append(f"{part} at event {at} of {rounds.events[command.name]}")
        if part == "power":
            where[-1] += f", {power_cut(folder, log, rounds.rng)} files forgotten"
        if command.name == "export" and not folder.exists():
            where[-1] += ", the export was missing"
        if number + 1 < len(parts) and (problem := first.problem()):
            return "; ".join(where), problem.split(" ")[0].rstrip(":"), problem
    return "; ".join(where), *rounds.again(command, folder, place, first)


def chain(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """Many faults, one after the other, of a longer run: it is started again after each."""
    longer = training(name="long", steps=LONG)
    parts = [str(part) for part in rounds.rng.choice(CHAINED, size=FAULTS)]
    rounds.faults = FAULTS
    return at_a_moment(rounds, longer, "+".join(parts), place)


def local(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """A run that saves every second step on a local disk and never elsewhere is killed twice."""
    saves = training(
        "--config.checkpoint.every_steps=1000",
        f"--config.checkpoint.local_folder={place / 'disk'}",
        "--config.checkpoint.local_every=2",
        watch=str(place),
    )
    rounds.faults, where = 2, []
    for _ in range(2):
        at = int(rounds.rng.integers(1, 60))
        first = run(saves, place / "train", place / "log", at=at, do="kill")
        where.append(f"kill at event {at}")
        if first.code == 0:
            break
    result = rounds.again(saves, place / "train", place, first)
    if rounds.lost > 4:
        return "; ".join(where), "wrong", f"{rounds.lost} steps were trained again"
    return "; ".join(where), *result


def device(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """The power goes: an ext4 file system on a loop device forgets what was not written to it. Or
    ("failing") the disk alone goes, and the command has to end by itself.
    """
    at, disk = rounds.moment(command), place / "disk"
    disk.mkdir()
    image = place / "image"
    with open(image, "wb") as file:
        file.truncate(SIZE)
    mount = ["mount", "-o", "loop", str(image), str(disk)]
    for step in (["mkfs.ext4", "-q", str(image)], mount):
        if subprocess.run(step, check=False, capture_output=True).returncode:
            return "no loop device", "untried", ""
    inner = disk / "inner"
    inner.mkdir()
    folder = inner / command.name
    if command.name == "export":
        shutil.copytree(rounds.straight(command), folder)
    os.sync()
    first = run(command, folder, place / "log", at=at, do=kind, disk=disk)
    for _ in range(50):
        if not subprocess.run(["umount", str(disk)], check=False, capture_output=True).returncode:
            break
        time.sleep(0.1)
    subprocess.run(mount, check=True)
    where = f"event {at} of {rounds.events[command.name]}"
    if kind == "failing" and first.code not in (0, 1, 74):
        return where, "hang" if first.code is None else "exit", f"{first.code}: {first.said}"
    return where, *rounds.again(command, folder, place, first)


def on_a_small_disk(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """A disk that is really full (where there is root), and then has room."""
    size = int(rounds.rng.integers(1, 12)) * 256 * 1024
    where = f"{size / 1e6:.2f} MB"
    if (disk := tmpfs(place, size)) is None:
        return "no root", "untried", ""
    folder = disk / command.name
    first = run(command, folder, place / "log")
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
    if first.code not in (0, 74):
        return where, "exit", f"exit {first.code}: {first.said[:300]}"
    if len(first.err.splitlines()) > 20:
        return where, "exit", f"{len(first.err.splitlines())} lines before {first.said[:200]}"
    return where, *rounds.again(command, folder, place, first)


def read_only(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """The disk becomes read-only while the command runs, and then is not any more."""
    if (disk := tmpfs(place, 200 * 2**20)) is None:
        return "no root", "untried", ""
    folder = disk / command.name
    if command.name == "export":
        shutil.copytree(rounds.straight(command), folder)
    process = start(command, folder, place / "log")
    where = _somewhere(rounds, process, folder, command)
    mounted = ["mount", "-o", "remount,ro,size=200m", str(disk)]
    for _ in range(200):  # not while a file is open for writing
        if not subprocess.run(mounted, check=False, capture_output=True).returncode:
            break
        time.sleep(0.02)
    else:
        where += ", never"
    first = finish(process)
    subprocess.run(["mount", "-o", "remount,rw,size=200m", str(disk)], check=True)
    if first.code not in (0, 74):
        return where, "exit", f"exit {first.code}: {first.said[:300]}"
    return where, *rounds.again(command, folder, place, first)


def permission(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """The folder becomes another user's while the command runs, and then is its own again."""
    if os.geteuid():
        return "no root", "untried", ""
    folder = place / command.name
    process = start(command, folder, place / "log", weak=True)
    where = _somewhere(rounds, process, folder, command)
    _give(folder, 65534)
    first = finish(process)
    if first.code not in (0, 1, 74):
        return where, "exit", f"exit {first.code}: {first.said[:300]}"
    if first.code and not _denied(first.err):
        return where, "exit", f"exit {first.code} without the reason: {first.said[:300]}"
    still = run(command, folder, place / "log", weak=True)  # nothing was mended
    if first.code and (still.code not in (1, 74) or not _denied(still.err)):
        return where, "exit", f"again exit {still.code}: {still.said[:300]}"
    _give(folder, 0)
    return where, *rounds.again(command, folder, place, first)


def frozen(rounds, command: Command, kind: str, place: Path) -> tuple[str, str, str]:
    """A reading process stands still for some seconds, or is killed."""

    def act(number: int) -> None:
        if kind == "worker":
            os.kill(number, 9)
            return
        os.kill(number, 19)
        time.sleep(2 + 2 * rounds.rng.random())
        os.kill(number, 18)

    folder = place / command.name
    starts = training("--config.data.workers=1") if command.name == "train" else command
    process, victims = start(starts, folder, place / "log"), []
    until = time.monotonic() + LIMIT / 2
    while process.poll() is None and not victims and time.monotonic() < until:
        time.sleep(0.05)
        victims = [number for number in process.children() if _is_worker(number)]
    time.sleep(2 * float(rounds.rng.random()))
    for number in victims[:1]:
        try:
            act(number)
        except ProcessLookupError:
            victims = []
    first = finish(process)
    if first.code not in (0, 77):
        return "", "exit", f"exit {first.code}: {first.said[:300]}"
    return f"{len(victims[:1])} workers", *rounds.again(command, folder, place, first)


def _somewhere(rounds, process, folder: Path, command: Command) -> str:
    """Waits for a moment between the first file and, about, the end."""
    until = time.monotonic() + LIMIT / 2
    while process.poll() is None and not folder.exists() and time.monotonic() < until:
        time.sleep(0.02)
    wait = float(rounds.rng.random()) * 8
    time.sleep(wait)
    return f"{wait:.1f} s after the first file"


def tmpfs(place: Path, size: int) -> Path | None:
    """A file system in memory; None where it cannot be mounted."""
    disk = place / "tmpfs"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    failed = subprocess.run(mount, check=False, capture_output=True).returncode
    return None if failed else disk


def _give(folder: Path, user: int) -> None:
    if not folder.exists():
        folder.mkdir()
    for parent, _, _ in os.walk(folder):
        try:
            os.chown(parent, user, user)
        except FileNotFoundError:
            continue


def _denied(text: str) -> bool:
    return any(word in text for word in ("ermission denied", "not permitted", "cannot be written"))


def _is_worker(process: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
