"""A source whose pictures are annotated by other people's models as they are read."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onediff_jax.data.annotate import CHOICES, ROLE_OF, Annotator, task_of
from onediff_jax.data.prepared.plan import version, weights_hash
from onediff_jax.data.sources.base import BadRecord, RawExample, Source, content_of
from onediff_jax.tasks.definitions import BUILT_IN, Task, TaskSet
from onediff_jax.tasks.roles import get_role

# Pictures that wait for each other: of one size they make a batch.
_READ_AHEAD = 16


class AnnotatedSource:
    """A source whose pictures are annotated as they are read.

    Plain pictures give one example per model more, and one per task of one's own whose frames can
    all be annotated or derived; examples of such a task get the frames they lack. Others pass
    through. The models are loaded where reading begins, once per process.

    Args:
      source: to read.
      models: kind → folder or hub name, see `parse`.
      tasks: the built-in tasks, and those of one's own.
      options: of Annotator.

    Raises ValueError for an unknown kind, or no models.
    """

    def __init__(
        self, source: Source, models: dict[str, str], *, tasks: TaskSet = BUILT_IN, **options
    ):
        if not models or set(models) - set(CHOICES):
            raise ValueError(f"{models=} must name a model for some of {list(CHOICES)}")
        self._source, self._models, self._options = source, dict(models), options
        self._roles = {ROLE_OF[kind]: kind for kind in models if kind in ROLE_OF}
        self._own = tuple(task for task in tasks.own if self._finds_all(task))
        self._annotator: Annotator | None = None
        self._lock = threading.Lock()

    def _finds_all(self, task: Task) -> bool:
        others = task.frames[1:]
        found = [role in self._roles or get_role(role).derived for role in others]
        return all(found) and any(role in self._roles for role in others)

    @property
    def gives(self) -> tuple[str, ...]:
        """The tasks whose examples it makes of plain pictures."""
        return (*map(task_of, self._roles.values()), *(task.name for task in self._own))

    def __getstate__(self):
        return self.__dict__ | {"_annotator": None, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def shards(self) -> list[str]:
        return self._source.shards()

    def describe(self) -> dict[str, Any]:
        identity = {kind: _identity(model) for kind, model in self._models.items()}
        identity["versions"] = {name: version(name) for name in ("transformers", "torch")}
        return {**self._source.describe(), "annotate": identity, **self._options}

    def content(self, shard: str) -> str:
        return content_of(self._source, shard)

    def read(self, shard: str) -> Iterator[RawExample | BadRecord]:
        waiting: list[RawExample] = []
        for record in self._source.read(shard):
            if isinstance(record, RawExample) and self._lacks(record):
                waiting.append(record)
                if len(waiting) < _READ_AHEAD:
                    continue
                record = None
            yield from self._annotated(waiting)
            waiting = []
            if record is not None:
                yield record
        yield from self._annotated(waiting)

    def _lacks(self, example: RawExample) -> bool:
        """Whether models can add something to it."""
        if example.own is None:
            return example.task == "text2image"
        pairs = zip(example.own.frames, example.images, strict=True)
        return any(image is None and role in self._roles for role, image in pairs)

    def _annotated(self, examples: list[RawExample]) -> Iterator[RawExample | BadRecord]:
        if not examples:
            return
        plain = [e if e.own is None else _plain(e) for e in examples]
        with self._lock:  # threads that read share the models
            if self._annotator is None:
                self._annotator = Annotator(self._models, **self._options)
            results = self._annotator.annotate(plain)
        for example, result in zip(examples, results, strict=True):
            bad = [record for record in result if isinstance(record, BadRecord)]
            found = {r.task: r for r in result if isinstance(r, RawExample)}
            by_role = {
                role: found[task_of(kind)]
                for role, kind in self._roles.items()
                if task_of(kind) in found
            }
            if example.own is not None:
                yield from bad
                yield from self._filled(example, found["text2image"], by_role)
                continue
            yield from result
            for task in self._own:
                images = (example.images[0], *[None] * (len(task.frames) - 1))
                texts = (example.captions[0], *[()] * (len(task.frames) - 1))
                lacking = dataclasses.replace(
                    example, task=task.name, images=images, captions=texts, own=task
                )
                yield from self._filled(lacking, found["text2image"], by_role)

    def _filled(
        self, example: RawExample, plain: RawExample, by_role: dict[str, RawExample]
    ) -> Iterator[RawExample]:
        """The example with what the models found; nothing where one of them found nothing."""
        parts: dict[str, Any] = {"extras": dict(example.extras)}
        images = list(example.images)
        for index, role in enumerate(example.definition.frames):
            if images[index] is not None or role not in self._roles:
                continue
            if role not in by_role:
                return  # the annotator's bad record says why
            one = by_role[role]
            images[index] = one.images[1]
            if one.regions:
                parts["regions"] = one.regions
            if one.depth_norm is not None:
                parts["depth_norm"] = one.depth_norm
            parts["extras"] |= one.extras
        captions = (example.captions[0] or plain.captions[0], *example.captions[1:])
        yield dataclasses.replace(example, images=tuple(images), captions=captions, **parts)


def _plain(example: RawExample) -> RawExample:
    """The target and its captions alone."""
    return RawExample(
        *(example.key, "text2image", example.images[:1], example.captions[:1]),
        group=example.group,
        mask=example.mask,
        repeats=example.repeats,
        is_reg=example.is_reg,
    )


def _identity(model: str) -> dict[str, str]:
    """What tells a model from others: its content, or the commit that the hub's name stands for."""
    if not Path(model).is_dir():
        try:
            from huggingface_hub import hf_hub_download

            # …/snapshots/COMMIT/config.json; asked of the hub, else of what was fetched before.
            config = Path(hf_hub_download(model, "config.json"))
        except (ImportError, ValueError, OSError) as error:
            raise ValueError(f"{model!r} is no folder, and no model of the hub: {error}") from None
        return {"name": model, "commit": config.parent.name}
    return {"name": model, "sha256": weights_hash(Path(model), ("*.json", "*.safetensors"))}
