"""Evaluation on prepared folders: the run's own held-out examples, or any others.

Every generated frame is read back and measured as its role says (frame_measures.py). What was
generated is kept in parts, so that an evaluation that was killed goes on where it was.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.codec import LightCodec, to_uint8
from onediff_jax.data.prepared.reader import Decoding, PreparedFolder, Stored
from onediff_jax.evaluation.results import Result
from onediff_jax.evaluation.stored_scores import Example, Plan, Scores, Shown, typical_pictures
from onediff_jax.files import replace_file, text_hash
from onediff_jax.sampling.request import request_of_example
from onediff_jax.sampling.sampler import Sampler
from onediff_jax.sampling.source import Source
from onediff_jax.tasks.definitions import Task, TaskSet
from onediff_jax.tasks.prompts import split_token
from onediff_jax.tasks.roles import get_role

_PART_LETTERS = 24
PART_NAME = rf"[0-9a-f]{{{_PART_LETTERS}}}"  # of files in parts
_PART = 32  # examples generated before they are written down
_NOISE = 2**20  # seeds of a direction's examples


def plans(
    source: Source,
    folders: Sequence[PreparedFolder],
    split: str,
    directions: Sequence[str] | None,
    steps: Sequence[int],
    limit: int,
) -> tuple[list[Plan], list[str]]:
    """What is to be generated, and notes on what cannot be.

    Raises ValueError where nothing of the folders can be evaluated, or a direction is unknown.
    """
    tasks = source.experiment.tasks
    trained = {n for n, weight in source.experiment.config.data.tasks.items() if weight}
    known = {d.name: t for t, d in tasks.directions() if t.name in trained}
    if unknown := [name for name in directions or () if name not in known]:
        raise ValueError(f"tasks {unknown} are not what this model was trained on: {list(known)}")
    found, notes = [], []
    prompts = source.experiment.config.text.kind != "cached"  # else other prompts have no embedding
    if not prompts:
        notes.append("cached captions: nothing was generated without its caption")
    for folder in folders:
        for name, task in known.items():
            if directions is not None and name not in directions:
                continue
            count = len(folder.records(task.name, split)) if task.name in folder.tasks else 0
            if not count:
                notes.append(f"{folder.path}: no {split} examples of {name}")
                continue
            direction = task.direction(name)
            for number in steps:
                for caption in (True, False) if prompts and _has_both(task, name) else (True,):
                    found.append(
                        Plan(folder, split, task, direction, number, caption, min(count, limit))
                    )
    if not found:
        raise ValueError("nothing to evaluate: " + "; ".join(notes))
    return found, notes


def _has_both(task: Task, direction: str) -> bool:
    """Whether a direction is asked with and without its caption: perception and restoration."""
    perceives = task.direction(direction) != task.directions[0]
    restores = any(get_role(role).name in _DAMAGED for role in task.frames)
    return (perceives or restores) and not task.needs_prompt(direction)


_DAMAGED = ("blurred", "masked", "low_resolution")


class Evaluator:
    """Generates and measures plans.

    Args:
      source: the model.
      out: folder of the parts of what was generated; None: nothing is kept.
      guidance, seed: of the Euler loop and its starting noise.
      sampler: to generate with, whatever a plan's steps are; None: one per number of steps.
    """

    def __init__(
        self,
        source: Source,
        out: Path | None,
        *,
        guidance: float,
        seed: int,
        sampler: Sampler | None = None,
    ):
        self._source, self._experiment = source, source.experiment
        self._tasks = source.experiment.tasks
        self._parts = None if out is None else out / "parts"
        self._guidance, self._seed, self._given = guidance, seed, sampler
        self._samplers: dict[int, Sampler] = {}

    def __call__(
        self, plan: Plan, advance: Callable[[int], Any] = lambda count: None
    ) -> tuple[list[Result], dict[str, list[Shown]]]:
        """The rows of a plan and examples to show.

        Args:
          advance: called with the number of examples after every part.
        """
        scored = Scores(plan, typical_pictures(plan))
        for first in range(0, plan.count, _PART):
            indices = range(first, min(first + _PART, plan.count))
            examples = [self._example(plan, index) for index in indices]
            made = self._generated(plan, examples, first)
            for example, frames in zip(examples, made, strict=True):
                scored.add(example, frames, self._round_trip(plan, example))
            advance(len(indices))
        return scored.rows(), scored.shown

    def _example(self, plan: Plan, index: int) -> Example:
        """An example, the same every time."""
        codec = self._experiment.codec
        records = plan.folder.records(plan.task.name, plan.split)
        room = [slot.frames for slot in self._experiment.slots(plan.task.name)]
        decoding = Decoding(
            LightCodec(),
            plan.folder.pictures.get("scaling_factor"),
            min(room),
            self._experiment.config.text.kind == "cached",
            tasks=self._tasks,
        )
        record = records[index]
        bundle = Stored(record, decoding).bundle(np.random.default_rng((self._seed, index)))
        roles = plan.task.roles(len(bundle.frames))
        latents = [f if f.dtype != np.uint8 else codec.encode(f) for f in bundle.frames]
        truth = tuple(self._picture(f, role) for f, role in zip(bundle.frames, roles, strict=True))
        known = dict(bundle.truth) | {"regions": record.regions or None}
        mask = plan.task.denoise_mask(plan.direction.name, len(roles))
        encoded = Encoded(plan.task.name, bundle.prompt, tuple(latents), bundle.text)
        if not plan.caption:
            prompt = without_caption(bundle.prompt, self._tasks)
            encoded = dataclasses.replace(encoded, prompt=prompt, text=None)
        return Example(index, record.key, bundle, encoded, truth, roles, known, mask)

    def _picture(self, frame: np.ndarray, role: str) -> np.ndarray:
        """Pixels uint8 (H, W, 3); ray maps as they are."""
        if role == "ray" or frame.dtype == np.uint8:
            return frame.astype(np.float32) if role == "ray" else frame
        return to_uint8(self._experiment.codec.decode(frame))

    def _round_trip(self, plan: Plan, example: Example) -> tuple[np.ndarray | None, ...] | None:
        if plan.folder.pictures["kind"] != "pixels":
            return None  # the truth itself went through the codec
        return tuple(
            self._picture(f.astype(np.float32), r) if w else None
            for f, r, w in zip(example.encoded.frames, example.roles, example.mask, strict=True)
        )

    def _generated(self, plan: Plan, examples, first: int) -> list[tuple[np.ndarray, ...]]:
        """The frames made for a part of the examples; read where they were made before."""
        if self._parts is None:
            return self._sampled(plan, examples)
        file = self._parts / f"{text_hash(self._asked(plan, examples))[:_PART_LETTERS]}.npz"
        if file.exists():
            with np.load(file) as stored:
                return [
                    tuple(stored[f"{e.index}_{i}"] for i in range(len(e.roles))) for e in examples
                ]
        made = self._sampled(plan, examples)
        self._parts.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{e.index}_{i}": frame
            for e, frames in zip(examples, made, strict=True)
            for i, frame in enumerate(frames)
        }
        replace_file(file, _as_npz(arrays))
        return made

    def _asked(self, plan: Plan, examples) -> dict[str, Any]:
        """All that what is generated depends on."""
        return {
            "source": str(self._source.path.resolve()),
            "step": self._source.step,
            "weights": weights_hash(self._source.params),
            "folder": plan.folder.manifest["sha256"],
            "asked": [plan.split, plan.direction.name, plan.steps, plan.caption],
            "guidance": self._guidance,
            "seed": self._seed,
            "indices": [example.index for example in examples],
        }

    def _sampled(self, plan: Plan, examples) -> list[tuple[np.ndarray, ...]]:
        order = [d.name for _, d in self._tasks.directions()]
        stream = self._seed * len(order) + order.index(plan.direction.name)
        requests = [
            request_of_example(
                plan.direction.name, e.encoded, tuple(map(bool, e.mask)), stream * _NOISE + e.index
            )
            for e in examples
        ]
        latents = self._sampler(plan.steps)(self._source.params, requests)
        return [
            tuple(
                self._picture(np.asarray(f, np.float32), role)
                for f, role in zip(frames, e.roles, strict=True)
            )
            for e, frames in zip(examples, latents, strict=True)
        ]

    def _sampler(self, steps: int) -> Sampler:
        if self._given is not None:
            return self._given
        if steps not in self._samplers:
            self._samplers[steps] = Sampler(
                self._experiment,
                rows=self._source.rows,
                steps=steps,
                guidance=self._guidance,
                mesh=self._source.mesh,
            )
        return self._samplers[steps]


def without_caption(prompt: str, tasks: TaskSet) -> str:
    """The prompt with its token and regions alone."""
    name, rest = split_token(prompt, tasks)
    return " ".join([tasks.task(name).token, *re.findall(r"<#[^>]*>", rest)]) + " "


def weights_hash(params: Any) -> str:
    """A short hash that differs where weights do: of some numbers of every parameter."""
    import jax

    some = [[float(v) for v in np.asarray(leaf).ravel()[:4]] for leaf in jax.tree.leaves(params)]
    return text_hash(some)[:16]


def _as_npz(arrays: dict[str, Any]) -> bytes:
    opened = io.BytesIO()
    np.savez(opened, **arrays)
    return opened.getvalue()
