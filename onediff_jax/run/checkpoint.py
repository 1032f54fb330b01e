"""Saving and restoring runs: the only user of orbax."""

import contextlib
import gc
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from onediff_jax.run.workdir import run_folder

CHECKPOINTS = "checkpoints"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason."""


class Checkpoints:
    """The checkpoints of a workdir: written asynchronously, whole or not at all.

    Args:
      workdir: of the run; checkpoints lie in its folder `checkpoints`.
      keep_last: how many recent ones stay.
      keep_every: steps at which one stays for good; 0 for none.
    """

    def __init__(self, workdir: str | Path, *, keep_last: int = 2, keep_every: int = 0):
        if keep_last < 1 or keep_every < 0:
            raise ValueError(f"checkpoint.{keep_last=} must be ≥ 1 and {keep_every=} ≥ 0")
        self._folder = run_folder(workdir) / CHECKPOINTS
        policies = ocp.training.preservation_policies
        keep = [policies.LatestN(keep_last)]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Starts saving; waits first for an earlier save that has not ended.

        Args:
          step: optimizer steps done.
          state: pytree of arrays.
          data: the data stream's state, JSON values.
        """
        if self._checkpointer.latest is not None and self._checkpointer.latest.step == step:
            return
        self._checkpointer.save_checkpointables_async(step, {"state": state, "data": data})

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong in the background."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits, then releases the checkpointer."""
        self.wait()
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(c.step for c in self._checkpointer.checkpoints)

    def restore(self, abstract: Any, step: int | None = None) -> tuple[int, Any, dict[str, Any]]:
        """The newest checkpoint, or that of `step`: (step, state, data).

        Args:
          abstract: pytree of ShapeDtypeStruct with shardings; shapes are compared first.

        Raises CheckpointError when there is none, it is damaged, or it has other shapes.
        """
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            raise CheckpointError(
                f"no checkpoint {step or ''} in {self._folder}; there are {steps}"
            )
        step = steps[-1] if step is None else step
        try:
            with _quiet():
                stored = self._checkpointer.checkpointables_metadata(step).metadata["state"]
                _compare(stored, abstract, self._folder / str(step))
                loaded = self._checkpointer.load_checkpointables(
                    step, {"state": abstract, "data": None}
                )
        except CheckpointError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise CheckpointError(
                f"checkpoint {step} in {self._folder} cannot be read ({type(error).__name__}: "
                f"{str(error).splitlines()[0][:200] if str(error) else ''}); it may be damaged. "
                f"Other checkpoints: {[s for s in steps if s != step]}; remove the folder "
                f"{self._folder / str(step)} to continue from the one before."
            ) from error
        return step, loaded["state"], loaded["data"]


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
        entries = folder.iterdir() if folder.is_dir() else ()
        steps = sorted(int(entry.name) for entry in entries if entry.name.isdigit())
        if not steps or (step is not None and step not in steps):
            wanted = "" if step is None else f" of step {step}"
            raise CheckpointError(f"no checkpoint{wanted} in {folder}; there are {steps}")
        self.step = steps[-1] if step is None else step
        self._folder = folder / str(self.step)

    def read(self, part: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a part of the state, such as {"ema": …}, on their shardings.

        Args:
          part: nested dict of ShapeDtypeStruct with shardings; other leaves are not read.

        Raises CheckpointError when it cannot be read, or holds other shapes.
        """
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        try:
            with _quiet(), context:
                stored = ocp.checkpointables_metadata(self._folder).metadata["state"]
                _compare(stored, part, self._folder, within=True)
                return ocp.load_checkpointables(self._folder, {"state": part})["state"]
        except CheckpointError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds
            first = str(error).splitlines()[0][:200] if str(error) else ""
            raise CheckpointError(
                f"{self._folder} cannot be read ({type(error).__name__}: {first}); "
                "it may be damaged, or removed meanwhile"
            ) from error


def _compare(stored: Any, wanted: Any, folder: Path, *, within: bool = False) -> None:
    """Raises CheckpointError naming differing shapes; `within`: stored may hold more."""
    if stored is None:  # orbax logs why it could not be read, and goes on
        raise OSError("the description of its arrays is missing or cut off")

    def shapes(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {_path(p): tuple(leaf.shape) for p, leaf in leaves if hasattr(leaf, "shape")}

    have, want = shapes(stored), shapes(wanted)
    differ = [
        f"{name}: saved {have.get(name)}, this config {want.get(name)}"
        for name in sorted(want.keys() if within else have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    if differ:
        raise CheckpointError(
            f"{folder} is of another model or optimizer:\n  " + "\n  ".join(differ[:10])
        )


@contextlib.contextmanager
def _quiet():
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


def _path(path) -> str:
    keys = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    return "/".join(keys)


def to_json(value: Any) -> str:
    """JSON with numpy numbers allowed."""
    return json.dumps(value, default=lambda x: np.asarray(x).item(), indent=2, sort_keys=True)
