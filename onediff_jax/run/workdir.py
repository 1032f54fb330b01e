"""The folder of a run: one process group at a time, one config, versions written down."""

import contextlib
import fcntl
import json
import platform
import shutil
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from onediff_jax.experiment.checks import may_grow, upgrade
from onediff_jax.experiment.schema import is_free, is_rounding
from onediff_jax.files import FileError, file_hash, is_remote, read_json, read_object, write_json


class WorkdirError(ValueError):
    """A workdir that cannot be used, with the reason."""


class Workdir:
    """Claims a folder for this run, as long as the object lives; one process of a run does it.

    On gs:// nothing can be claimed: that no other run writes there is up to its user.

    Args:
      path: the folder; it is made.
      config: of the run.
      write: False checks only: nothing stays of a folder that is released before `begin`.
      extend: train.steps may be more than before whatever the schedule.
      accept: settings that change rounding alone may differ; it stays written down.

    Attributes:
      path: absolute.
      first_start: Unix time at which the run was started for the first time.
      notes: what was recovered, one line each.
      steps_before: train.steps of the last start, where it is less than now; else None.

    Raises WorkdirError when it cannot be written, another process uses it, or it holds the run of
    another config (the differing fields are named).
    """

    def __init__(
        self,
        path: str | Path,
        config: ConfigDict,
        *,
        write: bool = True,
        extend: bool = False,
        accept: bool = False,
    ):
        self.path, self._lock = run_folder(path), None
        self.notes: list[str] = []
        self._begun, self._surroundings = False, None
        self._config = json.loads(config.to_json_best_effort())
        self._extend, self.steps_before = extend, None
        self._accept = accept
        self._accepted: list[str] = []  # settings that differ
        try:
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._empty = self._made or not any(self.path.iterdir())
            if not is_remote(path):
                self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 - held while we live
        except OSError as error:
            raise WorkdirError(
                f"workdir {self.path} cannot be written: {error.strerror}"
            ) from error
        try:
            if self._lock is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_config()
            self.first_start = self._first_start()
            if write:
                self.begin()
        except BlockingIOError:
            self._begun = True  # it is another's
            self.release()
            raise WorkdirError(f"workdir {self.path} is in use by another process") from None
        except BaseException:
            self.release()
            raise

    def check_surroundings(
        self, found: dict[str, Any], changes: Callable[[dict, dict], list[str]]
    ) -> None:
        """Compares what the run depends on with the last start.

        Args:
          found: {part: {name: hash}}; written by `begin`.
          changes: (old, new) → lines that say what differs.

        Raises WorkdirError that names what differs, unless it is accepted; then it stays written
        down.
        """
        old = self._old_surroundings()
        differ = changes(old.get("now", {}), found)
        if differ and not self._accept:
            raise WorkdirError(
                f"workdir {self.path}: not everything is as at the last start:\n  "
                + "\n  ".join(differ)
                + "\nThe same result cannot be promised. Put back what it was, or go on with "
                "--accept_changes."
            )
        differ = [*self._accepted, *differ]
        self.notes += [f"accepted: {line}" for line in differ]
        history = old.get("accepted", [])
        if differ:
            history = [*history, {"unix_time": time.time(), "changes": differ}]
        self._surroundings = {"now": old.get("now", {}) | found, "accepted": history}

    def _old_surroundings(self) -> dict[str, Any]:
        """What the last start wrote down; of older runs, the versions alone."""
        if not (self.path / "surroundings.json").exists() and (self.path / "checkpoints").exists():
            self.notes.append(
                f"{self.path / 'surroundings.json'} is missing and is written again: code, weights "
                "and data could not be compared with those of the last start"
            )
        try:
            for name in ("surroundings.json", "versions.json"):
                if (self.path / name).exists():
                    value = read_json(self.path / name)
                    if isinstance(value, dict) and value:
                        return (
                            value if name == "surroundings.json" else {"now": {"versions": value}}
                        )
                    self.notes.append(f"{self.path / name} holds nothing and is written again")
        except FileError as error:
            self.notes.append(
                f"{error}; it is written again, and nothing could be compared with it"
            )
        return {}

    def begin(self) -> None:
        """Writes down what the run is: from now on the folder is its own."""
        write_json(self.path / "config.json", self._config)
        write_json(self.path / "versions.json", versions())
        if self._surroundings is not None:
            write_json(self.path / "surroundings.json", self._surroundings)
        if not self._valid_start():
            write_json(self.path / "started.json", {"unix_time": self.first_start})
        self._begun = True

    def _check_config(self) -> None:
        file = self.path / "config.json"
        if not file.exists() and config_of_checkpoint(self.path) is None:
            return
        old, new = upgrade(self._old_config(file), file), upgrade(self._config, "")
        differ = []
        for name, before, now in differences(old, new):
            longer = name == "train.steps" and now > before
            if longer and (self._extend or may_grow(old, new)):
                self.steps_before = before
            elif not is_free(name):
                line = f"{name}: {before!r} in the workdir, {now!r} now"
                if self._accept and is_rounding(name):
                    self._accepted.append(line)
                    continue
                if longer:
                    line += f" (--extend goes on to {now} with this schedule's new curve)"
                if is_rounding(name):
                    line += " (--accept_changes goes on, rounded otherwise from here)"
                differ.append(line)
        if differ:
            raise WorkdirError(
                f"workdir {self.path} holds the run of another config:\n  "
                + "\n  ".join(differ)
                + "\nChoose another --workdir, or remove this one. A new run goes on from its "
                "weights with --config.init_from=FOLDER, where onediff_jax.export wrote them."
            )

    def _old_config(self, file: Any) -> Any:
        try:
            found = read_object(file)
            if self._config and not found:
                raise FileError(f"{file} cannot be read: it holds nothing")
            return found
        except FileError as error:
            saved = config_of_checkpoint(self.path)
            if saved is None:
                raise WorkdirError(
                    f"{error}. No checkpoint holds a copy of it: bring it back from a copy, or "
                    "remove it if you are sure that the command is the run's."
                ) from error
            self.notes.append(f"{error}; recovered from the newest checkpoint")
            return saved

    def _first_start(self) -> float:
        found = self._valid_start()
        if found is not None:
            return found
        if not (self.path / "started.json").exists():
            return time.time()
        self.notes.append(f"{self.path / 'started.json'} holds no time and is written again")
        config = self.path / "config.json"
        return config.stat().st_mtime if config.exists() and self._lock else time.time()

    def _valid_start(self) -> float | None:
        try:
            return float(read_json(self.path / "started.json")["unix_time"])
        except (FileError, KeyError, TypeError, ValueError):
            return None

    def release(self) -> None:
        """Lets another process have the folder; a start that was refused leaves nothing there."""
        if not self._begun and self._empty and not is_remote(self.path):
            with contextlib.suppress(OSError):  # what ended the start is told, not this
                for entry in self.path.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                if self._made:
                    self.path.rmdir()
        if self._lock is not None:
            self._lock.close()


def config_of_checkpoint(workdir: Any) -> Any:
    """The config that the newest checkpoint of a workdir holds a copy of; None without one."""
    folder = workdir / "checkpoints"
    entries = folder.iterdir() if folder.is_dir() else ()
    for step in sorted((int(e.name) for e in entries if e.name.isdigit()), reverse=True):
        try:
            return read_json(folder / str(step) / "sums.json")["config"]
        except (FileError, KeyError, TypeError):
            continue
    return None


def run_folder(path: str | Path) -> Any:
    """The folder of a run, absolute: a Path, or for gs:// something that behaves like one.

    Raises WorkdirError for stores that are not written directly.
    """
    if str(path).startswith("gs://"):
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
    # Network file systems take seconds to tell.
    while not is_remote(path) and not (folder / ".lock").exists():
        if time.monotonic() > until:
            raise WorkdirError(
                f"workdir {folder}: what process 0 wrote there cannot be seen here; it must lie on "
                "storage that all processes share"
            )
        time.sleep(0.2)
    return folder


def fingerprint(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """What must be the same in every process of a run: settings, versions, hashes of the code."""
    ours = {"config": json.loads(config.to_json_best_effort()), "workdir": str(workdir)}
    return {**ours, "versions": versions(), "code": code_hashes()}


def code_hashes() -> dict[str, str]:
    """A hash of every source file of this package, by its path in it."""
    package = Path(__file__).parents[1]
    return {
        str(file.relative_to(package)): file_hash(file)[:12]
        for file in sorted(package.rglob("*.py"))
    }


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


def load_config(workdir: str | Path) -> ConfigDict:
    """The config that a run was started with.

    Fields that it lacks, because the run is older than they are, have the values that it meant.

    Raises WorkdirError when the folder is no workdir; SettingsError when the config has fields that
    no longer exist.
    """
    folder = run_folder(workdir)
    file = folder / "config.json"
    if not file.exists():
        raise WorkdirError(f"{workdir} holds no config.json: not a workdir of a run")
    try:
        fields = read_object(file)
        if not fields:
            raise FileError(f"{file} holds nothing")
    except FileError as error:
        fields = config_of_checkpoint(folder)
        if fields is None:
            raise WorkdirError(str(error)) from error
    return ConfigDict(upgrade(fields, file))
