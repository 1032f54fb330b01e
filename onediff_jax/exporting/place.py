"""The folder of an export: checked, written beside its place, and gone when that fails."""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from onediff_jax.files import FULL
from onediff_jax.interop.lora import ADAPTER_FILES
from onediff_jax.interop.pretrained import RUN_FILE


class ExportError(ValueError):
    """An export that cannot be made, with the reason; nothing is left of it."""


def check_out(source: Path, out: Path, overwrite: bool) -> None:
    if source.is_relative_to(out):
        raise ExportError(f"out={out} would replace the source {source}")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ExportError(f"out={out} exists; --overwrite replaces it when the new one is complete")
    if not any((out / name).is_file() for name in (RUN_FILE, *ADAPTER_FILES)):
        raise ExportError(f"out={out} is not an export, so --overwrite does not replace it")


@contextlib.contextmanager
def beside(out: Path, needed: int) -> Iterator[Path]:
    """A folder to write into, on the file system of `out`; gone at the end if still there.

    Those of earlier exports to `out` that were killed go first.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob.escape(out.name)}-*.partial"):
            with locked(left) as nobody_writes:
                if nobody_writes:
                    shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out.parent} cannot be written: {error.strerror}") from error
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ExportError(
                f"{needed / 1e9:.2f} GB are needed in {out.parent}, and {free / 1e9:.2f} are free"
            )
        folder.chmod(0o755)
        with locked(folder):
            yield folder
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ExportError(f"the disk of {out.parent} is full; nothing is left there") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Locks a folder while the context lasts, or the process; False where it is locked already."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = True
    except OSError:
        ours = False
    try:
        yield ours
    finally:
        os.close(handle)
