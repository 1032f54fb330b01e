"""The folder of a run: one process group at a time, one config, versions written down."""

import fcntl
import hashlib
import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from onediff_jax.experiment.checks import upgrade
from onediff_jax.experiment.schema import is_free
from onediff_jax.files import FileError, read_json, write_json


class WorkdirError(ValueError):
    """A workdir that cannot be used, with the reason."""


class Workdir:
    """Claims a folder for this run, as long as the object lives; one process of a run does it.

    On gs:// nothing can be claimed: that no other run writes there is up to its user.

    Attributes:
      path: absolute.
      first_start: Unix time at which the run was started for the first time.

    Raises WorkdirError when it cannot be written, another process uses it, or it holds the run of
    another config (the differing fields are named).
    """

    def __init__(self, path: str | Path, config: ConfigDict):
        self.path, self._lock = run_folder(path), None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not is_remote(path):
                self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 - held while we live
        except OSError as error:
            raise WorkdirError(
                f"workdir {self.path} cannot be written: {error.strerror}"
            ) from error
        try:
            if self._lock is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_config(config)
            self.first_start = self._first_start()
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
                for name, old, new in differences(upgrade(_read(file), file), upgrade(ours, ""))
                if not is_free(name)
            ]
            if differ:
                raise WorkdirError(
                    f"workdir {self.path} holds the run of another config:\n  "
                    + "\n  ".join(differ)
                    + "\nChoose another --workdir, or remove this one. A new run goes on from its "
                    "weights with --config.init_from=FOLDER, where onediff_jax.export wrote them."
                )
        write_json(file, ours)
        write_json(self.path / "versions.json", versions())

    def _first_start(self) -> float:
        file = self.path / "started.json"
        if not file.exists():
            write_json(file, {"unix_time": time.time()})
        return _read(file)["unix_time"]

    def release(self) -> None:
        """Lets another process have the folder."""
        if self._lock is not None:
            self._lock.close()


def is_remote(path: str | Path) -> bool:
    """Whether a path is of an object store."""
    return str(path).startswith("gs://")


def run_folder(path: str | Path) -> Any:
    """The folder of a run, absolute: a Path, or for gs:// something that behaves like one.

    Raises WorkdirError for stores that are not written directly.
    """
    if is_remote(path):
        from etils import epath  # comes with orbax; needs tensorflow for gs://

        return epath.Path(path)
    if "://" in str(path):
        raise WorkdirError(
            f"workdir {path}: of the object stores only gs:// is written directly; mount others as "
            "a folder"
        )
    return Path(path).resolve()


def await_claim(path: str | Path, seconds: float = 30.0) -> Any:
    """The folder that another process of this run has just claimed, absolute.

    Raises WorkdirError when what that process wrote does not appear here.
    """
    folder, until = run_folder(path), time.monotonic() + seconds
    while not (folder / "started.json").exists():  # network file systems take seconds to tell
        if time.monotonic() > until:
            raise WorkdirError(
                f"workdir {folder}: what process 0 wrote there cannot be seen here; it must lie on "
                "storage that all processes share"
            )
        time.sleep(0.2)
    return folder


def fingerprint(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """What must be the same in every process of a run: settings, versions, hashes of the code."""
    package = Path(__file__).parents[1]
    code = {
        str(file.relative_to(package)): hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        for file in sorted(package.rglob("*.py"))
    }
    ours = {"config": json.loads(config.to_json_best_effort()), "workdir": str(workdir)}
    return {**ours, "versions": versions(), "code": code}


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


def _read(file: Any) -> Any:
    try:
        return read_json(file)
    except FileError as error:
        raise WorkdirError(str(error)) from error


def load_config(workdir: str | Path) -> ConfigDict:
    """The config that a run was started with.

    Fields that it lacks, because the run is older than they are, have the values that it meant.

    Raises WorkdirError when the folder is no workdir; SettingsError when the config has fields that
    no longer exist.
    """
    file = run_folder(workdir) / "config.json"
    if not file.exists():
        raise WorkdirError(f"{workdir} holds no config.json: not a workdir of a run")
    return ConfigDict(upgrade(_read(file), file))
