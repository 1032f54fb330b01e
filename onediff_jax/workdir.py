"""The folder of a run: one process group at a time, one config, versions written down."""

import fcntl
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

# What may change between two starts of one run, because it does not change the result. (Prepared
# folders may be moved: the stream that a checkpoint belongs to knows them by content and weight.)
FREE_FIELDS = (
    *("log.", "checkpoint.", "mesh.", "model.unroll"),
    *("data.threads", "data.prefetch", "data.folders", "data.encoder"),
)


class WorkdirError(ValueError):
    """A workdir that cannot be used, with the reason."""


class Workdir:
    """Claims a folder for this run, as long as the object lives.

    Raises WorkdirError when it cannot be written, another process uses it, or it holds the run of
    another config (the differing fields are named).
    """

    def __init__(self, path: str | Path, config: ConfigDict):
        self.path = Path(path).resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 - held while we live
        except OSError as error:
            raise WorkdirError(
                f"workdir {self.path} cannot be written: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_config(config)
        except BlockingIOError:
            self.release()
            raise WorkdirError(f"workdir {self.path} is in use by another process") from None
        except BaseException:
            self.release()
            raise

    def _check_config(self, config: ConfigDict) -> None:
        file = self.path / "config.json"
        ours = json.loads(config.to_json_best_effort())
        if file.exists():
            differ = [
                f"{name}: {old!r} in the workdir, {new!r} now"
                for name, old, new in differences(read_json(file), ours)
                if not name.startswith(FREE_FIELDS)
            ]
            if differ:
                raise WorkdirError(
                    f"workdir {self.path} holds the run of another config:\n  "
                    + "\n  ".join(differ)
                    + "\nChoose another --workdir, or remove this one."
                )
        write_json(file, ours)
        write_json(self.path / "versions.json", versions())

    def release(self) -> None:
        """Lets another process have the folder."""
        self._lock.close()


def differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(field, old, new) wherever two trees of JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return found
    return [] if old == new else [(prefix.rstrip("."), old, new)]


def versions() -> dict[str, str]:
    """Versions of this package, Python and what the numbers depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "onediff-jax")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def read_json(file: Path) -> Any:
    """Raises WorkdirError when the file is not JSON."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{file} cannot be read: {error}") from error


def write_json(file: Path, value: Any) -> None:
    """Whole or not at all: written beside, then renamed."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    beside.replace(file)


def load_config(workdir: str | Path) -> ConfigDict:
    """The config that a run was started with.

    Raises WorkdirError when the folder is no workdir.
    """
    file = Path(workdir) / "config.json"
    if not file.exists():
        raise WorkdirError(f"{workdir} holds no config.json: not a workdir of a run")
    return ConfigDict(_tuples(read_json(file)))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
