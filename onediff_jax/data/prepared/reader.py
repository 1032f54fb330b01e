"""Random access to prepared folders, as training examples.

Opening reads the manifest alone. Files are opened when a record of theirs is wanted, and only the
most recently used stay open, so memory does not grow with the folder or with the time.
"""

import bisect
import collections
import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from scipy import special

from onediff_jax.data.bundle import Bundle, Encoded
from onediff_jax.data.codec import PictureCodec
from onediff_jax.data.prepared.augment import cropped, may_mirror, mirrored
from onediff_jax.data.prepared.bucket import Bucket
from onediff_jax.data.prepared.manifest import FILE, PreparedError, read_index, read_manifest
from onediff_jax.data.prepared.record import Record, from_bytes, prompt_choices, prompt_of
from onediff_jax.files import is_remote
from onediff_jax.tasks import cameras as ray_maps
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet
from onediff_jax.tasks.own import own_tasks

_OPEN_FILES = 128  # per folder, task and split
_OPEN_COPIES = 16  # of a store's: a copy that is removed takes room until it is closed
_TRIES = 5
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_QUANTILES = special.ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)
# Every float16 as float32 and, as a log-variance, its deviation, by its bits: a table is quicker
# than numpy's conversion of float16, which is most of the work of a posterior.
_VALUES = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
with np.errstate(over="ignore", invalid="ignore"):
    _DEVIATIONS = np.exp(_VALUES / 2)
_BUFFER = 1 << 16  # bytes; the default, 1 MiB, is for reading in sequence


class PreparedFolder:
    """A finished prepared folder. Attributes: path, manifest.

    Args:
      path: of the folder, which may be in a store (bucket.py).
      cache_bytes: room for copies of a store's files on this machine.

    Raises PreparedError when it is none, or a file of it is gone or has another size; of a store's
    files that is seen when they are read.
    """

    def __init__(self, path: str | Path, *, cache_bytes: float = float("inf")):
        self.bucket = Bucket(str(path), cache_bytes) if is_remote(path) else None
        self.path = Path(path) if self.bucket is None else self.bucket.folder
        self.name = str(path)
        self.manifest: dict[str, Any] = read_manifest(path)
        self._left_out: dict[str, np.ndarray] = {}
        for facts in self.manifest["files"] if self.bucket is None else ():
            file = self.path / facts["file"]
            size = file.stat().st_size if file.exists() else None
            if size != facts["bytes"]:
                how = "is missing" if size is None else f"has {size} bytes, not {facts['bytes']}"
                raise PreparedError(f"{file} {how}; run prepare again, or prepare --check")

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Per task: records in "train" and "held_out", fewest and most "frames", "sizes"."""
        return self.manifest["tasks"]

    @property
    def own_tasks(self) -> dict[str, Any]:
        """Definitions of the tasks of one's own, by name; folders of older versions have none."""
        return self.manifest["plan"].get("own_tasks", {})

    @functools.cached_property
    def definitions(self) -> TaskSet:
        """The built-in tasks, and those of one's own."""
        return own_tasks(self.own_tasks, f"{self.path / FILE}")

    @property
    def pictures(self) -> dict[str, Any]:
        """Identity of the picture encoder; its "kind" is "pixels" or "autoencoder"."""
        return self.manifest["plan"]["encoders"]["pictures"]

    @property
    def text(self) -> dict[str, Any] | None:
        """Identity of the encoder of the cached captions; None when there are none."""
        return self.manifest["plan"]["encoders"]["text"]

    def records(self, task: str, split: str) -> "Records":
        """The records of a task and split ("train" or "held_out"), in the order of the source."""
        files = [f for f in self.manifest["files"] if (f["task"], f["split"]) == (task, split)]
        begin, left_out = 0, []
        for facts in files:
            left_out.append(begin + self._left_out.get(facts["file"], np.zeros(0, np.int64)))
            begin += facts["records"]
        gone = np.concatenate(left_out) if left_out else None
        repeats = None
        if split == "train" and any(facts.get("repeated") for facts in files):
            repeats = np.concatenate([self._repeats[facts["file"]] for facts in files])
        return Records(self.bucket or self.path, files, gone, repeats)

    @functools.cached_property
    def _repeats(self) -> dict[str, np.ndarray]:
        """File → how often each of its records is in a pass."""
        found = {f["file"]: np.ones(f["records"], np.int64) for f in self.manifest["files"]}
        for line in self.index():
            if "repeats" in line:
                found[line["file"]][line["position"]] = line["repeats"]
        return found

    @property
    def loss(self) -> dict[str, int]:
        """How many records are "masked", "is_reg", "repeated"; without those that are none."""
        return self.manifest.get("loss", {})

    @property
    def split_rule(self) -> tuple[Any, ...]:
        """What decides which records are held out; folders of one rule agree on every picture."""
        plan = self.manifest["plan"]
        by_picture = plan["format_version"] >= 4
        share = self.manifest.get("held_out", plan["held_out"])
        return by_picture, share, plan.get("held_out_names", "")

    @property
    def split_by_picture(self) -> bool:
        """Whether every record stands alone with one picture and its side follows from that."""
        by_list = self.manifest["plan"].get("held_out_names")
        files = self.manifest["files"]
        return not by_list and all(facts.get("alone", True) for facts in files)

    def leave_out(self, lines: Iterable[dict[str, Any]]) -> None:
        """Takes the records of these index lines out of what `records` gives."""
        found: dict[str, list[int]] = collections.defaultdict(list)
        for line in lines:
            found[line["file"]].append(line["position"])
        self._left_out = {file: np.array(sorted(p), np.int64) for file, p in found.items()}

    @property
    def num_left_out(self) -> int:
        """Of training records."""
        return sum(map(len, self._left_out.values()))

    def index(self) -> Iterator[dict[str, Any]]:
        """A line per record, see manifest.read_index; none for folders of versions before 4."""
        for facts in self.manifest.get("index", ()):
            file = self.path / facts["file"]
            if self.bucket:
                file = self.bucket.file(facts)
            try:
                yield from read_index(file)
            except (OSError, ValueError) as error:
                raise PreparedError(f"{file} cannot be read: {error}") from None


class Records:
    """A sequence of records over many files; thread-safe, and a copy in another process opens its
    own files. `left_out` are the sorted numbers of records that are not part of it; `repeats` says
    how often each record (of all) comes, one time after the other.

    Raises PreparedError when a file is missing or damaged, naming it.
    """

    def __init__(
        self,
        folder: Path | Bucket,
        files: list[dict[str, Any]],
        left_out: np.ndarray | None = None,
        repeats: np.ndarray | None = None,
    ):
        self._folder, self._files = folder, files
        self._left_out = np.zeros(0, np.int64) if left_out is None else left_out
        # Before record n of those that stay there are so many that do not.
        self._gaps = self._left_out - np.arange(len(self._left_out))
        self._repeats = repeats
        if repeats is not None:
            self._until = np.cumsum(np.delete(repeats, self._left_out))
        self._ends = list(itertools.accumulate(file["records"] for file in files))
        self._readers: collections.OrderedDict[int, ArrayRecordReader] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self):
        return Records, (self._folder, self._files, self._left_out, self._repeats)

    def __len__(self) -> int:
        if self._repeats is not None:
            return int(self._until[-1]) if len(self._until) else 0
        return (self._ends[-1] if self._ends else 0) - len(self._left_out)

    def __getitem__(self, index: SupportsIndex) -> Record:
        number, position = self._place(int(index))
        try:
            return from_bytes(self._reader(number).read([position])[0])
        except (ValueError, RuntimeError, IndexError) as error:
            raise PreparedError(
                f"{self._path(number)}, record {position}: {error}; "
                "prepare --check tells what else is damaged"
            ) from error

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the file of a record, and its place there."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        if self._repeats is not None:
            index = int(np.searchsorted(self._until, index, side="right"))
        index += int(np.searchsorted(self._gaps, index, side="right"))
        number = bisect.bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def prefetch(self, index: int) -> None:
        """Begins to copy the file of a record from its store; nothing for files that are here."""
        if isinstance(self._folder, Bucket):
            self._folder.prefetch(self._files[self._place(index)[0]])

    @property
    def is_remote(self) -> bool:
        """Whether the files are copied from a store."""
        return isinstance(self._folder, Bucket)

    def _path(self, number: int) -> Path:
        folder = self._folder.folder if isinstance(self._folder, Bucket) else self._folder
        return folder / self._files[number]["file"]

    def _open(self, number: int) -> ArrayRecordReader:
        path = self._path(number)
        for _ in range(_TRIES):
            if isinstance(self._folder, Bucket):
                path = self._folder.file(self._files[number])
            try:
                return ArrayRecordReader(
                    str(path), _READER_OPTIONS, file_reader_buffer_size=_BUFFER
                )
            except Exception:
                if not self.is_remote or path.exists():
                    raise  # else it was removed to make room, after it was copied
        raise PreparedError(
            f"{path} is removed before it can be read: data.bucket_cache_gib is too small"
        )

    def _reader(self, number: int) -> ArrayRecordReader:
        with self._lock:
            reader = self._readers.get(number)
        # Others read on while a file of a store is copied.
        opened = self._open(number) if reader is None and self.is_remote else None
        with self._lock:
            reader = self._readers.pop(number, None) or opened
            if reader is None:
                reader = self._open(number)
            self._readers[number] = reader
            if len(self._readers) > (_OPEN_COPIES if self.is_remote else _OPEN_FILES):
                # Not closed: another thread may be reading. It goes when nobody holds it.
                self._readers.popitem(last=False)
            return reader


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Standard normal numbers, float32: one of 65,536 quantiles each, at a sixth of the time of
    rng.standard_normal, which would be the largest cost of a record."""
    size = math.prod(shape)
    bits = rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size]
    return np.take(_QUANTILES, bits).reshape(shape)


def sample_posterior(moments: np.ndarray, scaling: float, rng: np.random.Generator) -> np.ndarray:
    """scaling · z, (h, w, c) float32, of float16 (h, w, 2·c) mean and log-variance."""
    bits, half = moments.view(np.uint16), moments.shape[-1] // 2
    z = np.take(_DEVIATIONS, bits[..., half:])
    z *= _normal(z.shape, rng)
    z += np.take(_VALUES, bits[..., :half])
    z *= np.float32(scaling)
    return z


@dataclasses.dataclass(frozen=True)
class Decoding:
    """From what a record stores to what training sees.

    Attributes:
      codec: of pictures that are stored as pixels.
      scaling: latents = scaling · z, of pictures that are stored as posteriors.
      max_frames: room in a slot; longer identity and multiview examples lose frames at random.
      cached_text: use the cached embeddings; their prompts name every picture, so none is lost.
      tasks: where the records' tasks are looked up.
      prior_weight: of the loss of examples that are is_reg.
      crop_tokens: a larger picture of text2image is cropped to so many tokens; None: none is.
      flip_share: probability that an example that allows it is mirrored.
      augment: crops are drawn and examples mirrored; otherwise crops are of the middle.
      online: stored pixels stay pixels, which are encoded later, many at a time.
    """

    codec: PictureCodec
    scaling: float | None
    max_frames: int
    cached_text: bool = False
    tasks: TaskSet = BUILT_IN
    prior_weight: float = 1.0
    crop_tokens: int | None = None
    flip_share: float = 0.0
    augment: bool = False
    online: bool = False

    def latents(self, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(h, w, c) float32 of a stored frame; a posterior is sampled."""
        if frame.dtype == np.uint8:
            return self.codec.encode(frame)
        assert self.scaling is not None  # folders of posteriors say it
        return sample_posterior(frame, self.scaling, rng)

    def latent_size(self, frame: np.ndarray) -> tuple[int, int]:
        """(h, w) in latents of a stored frame."""
        factor = self.codec.factor if frame.dtype == np.uint8 else 1
        return frame.shape[0] // factor, frame.shape[1] // factor


@dataclasses.dataclass(frozen=True)
class Stored:
    """A record on its way into a row: captions, views and posteriors are drawn for each row."""

    record: Record
    decoding: Decoding

    def draw(self, rng: np.random.Generator) -> Encoded:
        """One of the examples that the record stands for."""
        record, text = self._chosen(rng)
        decoding = self.decoding
        if decoding.augment and decoding.flip_share:
            drawn = rng.random()
            if drawn < decoding.flip_share and may_mirror(record, text[0], decoding.tasks):
                record = mirrored(record)
        frames, noise = list(record.frames), 0
        if decoding.online:
            noise = int(rng.integers(2**32))
        else:
            frames = [decoding.latents(frame, rng) for frame in frames]
        weight = decoding.prior_weight if record.is_reg else 1.0
        aligned = decoding.tasks.task(record.task).group == "i2i"
        masked = len(frames) if aligned else 1
        frames = self._with_rays(record, frames)
        return Encoded(record.task, text[0], frames, text[1], weight, record.mask, masked, noise)

    def bundle(self, rng: np.random.Generator) -> Bundle:
        """The same as `draw`, with stored pixels as pictures."""
        record, text = self._chosen(rng)
        frames = [
            frame if frame.dtype == np.uint8 else self.decoding.latents(frame, rng)
            for frame in record.frames
        ]
        truth = {"cameras": record.cameras, "key": record.key, **record.extras}
        if record.regions:
            truth["regions"] = list(record.regions)
        frames = self._with_rays(record, frames)
        return Bundle(record.task, text[0], frames, truth, text[1])

    def _chosen(self, rng) -> tuple[Record, tuple[str, np.ndarray | None]]:
        record, decoding = self._views(rng), self.decoding
        if decoding.crop_tokens:
            record = cropped(record, decoding.crop_tokens, rng if decoding.augment else None)
        if self.decoding.cached_text:
            number = int(rng.integers(len(record.texts)))
            prompt = prompt_choices(record, self.decoding.tasks)[number]
            return record, (prompt, record.texts[number])
        captions = [c[rng.integers(len(c))] if c else "" for c in record.captions]
        return record, (prompt_of(record, captions, self.decoding.tasks), None)

    def _views(self, rng: np.random.Generator) -> Record:
        """The record with as many pictures as are drawn; the first one always stays."""
        record, task = self.record, self.decoding.tasks.task(self.record.task)
        if not task.loses_frames:
            return record
        most = min(len(record.frames), self.decoding.max_frames // task.per_picture)
        least = min(task.min_frames // task.per_picture, most)
        count = int(rng.integers(least, most + 1))
        keep_all = self.decoding.cached_text and task.group == "identity"
        if count == len(record.frames) or keep_all:
            return record
        others = np.sort(rng.permutation(len(record.frames) - 1)[: count - 1]) + 1
        kept = [0, *map(int, others)]
        return dataclasses.replace(
            record,
            frames=tuple(record.frames[i] for i in kept),
            captions=tuple(record.captions[i] for i in kept),
            cameras=record.cameras and record.cameras[kept],
        )

    def _with_rays(self, record: Record, frames: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        if record.cameras is None:
            return tuple(frames)
        rays = ray_maps.rays_from_cameras(
            record.cameras, self.decoding.latent_size(record.frames[0])
        )
        maps = ray_maps.ray_frames(rays)
        return tuple(frame for pair in zip(frames, maps, strict=True) for frame in pair)


class PreparedExamples:
    """Random access to the examples of one task and split of a folder, for `mix_groups`."""

    def __init__(self, records: Records, decoding: Decoding):
        self._records, self._decoding = records, decoding

    def __len__(self) -> int:
        return len(self._records)

    @property
    def is_remote(self) -> bool:
        """Whether `prefetch` has something to do."""
        return self._records.is_remote

    def prefetch(self, index: int) -> None:
        """Begins to copy the file that an example is in from its store."""
        self._records.prefetch(index)

    def __getitem__(self, index: SupportsIndex) -> Stored:
        return Stored(self._records[index], self._decoding)
