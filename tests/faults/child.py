"""Runs a command of the package with one fault at one moment.

    python tests/faults/child.py JSON MODULE [arguments of the module …]

JSON: {"watch": folder, "at": N, "do": what, "log": file}. Events are what Python tells its audit
hooks: opening for writing, renaming, removing and making, of paths in the watched folder. At the
N-th one (0: never) the fault happens. The log gets the number of events at the end, and a line for
every file that was synced.
"""

import errno
import json
import os
import runpy
import signal
import sys
import threading
import time

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


class Fault:
    """Counts events and acts at one of them."""

    def __init__(self, watch: str, at: int, do: str, log: str):
        self.watch, self.at, self.do, self.log = os.path.realpath(watch), at, do, log
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
            self.act(event)

    def act(self, event: str) -> None:
        """The fault itself."""
        if self.do in ("kill", "power"):
            os.kill(self.main, signal.SIGKILL)
        if self.do in ("term", "int"):
            os.kill(self.main, getattr(signal, f"SIG{self.do.upper()}"))
        if self.do in ("term2", "int2"):
            number = getattr(signal, f"SIG{self.do[:-1].upper()}")
            threading.Thread(target=twice, args=(self.main, number), daemon=True).start()
        if self.do == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.do in ("back", "forth"):
            jump = -86400 * 365 if self.do == "back" else 86400 * 365
            real = time.time
            time.time = lambda: real() + jump


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


def main() -> None:
    """Sets the fault and runs the module as the command line does."""
    settings, module, *arguments = sys.argv[1:]
    settings = json.loads(settings)
    remember_syncs(settings["log"])
    fault = Fault(**settings)
    sys.addaudithook(fault)
    sys.argv = [module, *arguments]
    sys.path[0] = os.getcwd()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        with open(settings["log"] + ".count", "w") as file:
            file.write(str(fault.count))


if __name__ == "__main__":
    main()
