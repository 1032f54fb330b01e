"""What a run saves and goes on from: checkpoints, and more frequent saves on the host's disk."""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from onediff_jax.parallel.processes import first_says, gather, many, together
from onediff_jax.run.checkpoint import CheckpointError, Checkpoints
from onediff_jax.run.local_saves import LocalSaves, restore_local, run_identity
from onediff_jax.run.workdir import versions


class Saves:
    """The checkpoints of a workdir and, where the config wants some, this process's local saves.

    Args:
      path: the workdir.
      config: of the run.
      first_start: when the run began, seconds since 1970.
      opened: closes both.
    """

    def __init__(
        self, path: Path, config: ConfigDict, first_start: float, opened: contextlib.ExitStack
    ):
        self.path, self._config = path, config
        self.checkpoints = Checkpoints(
            path,
            keep_last=config.checkpoint.keep_last,
            keep_every=config.checkpoint.keep_every,
            about={"config": json.loads(config.to_json_best_effort()), "versions": versions()},
        )
        opened.callback(self.checkpoints.close)
        self._local: LocalSaves | None = None
        if config.checkpoint.local_folder:
            with together():
                self._local = LocalSaves(
                    config.checkpoint.local_folder,
                    gather(run_identity(path, first_start))[0],
                    index=jax.process_index(),
                    count=jax.process_count(),
                )
            opened.callback(self._local.close)
        self.begin(0)

    def begin(self, step: int) -> None:
        """From here on counts what is due: the run is at `step`, and saved."""
        self._at, self._step = time.monotonic(), step

    def newest(
        self, wanted: Any, *, strict: bool, say: Callable[[str], None]
    ) -> tuple[str, int, Any, dict[str, Any]] | None:
        """What the run goes on from; None where nothing was saved.

        Args:
          wanted: shapes, dtypes and shardings of its state.
          strict: raise for a damaged checkpoint instead of taking the one before.

        Returns (where it was, its step, the state, what was saved beside the arrays). Raises
        CheckpointError.
        """
        seen = gather(self.checkpoints.steps())
        if any(steps != seen[0] for steps in seen):
            raise CheckpointError(
                f"the processes see different checkpoints in {self.path}: {seen}; it must lie on "
                "storage that all processes share"
            )
        after = max(seen[0], default=0)
        if self._local and (found := restore_local(self._local, wanted, after=after, say=say)):
            return "local saves", *found
        if not seen[0]:
            self.checkpoints.check_fresh()
            return None
        return "checkpoint", *self.checkpoints.restore(wanted, strict=strict, say=say)

    def steps(self) -> list[int]:
        """Of the checkpoints."""
        return self.checkpoints.steps()

    def due(self, step: int) -> Callable[[int, Any, dict[str, Any]], None] | None:
        """`save` or `save_locally` where one is due at a step; None where none is.

        What the time says, process 0 decides, on log steps.
        """
        every, log = self._config.checkpoint, self._config.log
        if step > self._step:
            late = (time.monotonic() - self._at) / 60 >= every.every_minutes
            asked = not many() or step % log.every_steps == 0
            if step % every.every_steps == 0 or (asked and first_says(late)):
                return self.save
        return self.save_locally if self._local and step and step % every.local_every == 0 else None

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Starts a checkpoint of the state and JSON values beside it."""
        self.checkpoints.save(step, state, data)
        self.begin(step)

    def save_locally(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Starts a save on the disk of this host; one that fails stops nothing but those."""
        assert self._local is not None
        try:
            self._local.save(step, state, data)
        except OSError as error:
            self._local.give_up()  # it stays: all processes ask theirs together
            said = f"WARNING: process {jax.process_index()} makes no more local saves: {error}"
            print(said, file=sys.stderr, flush=True)

    def forget_local(self) -> None:
        """The run goes back: what comes of the local saves is not what it is from here on."""
        self.checkpoints.wait()
        if self._local:
            self._local.forget()

    def finish(self) -> None:
        """Waits until what was started is whole on the disk; local saves are needed no more."""
        self.checkpoints.wait()
        if self._local:
            self._local.finish()
