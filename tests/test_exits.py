"""Exit codes: one table, and which error has which."""

import errno
from concurrent.futures.process import BrokenProcessPool

import pytest

from onediff_jax import exits
from onediff_jax.run.workdir import WorkdirError


def caused(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "error, code",
    [
        (ValueError("seed=-1"), 1),
        (FileNotFoundError(errno.ENOENT, "No such file"), 1),
        (PermissionError(errno.EACCES, "Permission denied"), 1),
        (FULL, 74),
        (caused(ValueError("cannot be written"), FULL), 74),
        (caused(WorkdirError("cannot be written"), OSError(errno.EROFS, "Read-only")), 74),
        (RuntimeError("tensorstore: RESOURCE: No space left on device"), 74),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 74),
        (BrokenProcessPool("a process was terminated abruptly"), 77),
        (caused(BrokenProcessPool("killed"), ConnectionResetError(errno.ECONNRESET, "reset")), 77),
        (KeyError("x"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_codes(error, code):
    assert exits.of_error(error).code == code


def test_codes_are_told_apart():
    """No code stands twice; launchers that do not start again after 1 and 2 lose nothing."""
    codes = [entry.code for entry in exits.ALL]
    assert len(set(codes)) == len(codes)
    assert {entry.code for entry in exits.ALL if not entry.again} == {0, 1, 2}


def test_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        exits.fail(caused(ValueError("no room"), FULL))
    assert ended.value.code == 74 and capsys.readouterr().err == "error: no room\n"


def test_what_nobody_foresaw(capsys):
    with pytest.raises(SystemExit) as ended, exits.foreseen():
        raise LookupError("lost")
    assert ended.value.code == 70 and "LookupError: lost" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended, exits.foreseen():
        raise SystemExit(1)
    assert ended.value.code == 1
