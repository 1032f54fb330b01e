"""Saves on the disks of the hosts, frequent and cheap, beside the checkpoints that all share.

Each process writes what lies on its own devices, for itself, into a folder of its own. A run that
is started again on the same hosts goes on from the newest step that all of them have; a host that
was replaced has none, and the shared checkpoint counts. One file per save:

    FOLDER/WORKDIR-ID/process-I-of-N/STEP.safetensors

Its tensors are the parts of the arrays as bytes; its metadata says what they are of, with a
checksum each, and holds the data stream's state.
"""

import contextlib
import json
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from onediff_jax.files import sync_file, sync_folder, text_hash
from onediff_jax.parallel.processes import gather
from onediff_jax.run.checksum import path_name

_KEPT = 2  # saves; a process that was killed may have one less than the others
_SUFFIX = ".safetensors"


class LocalSaveError(ValueError):
    """A local save that cannot be used; the message says why."""


def run_identity(workdir: Any, first_start: float) -> str:
    """What tells the local saves of a run from those of others: its workdir and first start."""
    return f"{workdir.name}-{text_hash([str(workdir), first_start])[:12]}"


class LocalSaves:
    """The local saves of one process of a run, written in the background.

    Args:
      folder: on a disk of this host.
      run: `run_identity`, the same in all processes.
      index, count: which process this is, of how many.

    Raises LocalSaveError where the folder cannot be written.
    """

    def __init__(self, folder: str | Path, run: str, *, index: int = 0, count: int = 1):
        self._folder = Path(folder) / run / f"process-{index}-of-{count}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob(".*.tmp"):
                left.unlink()
        except OSError as error:
            raise LocalSaveError(
                f"checkpoint.local_folder={str(folder)!r} cannot be written: {error.strerror}"
            ) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local save")
        self._pending: Future | None = None
        self._given_up = False

    def steps(self) -> list[int]:
        """Steps that were saved, ascending."""
        names = (file.name.removesuffix(_SUFFIX) for file in self._folder.glob(f"*{_SUFFIX}"))
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Copies the state to the host's memory, and starts writing it; waits for an earlier one.

        Args:
          step: optimizer steps done.
          state: pytree of arrays, of which this process has parts.
          data: the data stream's state, JSON values.

        Raises OSError of this save or of the one before.
        """
        self.wait()
        if self._given_up:
            return
        leaves = jax.tree_util.tree_leaves_with_path(state)
        for _, array in leaves:
            array.copy_to_host_async()
        # The step may not change what is written: on CPUs numpy would look at the same memory.
        parts = {path_name(path): _parts(array) for path, array in leaves}
        shapes = {path_name(path): (array.shape, str(array.dtype)) for path, array in leaves}
        self._pending = self._thread.submit(self._write, step, parts, shapes, data)

    def _write(self, step: int, parts: dict, shapes: dict, data: dict[str, Any]) -> None:
        tensors, arrays = {}, {}
        for name, places in parts.items():
            told = []
            for number, (place, part) in enumerate(places.items()):
                content = part.reshape(-1).view(np.uint8)
                tensors[f"{name}#{number}"] = content
                told.append([place, zlib.crc32(content)])
            shape, dtype = shapes[name]
            arrays[name] = {"shape": list(shape), "dtype": dtype, "parts": told}
        about = json.dumps({"step": step, "data": data, "arrays": arrays}, sort_keys=True)
        beside = self._folder / f".{step}.tmp"
        metadata = {"about": about, "crc32": str(zlib.crc32(about.encode()))}
        try:
            save_file(tensors, beside, metadata)
            sync_file(beside)
            beside.rename(self._folder / f"{step}{_SUFFIX}")
        except BaseException as error:
            beside.unlink(missing_ok=True)
            if isinstance(error, SafetensorError):  # how its writer says that the disk is full
                raise OSError(f"{beside}: {error}") from error
            raise
        sync_folder(self._folder)
        for old in [s for s in self.steps() if s <= step][:-_KEPT]:
            (self._folder / f"{old}{_SUFFIX}").unlink()

    def load(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        """State and data of a save.

        Args:
          abstract: pytree of ShapeDtypeStruct with shardings, those of the save.

        Raises LocalSaveError where it is damaged, or of other shapes, devices or shardings.
        """
        file = self._folder / f"{step}{_SUFFIX}"
        try:
            with safe_open(file, "numpy") as opened:
                about = _about(opened.metadata(), file)
                leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
                names = [path_name(path) for path, _ in leaves]
                if sorted(names) != sorted(about["arrays"]):
                    raise LocalSaveError(f"{file} is of another model or optimizer")
                loaded = [
                    _load(opened, name, about["arrays"][name], leaf, file)
                    for name, (_, leaf) in zip(names, leaves, strict=True)
                ]
        except (OSError, SafetensorError) as error:
            raise LocalSaveError(f"{file} cannot be read: {error}") from error
        return jax.tree_util.tree_unflatten(treedef, loaded), about["data"]

    def give_up(self) -> None:
        """From now on `save` does nothing: the disk fails. What was saved counts."""
        self._given_up = True

    def forget(self, after: int = -1) -> None:
        """Removes the saves of later steps than `after`: the run goes back."""
        with contextlib.suppress(OSError):
            self.wait()
        for step in self.steps():
            if step > after:
                (self._folder / f"{step}{_SUFFIX}").unlink()

    def wait(self) -> None:
        """Returns when everything is written; raises what went wrong in the background."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits, then releases the thread that writes. No error: these saves are an extra."""
        with contextlib.suppress(OSError):
            self.wait()
        self._thread.shutdown()

    def finish(self) -> None:
        """Removes all: the run has ended, and its last checkpoint is on the shared disk."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other processes of this host may have theirs there
            self._folder.parent.rmdir()


def restore_local(
    saves: LocalSaves, abstract: Any, *, after: int, say: Callable[[str], Any] = print
) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest save that all processes have and can read: (step, state, data); None for none.

    All processes call it together. What cannot be used is told, and the one before it is tried.

    Args:
      abstract: as in `LocalSaves.load`.
      after: only later steps count: that of the newest checkpoint.
    """
    steps = [set(found) for found in gather(saves.steps())]
    for step in sorted(set.intersection(*steps), reverse=True):
        if step <= after:
            break
        problem, found = None, None
        try:
            found = saves.load(step, abstract)
        except LocalSaveError as error:
            problem = str(error)
        problems = [said for said in gather(problem) if said]
        if found is not None and not problems:
            return step, *found
        say(f"WARNING: the local saves of step {step} are not used: {problems[0]}")
    return None


def _parts(array: jax.Array) -> dict[str, np.ndarray]:
    """Copies of the parts that lie here, by their place; what lies on several devices once."""
    shards = {_place(shard.index, array.shape): shard for shard in array.addressable_shards}
    return {place: np.array(shard.data) for place, shard in shards.items()}


def _place(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    """Where in the whole array a part lies, such as "0:8,4:8"."""
    bounds = (s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    return ",".join(f"{start}:{stop}" for start, stop in bounds)


def _about(metadata: dict[str, str] | None, file: Path) -> dict[str, Any]:
    text = (metadata or {}).get("about", "")
    if (metadata or {}).get("crc32") != str(zlib.crc32(text.encode())):
        raise LocalSaveError(f"{file} is damaged: its description was changed")
    return json.loads(text)


def _load(opened: Any, name: str, told: dict[str, Any], leaf: Any, file: Path) -> jax.Array:
    """One array, its parts on the devices that they were on."""
    if (tuple(told["shape"]), told["dtype"]) != (leaf.shape, str(leaf.dtype)):
        raise LocalSaveError(f"{file}: {name} is {told['shape']} {told['dtype']}, not {leaf}")
    numbers = {place: number for number, (place, _) in enumerate(told["parts"])}
    found: dict[str, np.ndarray] = {}

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # jax's type says that it may be
        place = _place(index, leaf.shape)
        if place not in numbers:
            raise LocalSaveError(f"{file}: {name} lies on other devices than it did")
        if place not in found:
            content = opened.get_tensor(f"{name}#{numbers[place]}")
            if zlib.crc32(content) != told["parts"][numbers[place]][1]:
                raise LocalSaveError(f"{file} is damaged: the checksum of {name} does not fit")
            bounds = [tuple(map(int, b.split(":"))) for b in place.split(",") if b]
            found[place] = content.view(leaf.dtype).reshape([b - a for a, b in bounds])
        return found[place]

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
