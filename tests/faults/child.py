"""Runs a command of the package with one fault at one moment.

    python tests/faults/child.py JSON MODULE [arguments of the module …]

JSON: {"watch": folder, "at": N, "do": what, "log": file}. Events are what Python tells its audit
hooks: opening for writing, renaming, removing and making, of paths in the watched folder. At the
N-th one (0: never) the fault happens. The log gets the number of events at the end, and a line for
every file that was synced.
"""

import errno
import fcntl
import json
import os
import runpy
import signal
import struct
import subprocess
import sys
import threading
import time

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
SHUTDOWN, NO_FLUSH = 0x8004587D, 2  # FS_IOC_SHUTDOWN: the file system is gone, as without power
YEAR = 365 * 86400


class Fault:
    """Counts events and acts at one of them."""

    def __init__(self, watch: str, at: int, do: str, log: str, disk: str = ""):
        self.watch, self.at, self.do, self.log = os.path.realpath(watch), at, do, log
        self.disk = disk  # where the file system lies whose power goes
        self.count, self.main = 0, os.getpid()

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in EVENTS or os.getpid() != self.main:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (mode and set(mode) & set("wax+")) or (flags or 0) & WRITING
            if not writes:
                return
        else:
            path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.watch):
            return
        self.count += 1
        if self.count == self.at:
            self.act()

    def act(self) -> None:
        """The fault itself."""
        if self.do in ("device", "failing"):
            shut_down(self.disk)
        if self.do in ("kill", "power", "device"):
            os.kill(self.main, signal.SIGKILL)
        if self.do in ("term", "int"):
            os.kill(self.main, getattr(signal, f"SIG{self.do.upper()}"))
        if self.do in ("term2", "int2"):
            number = getattr(signal, f"SIG{self.do[:-1].upper()}")
            threading.Thread(target=twice, args=(self.main, number), daemon=True).start()
        if self.do == "stop":  # and it goes on two seconds later
            awake = ["sh", "-c", f"sleep 2; kill -CONT {self.main}"]
            subprocess.Popen(awake, start_new_session=True, env={"PATH": os.environ["PATH"]})
            os.kill(self.main, signal.SIGSTOP)
        if self.do == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.do in ("back", "forth"):
            jump, real = -YEAR if self.do == "back" else YEAR, time.time
            time.time = lambda: real() + jump


def shut_down(disk: str) -> None:
    """What was not written to the device of a mounted file system is gone, and nothing comes."""
    device = os.stat(disk).st_dev
    if not os.path.ismount(disk) or device == os.stat(os.path.dirname(disk)).st_dev:
        raise ValueError(f"{disk} is no file system of its own")
    handle = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", NO_FLUSH))


def twice(process: int, number: int) -> None:
    """A signal, and the same again."""
    os.kill(process, number)
    time.sleep(0.3)
    os.kill(process, number)


def remember_syncs(log: str) -> None:
    """Writes down what is synced: inode, time and size, by which it is known later."""
    fsync = os.fsync

    def synced(handle) -> None:
        fsync(handle)
        number = handle if isinstance(handle, int) else handle.fileno()
        told = os.fstat(number)
        line = json.dumps([told.st_ino, told.st_mtime_ns, told.st_size]) + "\n"
        to = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(to, line.encode())
        os.close(to)

    os.fsync = synced


def spoil(name: str, factor: float) -> None:
    """Whenever the example of that name is read, its latents are `factor` times what they were."""
    import dataclasses

    from onediff_jax.data.pipeline import Reference

    read = Reference.read

    class Spoiled:
        def __init__(self, example):
            self.example = example

        def draw(self, rng):
            drawn = self.example.draw(rng)
            return dataclasses.replace(drawn, frames=tuple(factor * f for f in drawn.frames))

    Reference.read = lambda self: Spoiled(read(self)) if self.name == name else read(self)


def main(arguments: list[str]) -> None:
    """Sets the fault and runs the module as the command line does."""
    settings, module, *arguments = arguments
    settings = json.loads(settings)
    sys.argv = [module, *arguments]
    sys.path[0] = os.getcwd()
    if "spoil" in settings:
        spoil(*settings.pop("spoil"))
    remember_syncs(settings["log"])
    fault = Fault(**settings)
    sys.addaudithook(fault)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        with open(settings["log"] + ".count", "w") as file:
            file.write(str(fault.count))


if __name__ == "__main__":
    main(sys.argv[1:])
