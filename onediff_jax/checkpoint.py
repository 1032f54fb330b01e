"""Saving and restoring runs: the only user of orbax."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

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
        self._folder = Path(workdir).resolve() / CHECKPOINTS
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
            stored = self._checkpointer.checkpointables_metadata(step).metadata["state"]
            self._compare(stored, abstract, step)
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

    def _compare(self, stored: Any, abstract: Any, step: int) -> None:
        def shapes(tree):
            leaves = jax.tree_util.tree_leaves_with_path(tree)
            return {_path(p): tuple(leaf.shape) for p, leaf in leaves if hasattr(leaf, "shape")}

        have, want = shapes(stored), shapes(abstract)
        differ = [
            f"{name}: saved {have.get(name)}, this config {want.get(name)}"
            for name in sorted(have.keys() | want.keys())
            if have.get(name) != want.get(name)
        ]
        if differ:
            raise CheckpointError(
                f"checkpoint {step} in {self._folder} is of another model or optimizer:\n  "
                + "\n  ".join(differ[:10])
            )


def _path(path) -> str:
    keys = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    return "/".join(keys)


def to_json(value: Any) -> str:
    """JSON with numpy numbers allowed."""
    return json.dumps(value, default=lambda x: np.asarray(x).item(), indent=2, sort_keys=True)
