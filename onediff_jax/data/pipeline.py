"""The stream of rows: grain datasets of bundles, mixed by weight, packed, batched, resumable."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np
from absl import flags

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.layout import RowLayout
from onediff_jax.data.readers import ReaderLost, Readers, begin_reader, say_restart
from onediff_jax.data.rows import Placed, RowPacker
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet, get_task
from onediff_jax.tasks.prompts import without_caption

STREAM_VERSION = 2  # raise it when the same settings start to give other rows
_TOGETHER = 8  # blocks whose records are drawn together
_AHEAD = 256  # rows after which a file of a store will be wanted that is fetched now
_ENDLESS = 2**40  # batches; an epoch does not end, bundles repeat
_RESTARTS = 3  # of reading processes that are killed before they bring a batch
_SHARED_FROM = 1 << 16  # bytes; smaller arrays of a worker come through its pipe


@dataclasses.dataclass(frozen=True)
class Draws:
    """What is drawn anew for every bundle of every row.

    Attributes:
      clean_share: probability that a bundle shows its direction's given frames clean; otherwise
        every frame has its own noise level, as in the paper.
      caption_dropout: probability of an empty prompt, for classifier-free guidance.
      token_only_share: probability of a prompt without its caption, for tasks that are asked of a
        picture alone.
    """

    clean_share: float
    caption_dropout: float
    token_only_share: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"{field.name}={getattr(self, field.name)} must be in 0..1")
        if (both := self.caption_dropout + self.token_only_share) > 1:
            raise ValueError(f"caption_dropout + token_only_share = {both} must be at most 1")

    def prompt(self, whole: str, drawn: float) -> str:
        """What is left of a prompt, by a number drawn from 0..1."""
        if drawn < self.caption_dropout:
            return ""
        if drawn < self.caption_dropout + self.token_only_share:
            return without_caption(whole)
        return whole


@dataclasses.dataclass(frozen=True)
class Reference:
    """An example that is not read yet: which of its source it is.

    Attributes:
      name: of the example, the same whenever it comes up: its task, the part of a mixture, and its
        index.
    """

    name: str
    source: Any
    index: int

    def read(self) -> Any:
        """The example."""
        return self.source[self.index]


class References:
    """A source whose examples are not read yet."""

    def __init__(self, source: Any, name: str):
        self._source, self._name = source, name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Reference:
        return Reference(f"{self._name}/{int(index)}", self._source, int(index))


class Blocks:
    """An endless source whose passes draw the order of blocks of neighbours, and then that of the
    records of every eight blocks: whoever reads it needs few files at a time.

    Args:
      source: what is read.
      block: neighbours per block.
      seed: of the orders.
    """

    def __init__(self, source: Any, block: int, seed: int):
        self._source, self._block, self._seed = source, block, seed
        self._order = functools.lru_cache(maxsize=4)(self._draw_order)
        self._window = functools.lru_cache(maxsize=16)(self._draw_window)

    def __reduce__(self):
        return Blocks, (self._source, self._block, self._seed)

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: SupportsIndex) -> Any:
        number, place = divmod(int(index), len(self._source))
        ends, _ = self._order(number)
        window = int(np.searchsorted(ends, place, side="right"))
        first = int(ends[window - 1]) if window else 0
        return self._source[int(self._window(number, window)[place - first])]

    def _draw_order(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a pass: where each window of blocks ends, and the order of the blocks."""
        count, block = len(self._source), self._block
        order = np.random.default_rng((self._seed, number)).permutation(-(-count // block))
        sizes = np.minimum(count - order * block, block)
        return np.cumsum(np.add.reduceat(sizes, np.arange(0, len(order), _TOGETHER))), order

    def _draw_window(self, number: int, window: int) -> np.ndarray:
        """The records of a window of a pass, in their order."""
        blocks = self._order(number)[1][window * _TOGETHER : (window + 1) * _TOGETHER]
        starts = [int(block) * self._block for block in blocks]
        ends = [min(start + self._block, len(self._source)) for start in starts]
        records = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
        return np.random.default_rng((self._seed, number, window)).permutation(records)


class BatchSource:
    """Random access to packed batches: row i takes bundles i·n … i·n + n − 1 of each task group.

    Args:
      groups: per tray of the layout (the task group, see RowLayout.tray) an endless random-access
        dataset of References; `draw(rng)` of their examples gives the Encoded of a row.
      packer: puts one bundle per slot into a row.
      draws: what is drawn per bundle.
      seed: of those draws.
      batch_size: rows per batch over all processes.
      places: which rows of every batch are read here; None for all.
      tasks: where the examples' tasks are looked up.

    Attributes: left_out, names of examples whose slots stay empty, each from which batch on.
    """

    def __init__(
        self,
        groups: Mapping[str, Any],
        packer: RowPacker,
        draws: Draws,
        seed: int,
        batch_size: int,
        places: Sequence[int] | None = None,
        tasks: TaskSet = BUILT_IN,
    ):
        self._tasks = tasks
        self._groups, self._packer, self._draws, self._seed = groups, packer, draws, seed
        self._rows, self._places = batch_size, places or range(batch_size)
        self.left_out: Mapping[str, int] = {}
        order: dict[str, int] = {}
        self._numbers = []  # per slot: its tray and its number within the tray
        for tray in map(packer.layout.tray, packer.layout.slots):
            self._numbers.append((tray, order.get(tray, 0)))
            order[tray] = order.get(tray, 0) + 1
        self._per_row = order

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        first = int(index) * self._rows
        return self._packer.batch([self._row(first + place) for place in self._places])

    def references(self, index: int, row: int) -> list[Reference]:
        """What is in the slots of a row of batch `index`, without reading it."""
        number = index * self._rows + row
        return [
            self._groups[group][number * self._per_row[group] + place]
            for group, place in self._numbers
        ]

    def _row(self, row: int) -> list[Placed | None]:
        rng = np.random.default_rng((self._seed, row))
        placed: list[Placed | None] = []
        remote = False
        for found in self.references(0, row):
            # What is left out is drawn for all the same: the rest of the row stays what it was.
            item = self._place(found.read().draw(rng), rng)
            gone = self.left_out.get(found.name, _ENDLESS) <= row // self._rows
            placed.append(None if gone else item)
            remote |= getattr(found.source, "is_remote", False)
        if remote:  # what the stream will want is on its way meanwhile
            for later in self.references(0, row + _AHEAD):
                if getattr(later.source, "is_remote", False):
                    later.source.prefetch(later.index)
        return placed

    def _place(self, bundle: Encoded, rng: np.random.Generator) -> Placed:
        task = self._tasks.task(bundle.task)
        direction = task.directions[rng.integers(len(task.directions))]
        generate = task.denoise_mask(direction.name, len(bundle.frames))
        clean, drawn = rng.random(2)
        prompt = self._draws.prompt(bundle.prompt, drawn)
        return Placed(
            bundle, tuple(map(bool, generate)), bool(clean < self._draws.clean_share), prompt
        )


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several random-access sources of one task, each with its weight."""

    parts: tuple[tuple[Any, float], ...]


def mix_groups(
    sources: Mapping[str, Any],
    weights: Mapping[str, float],
    seed: int,
    trays: Mapping[str, str] | None = None,
    *,
    block: int = 0,
) -> dict[str, grain.MapDataset]:
    """One endless dataset per tray: shuffled, repeated sources in the proportion of weights.

    Args:
      sources: per task a random-access source of examples, or a Mixture of such.
      trays: per task the tray of its slots, see RowLayout.tray; None: the built-in tasks' groups.
      block: neighbours of a source that stay together, see Blocks; 0: none do.

    Raises ValueError for a negative weight, or a group whose weights are all zero.
    """
    groups: dict[str, list] = {}
    for number, (name, source) in enumerate(sources.items()):
        if weights[name] < 0:
            raise ValueError(f"the weight of task {name} is {weights[name]}; it must be ≥ 0")
        if weights[name] == 0:
            continue
        dataset = _endless(source, seed + number, name, block)
        tray = get_task(name).group if trays is None else trays[name]
        groups.setdefault(tray, []).append((dataset, weights[name]))
    return {group: _mixed(members) for group, members in groups.items()}


def _mixed(members: Sequence[tuple[grain.MapDataset, float]]) -> grain.MapDataset:
    """Each member's share is its weight; one alone needs no mixing, whose cost shows in rows/s."""
    if len(members) == 1:
        return members[0][0]
    return grain.MapDataset.mix([d for d, _ in members], [w for _, w in members])


def _endless(source: Any, seed: int, name: str, block: int) -> grain.MapDataset:
    if isinstance(source, Mixture):
        parts = enumerate(source.parts)
        return _mixed([(_endless(p, seed, f"{name}/{i}", block), w) for i, (p, w) in parts])
    if block:
        return grain.MapDataset.source(Blocks(References(source, name), block, seed))
    return grain.MapDataset.source(References(source, name)).seed(seed).shuffle().repeat(None)


def row_batches(
    groups: Mapping[str, grain.MapDataset],
    packer: RowPacker,
    draws: Draws,
    *,
    seed: int,
    batch_size: int,
    places: Sequence[int] | None = None,
    workers: int = 0,
    threads: int = 1,
    prefetch: int = 8,
    tasks: TaskSet = BUILT_IN,
) -> "BatchIterator":
    """The local share of every batch, in an order that depends on nothing but the settings.

    Args:
      batch_size: rows per batch over all processes.
      places: which rows of every batch are read here, of 0 … batch_size − 1; None for all.
      workers: reading processes, which hand batches over in shared memory; 0: this one reads.
        Python runs one thread at a time in each. What `Cached` keeps, each keeps for itself.
      threads: readers in each process; neither number changes the order.
      prefetch: batches kept ready.
      tasks: where the examples' tasks are looked up.

    Raises ValueError when a slot has no task, a group no slot, or the batch no such rows.
    """
    wanted = set(map(packer.layout.tray, packer.layout.slots))
    if missing := wanted - set(groups):
        raise ValueError(f"rows have slots for {sorted(missing)}, but no task of data.tasks fits")
    if unused := set(groups) - wanted:
        raise ValueError(f"tasks of group {sorted(unused)} have no slot in rows")
    places = tuple(range(batch_size) if places is None else places)
    if not places or not set(places) <= set(range(batch_size)):
        raise ValueError(f"{places=} must be rows of a batch of {batch_size=}")
    source = BatchSource(groups, packer, draws, seed, batch_size, places, tasks)
    return BatchIterator(source, workers, threads, prefetch)


class BatchIterator:
    """Batches with a state that is one number, whatever the number of processes or threads.

    Args:
      source: random access to them.
      workers, threads, prefetch: as in `row_batches`.
    """

    def __init__(self, source: BatchSource, workers: int, threads: int, prefetch: int):
        self.source, self._workers, self._batches = source, workers, 0
        ahead = -(-prefetch // max(workers, 1))  # in each process
        self._options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=threads if workers else max(ahead, threads)
        )
        self._processes = grain.MultiprocessingOptions(workers, per_worker_buffer_size=ahead)
        self._iterator: grain.DatasetIterator | Readers | None = None

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        lost = 0
        while True:
            if self._iterator is None:
                self._iterator = self._open()
            try:
                batch = next(self._iterator)
                break
            except ReaderLost as error:
                lost += 1
                self.close()
                if lost > _RESTARTS:
                    raise ReaderLost(f"{error}, {lost} times at one batch") from error
                say_restart(str(error), self._batches)
        self._batches += 1
        return _with_padding(batch) if self._workers else batch

    def _open(self) -> grain.DatasetIterator | Readers:
        batches = grain.MapDataset.source(self.source)
        stream = batches[self._batches :].to_iter_dataset(self._options)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain asks for some, of which this program has none
                flags.FLAGS.mark_as_parsed()
            # Worker k of n makes the batches k, k + n, …, which come in turn: the same order.
            options = grain.experimental.DatasetOptions(min_shm_size=_SHARED_FROM)
            stream = grain.experimental.WithOptionsIterDataset(stream, options).map(_no_padding)
            stream = stream.mp_prefetch(self._processes, begin_reader)
            return Readers(iter(stream))
        return iter(stream)

    @property
    def batches(self) -> int:
        """Batches handed out since the start of the run."""
        return self._batches

    def seek(self, batches: int) -> None:
        """Continues after that many batches."""
        self.close()
        self._batches = batches

    def leave_out(self, names: Mapping[str, int]) -> None:
        """The slots of these examples stay empty, each from the batch of that number on."""
        self.close()
        self.source.left_out = dict(names)

    def close(self) -> None:
        """Stops the reading threads and processes; the next batch starts them again."""
        iterator, self._iterator = self._iterator, None
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _no_padding(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with its text cut after the longest prompt: most of its bytes are zeros behind."""
    longest = int(np.flatnonzero(batch["text_mask"].any((0, 1)))[-1]) + 1
    return batch | {"text": np.ascontiguousarray(batch["text"][:, :, :longest])}


def _with_padding(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undoes `_no_padding`."""
    text = batch["text"]
    whole = np.zeros((*batch["text_mask"].shape, *text.shape[3:]), text.dtype)
    whole[:, :, : text.shape[2]] = text
    return batch | {"text": whole}


def stream_fields(layout: RowLayout, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines the stream, as plain JSON values, for comparison by field."""
    slots = [[s.group, s.frames, s.tokens] for s in layout.slots]
    fields = {"stream_version": STREAM_VERSION, "rows": slots, **settings}
    return json.loads(json.dumps(fields))


def stream_hash(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `stream_fields`."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
