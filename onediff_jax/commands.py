"""One entry point for all commands: `onediff train`, `onediff sample`, …

`onediff NAME ARGUMENTS` is `python -m onediff_jax.NAME ARGUMENTS` (`train` is `main`).
"""

import runpy
import sys

COMMANDS = {
    "train": ("main", "train from a config"),
    "sample": ("sample", "generate with a trained model"),
    "evaluate": ("evaluate", "measure a trained model"),
    "export": ("export", "hand a run to PyTorch"),
    "prepare": ("prepare", "turn pictures and tables into training data"),
    "demo": ("demo", "a page to play with a trained model"),
    "checkpoint": ("checkpoint", "list, verify and repair the checkpoints of a run"),
    "prove": ("prove", "kill and resume your own run, and compare every bit"),
    "aot": ("aot", "compile the train step for machines that are not there"),
}


def main() -> None:
    """Runs the named command in this process; without one, lists them and exits with 2."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help", "help"):
        print(usage())
        return
    if name not in COMMANDS:
        sys.exit(f"{f'unknown command {name!r}. ' if name else ''}{usage()}")
    module = f"onediff_jax.{COMMANDS[name][0]}"
    sys.argv = [f"onediff {name}", *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: onediff COMMAND ARGUMENTS (--help after a command)", *lines])
