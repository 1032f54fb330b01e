"""Many processes as one program: they meet, agree, stop together and fail together."""

import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # its key-value store needs no devices; there is no other door
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from onediff_jax import exits
from onediff_jax.parallel.cluster import Cluster
from onediff_jax.run.workdir import differences

# A process that is silent for so long is dead, and its death ends the others. A machine with more
# processes than cores needs longer.
_HEARTBEAT = int(os.environ.get("ONEDIFF_HEARTBEAT", "30"))  # seconds
_SHUTDOWN = 60  # seconds that the first to finish waits for the last
_LONG = 3600 * 1000  # milliseconds: others may compile for long; the dead are noticed anyway
_SAME = 5  # seconds in which several SIGTERM are one: schedulers and launchers each send theirs
_CALLS = itertools.count()  # all processes make the same calls in the same order


def start(cluster: Cluster) -> None:
    """Meets the other processes; before anything else asks jax for devices.

    Ends the process with a message and exit code 76 when they have not met in time.
    Raises ValueError when the coordinator's address cannot be used.
    """
    # jax itself would abort with a stack trace of C++ when the time is over.
    late = threading.Timer(cluster.timeout, _end_late, (cluster,))
    late.daemon = True
    late.start()
    given: dict[str, Any] = {}
    if cluster.coordinator is not None:
        given = {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.index,
            "local_device_ids": cluster.devices,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=cluster.timeout + 60,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
    except (ValueError, RuntimeError, OSError) as error:  # OSError: the TPU's metadata, over HTTP
        where = cluster.coordinator or "ONEDIFF_PROCESSES=1 starts a process on its own"
        raise ValueError(f"processes of {cluster.found_by} ({where}): {error}") from error
    finally:
        late.cancel()


def _end_late(cluster: Cluster) -> None:
    address, seconds = cluster.coordinator or "of the TPU", cluster.timeout
    if cluster.index == 0 and cluster.coordinator:
        said = f"{cluster.processes} processes did not meet at {address} within {seconds} s"
    elif cluster.coordinator and _answers(address):
        said = f"coordinator {address} answers, but not all processes came within {seconds} s"
    else:
        said = f"coordinator {address} did not answer within {seconds} s"
    print(f"error: {said} (ONEDIFF_TIMEOUT)", file=sys.stderr, flush=True)
    os._exit(exits.LOST.code)  # the main thread waits in C++


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except OSError:
        return False
    return True


def _client() -> Any:
    """The processes' common store, of jax's coordinator."""
    client = distributed.global_state.client
    assert client is not None  # `many` looked
    return client


def gather(value: Any) -> list[Any]:
    """The JSON value of every process, by its index; all processes call it together."""
    if not many():
        return [value]
    store, call = _client(), next(_CALLS)
    store.key_value_set(f"onediff/{call}/{jax.process_index()}", json.dumps(value))
    names = [f"onediff/{call}/{index}" for index in range(jax.process_count())]
    return [json.loads(store.blocking_key_value_get(name, _LONG)) for name in names]


def meet(name: str | None = None) -> None:
    """Returns when all processes have come here.

    Args:
      name: of the meeting, used once; needed outside the main thread, whose calls have an order.
    """
    if many():
        name = f"onediff/{next(_CALLS) if name is None else name}"
        _client().wait_at_barrier(name, _LONG)


def check_same(ours: dict[str, Any]) -> None:
    """Raises ValueError on every process, naming what differs, unless all bring the same.

    Args:
      ours: JSON values that must be equal everywhere: config, versions, hashes of the code.
    """
    found = gather(ours)
    lines = [
        f"{name}: {first!r} in process 0, {other!r} in process {index}"
        for index, values in enumerate(found)
        for name, first, other in differences(found[0], values)
    ]
    if lines:
        more = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
        raise ValueError(
            "the processes were not started alike:\n  " + "\n  ".join(lines[:20] + more)
        )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What raises ValueError inside on one process raises it on all, naming the process."""
    ours = None
    try:
        yield
    except ValueError as error:
        ours = error
    said = gather(None if ours is None else str(ours))
    if ours is not None:
        raise ours
    if failed := [f"process {i}: {text}" for i, text in enumerate(said) if text is not None]:
        raise ValueError("\n".join(failed))


def first_says(flag: bool) -> bool:
    """What process 0 says; all processes call it together."""
    return gather(flag)[0]


def many() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


class Stop:
    """Whether SIGTERM or Ctrl-C asked any process to stop; the answer is the same on all at a step.

    A context manager: the signals are caught inside. The first is told in one line and asks for a
    stop; a second one ends the process at once. With many processes jax catches SIGTERM, from its
    start on, and makes them agree on the step; Ctrl-C becomes a SIGTERM there.

    Attributes: reason, the name of the signal that asked, or "".
    """

    def __init__(self):
        self._asked, self.reason, self._since = False, "", 0.0

    def __enter__(self) -> "Stop":
        # The signals' numbers come to a thread, which can act while the main thread waits in C++.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        caught = (signal.SIGINT,) if many() else (signal.SIGINT, signal.SIGTERM)
        self._previous = {n: signal.signal(n, self._note) for n in caught}
        self._descriptor = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="signals")
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        signal.set_wakeup_fd(self._descriptor)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._write)
        self._thread.join()

    def _note(self, *_: Any) -> None:
        self._asked = not many()

    def _listen(self) -> None:
        with open(self._read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(16):
                for number in set(numbers) & set(self._previous):
                    self._ask(signal.Signals(number))

    def _ask(self, asked: signal.Signals) -> None:
        name = "Ctrl-C" if asked == signal.SIGINT else asked.name
        first, self._since = not self.reason, self._since or time.monotonic()
        if asked == signal.SIGTERM and not first and time.monotonic() - self._since < _SAME:
            return
        if not first:
            ended = exits.INTERRUPTED if asked == signal.SIGINT else exits.TERMINATED
            print(f"a second signal ({name}): ended at once", file=sys.stderr, flush=True)
            os._exit(ended.code)
        self.reason = name
        print(
            f"{name}: saving a checkpoint and ending after this step; once more ends at once",
            file=sys.stderr,
            flush=True,
        )
        if many():
            os.kill(os.getpid(), signal.SIGTERM)

    def __call__(self, step: int) -> bool:
        """Once per step, by every process."""
        if many():
            self._asked = self._asked or multihost_utils.reached_preemption_sync_point(step)
        return self._asked


def local_rows(sharding: NamedSharding, rows: int) -> tuple[int, ...]:
    """Which rows of a batch lie on devices of this process, ascending.

    Args:
      sharding: of the batch; its first axis is the rows'.
      rows: of the whole batch.
    """
    parts: Any = sharding.addressable_devices_indices_map((rows,)).values()
    return tuple(sorted({row for (part,) in parts for row in range(rows)[part]}))


def place_rows(
    batch: dict[str, np.ndarray], shardings: dict[str, NamedSharding], rows: tuple[int, ...], n: int
) -> dict[str, jax.Array]:
    """This process's rows as its part of the global batch.

    Args:
      batch: arrays of this process's rows.
      shardings: by the arrays' names.
      rows: which rows those are (`local_rows`), of `n`.
    """
    where = {row: place for place, row in enumerate(rows)}

    def whole(name: str, array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            wanted = range(n)[index[0]]
            first = where[wanted[0]]  # the rows of a device are adjacent, here as in the batch
            return array[(slice(first, first + len(wanted)), *index[1:])]

        return jax.make_array_from_callback((n, *array.shape[1:]), shardings[name], part)

    return {name: whole(name, array) for name, array in batch.items()}
