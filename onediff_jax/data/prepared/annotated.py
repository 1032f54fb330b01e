"""A source whose pictures are annotated by other people's models as they are read."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onediff_jax.data.annotate import CHOICES, Annotator
from onediff_jax.data.prepared.plan import version, weights_hash
from onediff_jax.data.sources.base import BadRecord, RawExample, Source, content_of

# Pictures that wait for each other: of one size they make a batch.
_READ_AHEAD = 16


class AnnotatedSource:
    """A source whose pictures are annotated as they are read; other tasks pass through.

    The models are loaded where reading begins, once per process.

    Args:
      source: to read.
      models: kind → folder or hub name, see `parse`.
      options: of Annotator.

    Raises ValueError for an unknown kind, or no models.
    """

    def __init__(self, source: Source, models: dict[str, str], **options):
        if not models or set(models) - set(CHOICES):
            raise ValueError(f"{models=} must name a model for some of {list(CHOICES)}")
        self._source, self._models, self._options = source, dict(models), options
        self._annotator: Annotator | None = None
        self._lock = threading.Lock()

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
            if isinstance(record, RawExample) and record.task == "text2image":
                waiting.append(record)
                if len(waiting) < _READ_AHEAD:
                    continue
                record = None
            yield from self._annotated(waiting)
            waiting = []
            if record is not None:
                yield record
        yield from self._annotated(waiting)

    def _annotated(self, examples: list[RawExample]) -> Iterator[RawExample | BadRecord]:
        if not examples:
            return
        with self._lock:  # threads that read share the models
            if self._annotator is None:
                self._annotator = Annotator(self._models, **self._options)
            results = self._annotator.annotate(examples)
        for result in results:
            yield from result


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
