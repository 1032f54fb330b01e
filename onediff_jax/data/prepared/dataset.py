"""Prepared folders as the data of an experiment: checked against its rows, mixed by weight."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex

import ml_dtypes
import numpy as np

from onediff_jax.data.bundle import Bundle
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.pipeline import Mixture
from onediff_jax.data.prepared.augment import cropped_size
from onediff_jax.data.prepared.reader import (
    Decoding,
    PreparedExamples,
    PreparedFolder,
    Records,
    Stored,
)
from onediff_jax.data.prepared.split import left_out
from onediff_jax.tasks.definitions import BUILT_IN, Task, TaskSet

_UNIT = 16  # pixels per token side


@dataclasses.dataclass(frozen=True)
class PreparedData:
    """Several folders under one roof.

    Attributes:
      folders: with the weight of each among the folders that have a task.
      layout: of the rows that the examples go into.
      evaluate_on: the split that stands for held-out data, "held_out" or "train".
      codec: encodes stored pixels.
      cached_text: whether the cached embeddings are used; otherwise the captions are.
      tasks: the built-in tasks, and those that the folders define.
      prior_weight, flip_share: see Decoding.
      online: see Decoding.
      random_crop: text2image's pictures may be larger than their slot, and are cropped to it.
    """

    folders: tuple[tuple[PreparedFolder, float], ...]
    layout: RowLayout
    evaluate_on: str
    codec: Any
    cached_text: bool
    tasks: TaskSet = BUILT_IN
    prior_weight: float = 1.0
    flip_share: float = 0.0
    random_crop: bool = False
    online: bool = False

    def __post_init__(self):
        for field, asked in (("flip_share", self.flip_share), ("random_crop", self.random_crop)):
            for folder, _ in self.folders:
                if asked and folder.pictures["kind"] != "pixels":
                    raise ValueError(
                        f"data.{field}={asked} needs pixels, and {folder.path} holds latents: "
                        "prepare it with --encoder=light"
                    )

    @property
    def weighted(self) -> bool:
        """Whether some token counts less than others in the loss."""
        return any(
            folder.loss.get("masked") or (folder.loss.get("is_reg") and self.prior_weight != 1)
            for folder, _ in self.folders
        )

    def left_out_lines(self) -> list[str]:
        """What of the folders is not trained on, one line each."""
        lines = []
        for folder, _ in self.folders:
            if count := folder.num_left_out:
                train = sum(facts["train"] for facts in folder.tasks.values())
                lines.append(
                    f"{folder.path}: {count} of {train} training records are left out: they have "
                    "a picture, or are of a group with one, that is held out elsewhere"
                )
        return lines

    def split(self, held_out: bool) -> str:
        return self.evaluate_on if held_out else "train"

    def decoding(self, folder: PreparedFolder, task: str, *, augment: bool = False) -> Decoding:
        """How the records of a task are read for these rows; `augment` as in Decoding."""
        room = min(s.frames for s in self.slots(task))
        scaling = folder.pictures.get("scaling_factor")
        return Decoding(
            *(self.codec, scaling, room, self.cached_text, self.tasks),
            prior_weight=self.prior_weight,
            crop_tokens=self._crop_tokens(task),
            flip_share=self.flip_share,
            augment=augment,
            online=self.online,
        )

    def _crop_tokens(self, task: str) -> int | None:
        """Tokens that pictures of a task are cropped to; None where they are not."""
        if not self.random_crop or self.tasks.task(task).group != "t2i":
            return None
        return min((slot.tokens for slot in self.slots(task)), default=None)

    def examples(self, task: str, *, held_out: bool) -> Mixture:
        """The examples of every folder that has the task, in the proportion of the weights."""
        return Mixture(
            tuple(
                (PreparedExamples(records, self.decoding(folder, task, augment=not held_out)), w)
                for folder, records, w in self._records(task, self.split(held_out))
            )
        )

    def bundles(self, task: str, *, held_out: bool, seed: int) -> "PreparedBundles":
        """The same examples with their pictures, each always drawn alike."""
        found = self._records(task, self.split(held_out))
        return PreparedBundles(
            [(records, self.decoding(folder, task)) for folder, records, _ in found],
            task,
            (seed, self.tasks.names.index(task)),
        )

    def sizes(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Task group → (height, width) in pixels of its pictures."""
        sizes = sizes_of(self.folders)
        room = [slot.tokens for slot in self.layout.slots if slot.group == "t2i"]
        if self.random_crop and room and "t2i" in sizes:
            cropped = (cropped_size(size, min(room)) for size in sizes["t2i"])
            sizes["t2i"] = tuple(dict.fromkeys(cropped))
        return sizes

    def fields(self) -> list[list[Any]]:
        """What determines the content: the hash and weight of every folder, wherever it lies."""
        return [[folder.manifest["sha256"], weight] for folder, weight in self.folders]

    def _records(self, task: str, split: str) -> list[tuple[PreparedFolder, Records, float]]:
        found = [
            (folder, folder.records(task, split), weight)
            for folder, weight in self.folders
            if folder.tasks.get(task, {}).get(split) and weight > 0
        ]
        if found and not any(len(records) for _, records, _ in found):
            raise ValueError(
                f"every {split} example of task {task} shares a picture, or a group, with one that "
                f"{[str(folder.path) for folder, _, _ in found]} or another folder of data.folders "
                "holds out; prepare with a smaller --held_out"
            )
        found = [entry for entry in found if len(entry[1])]
        if not found:
            have = {str(f.path): {t: v[split] for t, v in f.tasks.items()} for f, _ in self.folders}
            raise ValueError(
                f"no folder of data.folders has {split} examples of task {task}: {have}. Take it "
                "out of data.tasks, or prepare it"
                + (", or set data.evaluate_on='train'" if split == "held_out" else "")
            )
        return found

    def frames(self, task: str) -> int:
        """The most frames that an example of the task has, in any folder."""
        most = [f.tasks[task]["frames"][1] for f, _ in self.folders if task in f.tasks]
        return max(most, default=1) * self.tasks.task(task).per_picture

    def slots(self, task: str) -> tuple[Slot, ...]:
        """The slots that the examples of a task go into."""
        return self.layout.slots_for(self.tasks.task(task).group, self.frames(task))

    def check(self, tasks: Mapping[str, float]) -> None:
        """Raises ValueError when a weighted task has no examples, or some that fit no slot."""
        for name in (name for name, weight in tasks.items() if weight):
            for split in {"train", self.evaluate_on}:
                for folder, _, _ in self._records(name, split):
                    self._check_fit(folder, self.tasks.task(name))

    def _check_fit(self, folder: PreparedFolder, task: Task) -> None:
        facts, slots = folder.tasks[task.name], self.slots(task.name)
        if not slots:
            return  # make_experiment says which slot it needs
        room = min(slot.tokens for slot in slots)
        tokens = max(h * w // _UNIT**2 for h, w in map(_parse, facts["sizes"]))
        if tokens > room and not self._crop_tokens(task.name):
            raise ValueError(
                f"{folder.path} has pictures of {tokens} tokens for {task.name}, but the slots of "
                f"group {task.group!r} in rows hold {room}; prepare it with --tokens={room}"
            )
        frames = facts["frames"][1] * task.per_picture
        most = min(slot.frames for slot in slots)
        if frames > most and not task.loses_frames:
            raise ValueError(
                f"{folder.path} has {task.name} examples of {frames} frames, but the slots of "
                f"group {task.group!r} in rows hold {most}; add ({task.group!r}, 1, {frames}, "
                f"{room}) to rows"
            )
        if frames > most and self.cached_text and task.group == "identity":
            raise ValueError(
                f"{folder.path} has {task.name} examples of {frames} frames, the slots hold "
                f"{most}, and cached prompts cannot lose a picture; prepare with fewer pictures "
                "each, or with --text=none"
            )


class PreparedBundles:
    """Random access to the examples of one task as pictures; number i is always the same."""

    def __init__(self, parts: Sequence[tuple[Records, Decoding]], task: str, seed: tuple[int, ...]):
        self._parts, self._task, self._seed = parts, task, seed

    def __len__(self) -> int:
        return sum(len(records) for records, _ in self._parts)

    def __getitem__(self, index: SupportsIndex) -> Bundle:
        place = index = int(index)
        rng = np.random.default_rng((*self._seed, index))
        for records, decoding in self._parts:
            if 0 <= place < len(records):
                return Stored(records[place], decoding).bundle(rng)
            place -= len(records)
        raise ValueError(f"example {index} of {self._task} was asked for; there are {len(self)}")


class CachedText:
    """The text encoder where embeddings come with the records: it knows the empty prompt alone.

    Args:
      empty: (l, d) embedding of the empty prompt.
      max_length: tokens per prompt.
      encode: embeds other prompts, if there is such an encoder; called and returning as this one.
    """

    def __init__(self, empty: np.ndarray, max_length: int, encode: Callable | None = None):
        self._empty, self._encode = np.asarray(empty, np.float32), encode
        self.max_length, self.dim = max_length, self._empty.shape[-1]

    def __call__(self, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (b, max_length, dim) bfloat16 and mask (b, max_length) bool.

        Raises ValueError for a prompt that is neither empty nor can be encoded.
        """
        if any(prompts) and self._encode is not None:
            return self._encode(prompts)
        if any(prompts):
            raise ValueError(
                f"prompt {next(filter(None, prompts))!r} has no cached embedding, and no encoder "
                "is set; set text.folder to the folder of the T5 that prepared the data"
            )
        text = np.zeros((len(prompts), self.max_length, self.dim), ml_dtypes.bfloat16)
        mask = np.zeros((len(prompts), self.max_length), bool)
        text[:, : len(self._empty)], mask[:, : len(self._empty)] = self._empty, True
        return text, mask


def open_folders(
    folders: Sequence, cache_gib: float = math.inf
) -> tuple[tuple[PreparedFolder, float], ...]:
    """The folders of config.data.folders: paths, or (path, weight) pairs.

    Raises ValueError for no folder, a bad entry, a negative weight, or folders whose pictures or
    cached captions come from different encoders; PreparedError for a folder that is not finished.
    """
    if not folders or isinstance(folders, str):
        raise ValueError(f"data.folders={folders!r} must be a tuple of (path, weight)")
    opened = []
    for entry in folders:
        path, weight = (entry, 1.0) if isinstance(entry, str) else entry
        if weight < 0:
            raise ValueError(f"data.folders: the weight of {path} is {weight}; it must be ≥ 0")
        opened.append((PreparedFolder(path, cache_bytes=cache_gib * 2**30), float(weight)))
    first = opened[0][0]
    for other, _ in opened[1:]:
        for what in ("pictures", "text"):
            ours, theirs = (_essence(getattr(f, what)) for f in (first, other))
            if ours != theirs:
                raise ValueError(
                    f"{first.path} and {other.path} have {what} of different encoders: {ours} and "
                    f"{theirs}"
                )
    _agree_on_split([folder for folder, _ in opened])
    return tuple(opened)


def _agree_on_split(folders: Sequence[PreparedFolder]) -> None:
    """What one folder holds out none trains on, in whatever group or folder it lies; where every
    record stands alone, folders of one rule agree by themselves."""
    rules = {folder.split_rule for folder in folders}
    if len(rules) < 2 and all(folder.split_by_picture for folder in folders):
        return
    old = [str(folder.path) for folder in folders if not folder.split_rule[0]]
    if old and len(rules) > 1:
        logging.warning(
            "%s were prepared by a version that split by names: a picture that they hold out may "
            "be trained on from another folder. Prepare them again to have one split",
            old,
        )
    current = [folder for folder in folders if folder.split_rule[0]]
    found = left_out({number: folder.index for number, folder in enumerate(current)})
    for folder, lines in zip(current, found.values(), strict=True):
        folder.leave_out(lines)


def sizes_of(
    folders: Sequence[tuple[PreparedFolder, float]],
) -> dict[str, tuple[tuple[int, int], ...]]:
    """Task group → (height, width) in pixels of its pictures in these folders."""
    found: dict[str, dict] = {}
    for folder, _ in folders:
        for name, facts in folder.tasks.items():
            group = found.setdefault(folder.definitions.task(name).group, {})
            group.update(dict.fromkeys(_parse(size) for size in facts["sizes"]))
    return {group: tuple(sizes) for group, sizes in found.items()}


def _essence(identity: dict[str, Any] | None) -> dict[str, Any] | None:
    """What must agree: the encoder, not the precision or the machine it ran on."""
    names = ("kind", "sha256", "scaling_factor", "tokenizer", "width")
    return identity and {name: identity.get(name) for name in names}


def _parse(size: str) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT"."""
    width, height = size.split("x")
    return int(height), int(width)
