"""Starts commands quickly: a process that has imported the libraries, of which each is a copy.

    python tests/faults/server.py

Reads lines of JSON: {"start": {"arguments", "env", "cwd", "out", "err", "weak"}} answers {"pid"};
{"poll": pid} answers {"code"}, null while it runs. Only what is not of this project is imported
beforehand, so a copy runs the files that lie in its own folder at its start. Ends with its input.
"""

import ctypes
import importlib
import json
import os
import struct
import sys
import traceback

LIBRARIES = ("jax", "jax.numpy", "numpy", "optax", "flax.nnx", "orbax.checkpoint", "grain")
LIBRARIES += ("ml_collections", "PIL.Image", "absl.app", "clu.parameter_overview", "einops")
LIBRARIES += ("safetensors", "cv2", "jaxtyping", "scipy.ndimage")
LIBRARIES += ("array_record.python.array_record_module",)


def start(arguments: list[str], env: dict, cwd: str, out: str, err: str, weak: bool) -> int:
    """A copy of this process runs child.py; its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number, file in ((1, out), (2, err)):
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(handle, number)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        if weak:
            weaken()
        code = run(arguments)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def weaken() -> None:
    """Root may write only where permissions let it; reading goes on."""
    version, own = 0x20080522, 0
    header = struct.pack("=II", version, own)
    data = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    words = list(struct.unpack("=6I", data.raw))
    words[0] &= ~(1 << 1 | 1 << 3)  # the effective ones, without CAP_DAC_OVERRIDE and CAP_FOWNER
    if libc.capset(header, struct.pack("=6I", *words)):
        raise OSError(ctypes.get_errno(), "capset")


def run(arguments: list[str]) -> int:
    """Runs it as the interpreter would, up to its exit code."""
    import atexit
    import threading

    import child

    try:
        child.main(arguments)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # what a process does at its end, in this order
    atexit._run_exitfuncs()
    return code


def main() -> None:
    """Answers until the input ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = {"pid": start(**request["start"])}
        else:
            found, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if found else None}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
