"""Saving and restoring runs: the only user of orbax.

A checkpoint is written beside, synced to the disk, and only then gets its name, its step; older
ones go after that. With it lie checksums of its arrays, which are compared whenever they are read.
"""

import contextlib
import gc
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from onediff_jax.files import FileError, is_remote, read_json, sync_folder, sync_tree, write_json
from onediff_jax.parallel.processes import many, meet
from onediff_jax.run.checksum import as_text, checksums, path_name
from onediff_jax.run.workdir import run_folder

CHECKPOINTS = "checkpoints"
ABOUT_FILE = "sums.json"  # in a checkpoint: checksums, and what the run was
DAMAGED = "damaged-"  # in front of the step of a checkpoint that was set aside
# What a save or a removal that was killed leaves.
_LEFT = re.compile(r"(saving|removing)-\d+(\..*)?|\d+\.orbax-checkpoint-tmp.*")
_COMMITTED = "commit_success.txt"  # by orbax, in object stores, which cannot rename
_MARK = "checksums"  # in the data: this checkpoint was written with checksums


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are damaged or missing."""


class SetAsideError(RuntimeError):
    """A damaged checkpoint was set aside, and starting again uses the one before."""


class Checkpoints:
    """The checkpoints of a workdir: written in the background, whole or not at all.

    Args:
      workdir: of the run; checkpoints lie in its folder `checkpoints`.
      keep_last: how many recent ones stay.
      keep_every: steps at which one stays for good; 0 for none.
      about: JSON values that are written into each: the config and versions of the run.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep_last: int = 2,
        keep_every: int = 0,
        about: dict[str, Any] | None = None,
    ):
        if keep_last < 1 or keep_every < 0:
            raise ValueError(f"checkpoint.{keep_last=} must be ≥ 1 and {keep_every=} ≥ 0")
        self._folder = run_folder(workdir) / CHECKPOINTS
        self._remote = is_remote(workdir)
        self._keep_last, self._keep_every = keep_last, keep_every
        self._about = about or {}
        self._is_writer = jax.process_index() == 0
        logging.getLogger("absl").addFilter(_not_told_twice)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._saves = 0  # made by this object; all processes make the same ones
        if self._is_writer:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in list(self._folder.iterdir()):
                if _LEFT.fullmatch(left.name):
                    _remove(left)

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Starts saving; waits first for an earlier save that has not ended.

        Args:
          step: optimizer steps done.
          state: pytree of arrays.
          data: the data stream's state, JSON values.
        """
        self.wait()
        if step in self.steps():
            return
        self._saves += 1
        place = self._folder / (str(step) if self._remote else f"saving-{step}")
        data = {**data, _MARK: True}
        sums = checksums(state)
        response = ocp.save_checkpointables_async(place, {"state": state, "data": data})
        about = {"data": _data_hash(data), "processes": jax.process_count(), **self._about}
        self._pending = self._thread.submit(
            self._finish, step, place, response, sums, about, f"checkpoint/{self._saves}"
        )

    def _finish(
        self,
        step: int,
        place: Any,
        response: Any,
        sums: dict[str, jax.Array],
        about: dict[str, Any],
        name: str,
    ) -> None:
        """In the background: all of it to the disk, then its name, then older ones away."""
        about = {"step": step, "arrays": as_text(sums), **about}
        if self._remote and self._is_writer:  # before orbax says that all of it is there
            write_json(place / ABOUT_FILE, about)
        response.result()
        if not self._remote:
            sync_tree(place)
        meet(f"{name}/written")
        if self._is_writer:
            if not self._remote:  # now: others, syncing, would meet its temporary file
                write_json(place / ABOUT_FILE, about)
                place.rename(self._folder / str(step))
                sync_folder(self._folder)
            for old in self._superfluous(step):
                _remove(self._folder / str(old))
        meet(f"{name}/named")

    def _superfluous(self, newest: int) -> list[int]:
        steps = [step for step in self.steps() if step <= newest]
        kept = set(steps[-self._keep_last :])
        if self._keep_every:
            kept |= {step for step in steps if step % self._keep_every == 0}
        return [step for step in steps if step not in kept]

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong in the background."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits, then releases the thread that writes."""
        try:
            self.wait()
        finally:
            self._thread.shutdown(wait=not many())

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return complete_steps(self._folder)

    def restore(
        self,
        abstract: Any,
        step: int | None = None,
        *,
        strict: bool = False,
        say: Callable[[str], Any] = print,
    ) -> tuple[int, Any, dict[str, Any]]:
        """The newest checkpoint that can be read, or that of `step`: (step, state, data).

        A damaged one is renamed to damaged-STEP, never deleted, and `say` is told what is lost.

        Args:
          abstract: pytree of ShapeDtypeStruct with shardings; shapes are compared first.
          strict: raise for the newest one that is damaged, and leave it where it is.

        Raises CheckpointError when there is none that can be read, or it has other shapes.
        """
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            raise CheckpointError(
                f"no checkpoint {step or ''} in {self._folder}; there are {steps}"
            )
        damaged: list[int] = []
        for number in [step] if step is not None else steps[::-1]:
            try:
                found = (number, *read(self._folder / str(number), abstract))
            except DamagedError as error:
                older = [s for s in steps if s < number]
                if strict or step is not None or not older:
                    raise CheckpointError(self._advice(error, older, damaged)) from error
                say(f"WARNING: {error}")
                damaged.append(number)
                if many() and error.__cause__ is not None:
                    self._set_aside_alone(number, error)
            else:
                break
        for number in damaged:
            if self._is_writer:
                set_aside(self._folder / str(number))
            say(
                f"WARNING: checkpoint {number} is set aside as {self._folder / DAMAGED}{number}; "
                f"the run goes on from step {found[0]}, and trains the steps after it again"
            )
        return found

    def _advice(self, error: DamagedError, older: list[int], damaged: list[int]) -> str:
        if older:
            return f"{error}. Older checkpoints: {older}; without --strict the run goes on there."
        newer = f"; damaged too: {damaged}" if damaged else ""
        return (
            f"{error}. There is no older one{newer}. Nothing was changed: bring one back from a "
            "copy, or start again in another --workdir."
        )

    def _set_aside_alone(self, step: int, error: DamagedError) -> None:
        """Ends a process that could not read what the others may have read: they do not agree."""
        with contextlib.suppress(OSError):  # another process was faster
            set_aside(self._folder / str(step))
        raise SetAsideError(f"{error}. It is set aside; the run goes on from the one before.")

    def check_fresh(self) -> None:
        """Raises CheckpointError where there is no checkpoint because all were set aside."""
        aside = sorted(e.name for e in self._folder.iterdir() if e.name.startswith(DAMAGED))
        if aside:
            raise CheckpointError(
                f"no checkpoint in {self._folder}, only {aside}: the run would begin at step 0. "
                "Bring one back from a copy, or remove them to begin again."
            )


class SavedState:
    """Reads parts of one checkpoint. Nothing is written, so the run may go on meanwhile.

    Args:
      workdir: of the run.
      step: of the checkpoint; None for the newest.

    Attributes: step.

    Raises CheckpointError when there is no such checkpoint.
    """

    def __init__(self, workdir: str | Path, step: int | None = None):
        folder = run_folder(workdir) / CHECKPOINTS
        steps = complete_steps(folder)
        if not steps or (step is not None and step not in steps):
            wanted = "" if step is None else f" of step {step}"
            raise CheckpointError(f"no checkpoint{wanted} in {folder}; there are {steps}")
        self.step = steps[-1] if step is None else step
        self._folder = folder / str(self.step)

    def read(self, part: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a part of the state, such as {"ema": …}, on their shardings.

        Args:
          part: nested dict of ShapeDtypeStruct with shardings; other leaves are not read.

        Raises CheckpointError when it cannot be read, is damaged, or holds other shapes.
        """
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with _as_damage(self._folder), context:
            stored = ocp.checkpointables_metadata(self._folder).metadata["state"]
            _compare(stored, part, self._folder, within=True)
            loaded = ocp.load_checkpointables(self._folder, {"state": part})["state"]
        about = read_about(self._folder)
        if about is not None:
            _check_sums(loaded, about, self._folder)
        return loaded


def _orbax(folder: Path) -> Any:
    """The folder as orbax takes it: it asks for etils' paths, of which pathlib's are a part."""
    return folder


def read(folder: Path, abstract: Any) -> tuple[Any, dict[str, Any]]:
    """State and data of the checkpoint in a folder, compared with its checksums.

    Raises DamagedError for files that are damaged, CheckpointError for other shapes.
    """
    with _as_damage(folder):
        stored = ocp.checkpointables_metadata(_orbax(folder)).metadata["state"]
        _compare(stored, abstract, folder)
        loaded = ocp.load_checkpointables(_orbax(folder), {"state": abstract, "data": None})
    state, data = loaded["state"], loaded["data"]
    marked = data.get(_MARK, False)
    about = read_about(folder)
    if marked and about is None:
        raise DamagedError(f"{folder} is damaged: its {ABOUT_FILE} is missing")
    if about is not None:
        if _data_hash(data) != about.get("data"):
            raise DamagedError(f"{folder} is damaged: the data stream's state was changed")
        _check_sums(state, about, folder)
    data.pop(_MARK, None)
    return state, data


def stored_shapes(folder: Path) -> Any:
    """What a checkpoint holds: a pytree with shapes and dtypes. Raises DamagedError."""
    with _as_damage(folder):
        stored = ocp.checkpointables_metadata(_orbax(folder)).metadata["state"]
        if stored is None:
            raise OSError("the description of its arrays is missing or cut off")
    return stored


def read_about(folder: Any) -> dict[str, Any] | None:
    """What lies beside the arrays: their checksums, config and versions; None in older ones.

    Raises DamagedError where it cannot be read.
    """
    file = folder / ABOUT_FILE
    if not file.exists():
        return None
    try:
        about = read_json(file)
        if not isinstance(about["arrays"], dict) or not isinstance(about["data"], str):
            raise TypeError
    except FileError as error:
        raise DamagedError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{file} holds no checksums: it was changed") from error
    return about


def complete_steps(folder: Any) -> list[int]:
    """Steps of the complete checkpoints in a folder `checkpoints`, ascending."""
    entries = folder.iterdir() if folder.is_dir() else ()
    steps = sorted(int(entry.name) for entry in entries if entry.name.isdigit())
    if is_remote(folder):
        steps = [step for step in steps if (folder / str(step) / _COMMITTED).exists()]
    return steps


def set_aside(folder: Any) -> Any:
    """Renames the folder of a damaged checkpoint to damaged-STEP, or -2, … where that is taken."""
    name, number = f"{DAMAGED}{folder.name}", 1
    while (folder.parent / name).exists():
        number += 1
        name = f"{DAMAGED}{folder.name}-{number}"
    folder.rename(folder.parent / name)
    if not is_remote(folder):
        sync_folder(folder.parent)
    return folder.parent / name


def _check_sums(tree: Any, about: dict[str, Any], folder: Path) -> None:
    """Raises DamagedError that names the arrays whose checksums differ."""
    made = as_text(checksums(tree))
    wrong = [name for name, value in made.items() if about["arrays"].get(name) != value]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise DamagedError(
            f"{folder} is damaged: the checksums of {', '.join(sorted(wrong)[:5])}{more} do not "
            "fit what was read"
        )


@contextlib.contextmanager
def _as_damage(folder: Path) -> Iterator[None]:
    """What cannot be read is damage, with its reason; orbax and tensorstore raise many kinds."""
    try:
        with _quiet():
            yield
    except CheckpointError:
        raise
    except Exception as error:
        first = str(error).splitlines()[0][:200] if str(error) else ""
        raise DamagedError(
            f"{folder} cannot be read ({type(error).__name__}: {first}); it may be damaged"
        ) from error


def _compare(stored: Any, wanted: Any, folder: Path, *, within: bool = False) -> None:
    """Raises CheckpointError naming differing shapes; `within`: stored may hold more."""
    if stored is None:  # orbax logs why it could not be read, and goes on
        raise OSError("the description of its arrays is missing or cut off")

    def shapes(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {path_name(p): tuple(leaf.shape) for p, leaf in leaves if hasattr(leaf, "shape")}

    have, want = shapes(stored), shapes(wanted)
    differ = [
        f"{name}: saved {have.get(name)}, this config {want.get(name)}"
        for name in sorted(want.keys() if within else have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    moments = all(name.startswith("opt_state/") for name in (d.split(":")[0] for d in differ))
    if differ and moments and not within:
        raise CheckpointError(
            f"{folder} has the moments of another optimizer: optim.name must stay what it was, or "
            "start another workdir from an export (config.init_from). First differences:\n  "
            + "\n  ".join(differ[:3])
        )
    if differ:
        raise CheckpointError(
            f"{folder} is of another model or optimizer:\n  " + "\n  ".join(differ[:10])
        )


def _not_told_twice(record: logging.LogRecord) -> bool:
    """Leaves out what each of orbax's threads logs, with its stack, of an error that `wait` raises:
    on a full disk hundreds of lines, before the one that matters."""
    return "_SignalingThread.run() raised an exception" not in record.getMessage()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Damage is reported once, by us: orbax would log it per array, asyncio with tracebacks."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        gc.collect()  # asyncio reports a failed task when it is collected
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _remove(folder: Any) -> None:
    """Removes a checkpoint; killed half way, what is left does not look like one."""
    if is_remote(folder):
        folder.rmtree()
        return
    if folder.name.isdigit():
        folder = folder.rename(folder.with_name(f"removing-{folder.name}"))
    shutil.rmtree(folder, ignore_errors=True)


def _data_hash(data: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(data).encode()).hexdigest()


def to_json(value: Any) -> str:
    """JSON with numpy numbers allowed."""
    return json.dumps(value, default=lambda x: np.asarray(x).item(), indent=2, sort_keys=True)
