"""What a preparation does: everything that determines its output, and nothing else."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onediff_jax.data.prepared.fit import Fitting
from onediff_jax.data.prepared.split import SPLITS as SPLITS
from onediff_jax.data.prepared.split import Split
from onediff_jax.data.prepared.split import split_of as split_of
from onediff_jax.data.sources.base import Source
from onediff_jax.files import file_hash, text_hash
from onediff_jax.tasks.own import definitions_of

FORMAT_VERSION = 5  # raise it when the same plan starts to give other bytes
READABLE = (2, 3, 4, 5)  # versions whose finished folders are read
_WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index*.json")
_PACKAGES = ("onediff-jax", "numpy", "pillow", "opencv-python-headless", "scipy", "array-record")


class PictureEncoder(Protocol):
    """Pictures to what a record stores of them."""

    batch: int  # pictures per call; always the same number, so that one program serves

    def identity(self) -> dict[str, Any]:
        """What tells it from other encoders, for the manifest; JSON values."""
        ...

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """(batch, H, W, 3) uint8 → (batch, H/8, W/8, 2·c) float16: mean, log-variance."""
        ...


class TextEncoder(Protocol):
    """Prompts to embeddings."""

    def identity(self) -> dict[str, Any]:
        """As for pictures."""
        ...

    def __call__(self, prompts: list[str]) -> list[np.ndarray]:
        """Per prompt (l, d) bfloat16, real tokens only."""
        ...


@dataclasses.dataclass(frozen=True)
class Encoders:
    """The networks of a preparation. None: pixels are stored; captions are stored only."""

    pictures: PictureEncoder | None = None
    text: TextEncoder | None = None

    def identity(self) -> dict[str, Any]:
        """What the manifest says of them."""
        return {
            "pictures": self.pictures.identity() if self.pictures else {"kind": "pixels"},
            "text": self.text.identity() if self.text else None,
        }

    def __bool__(self) -> bool:
        return self.pictures is not None or self.text is not None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A source and what is to be made of it. Can be pickled and sent to workers.

    Attributes:
      source: what is read.
      fitting: sizes and tasks.
      held_out: share of the groups, and of the pictures without one, that is kept from training
        (0..1), see split.py.
      max_bad_share: share of bad records (0..1) above which the preparation stops.
      make_encoders: called once per process.
      held_out_names: what is held out in place of a share; empty: the share decides.
      spare_one: where the share takes nothing, one group or picture is held out all the same.
      training: of the manifest, see manifest.py; says what a config needs and decides nothing.

    Raises:
      ValueError: a share outside 0..1.
    """

    source: Source
    fitting: Fitting
    held_out: float
    max_bad_share: float
    make_encoders: Callable[[], Encoders] = Encoders
    held_out_names: frozenset[str] = frozenset()
    spare_one: bool = False
    training: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "encoder": "light",
            "text": {"kind": "hashed", "folder": "", "max_length": None},
        }
    )

    def __post_init__(self):
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must be at least 0 and below 1")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share={self.max_bad_share} must be in 0..1")

    @property
    def split(self) -> Split:
        """Which examples are held out."""
        return Split(self.held_out, self.held_out_names)

    def fields(self, encoders: Encoders) -> dict[str, Any]:
        """What determines the output, as JSON values: two runs with equal fields write the same
        bytes. The limit on bad records is not among them."""
        shards = self.source.shards()
        fields = {
            "format_version": FORMAT_VERSION,
            "source": self.source.describe(),
            "parts": len(shards),
            "parts_sha256": hashlib.sha256("\0".join(shards).encode()).hexdigest(),
            "tasks": self.fitting.tasks,
            "aspects": self.fitting.aspects,
            "tokens": self.fitting.tokens,
            "given": self.fitting.given,
            "own_tasks": definitions_of(self.fitting.definitions),
            "held_out": self.held_out,
            "held_out_names": text_hash(sorted(self.held_out_names)) if self.held_out_names else "",
            "spare_one": self.spare_one,
            "encoders": encoders.identity(),
            "versions": {name: version(name) for name in _PACKAGES},
        }
        return json.loads(json.dumps(fields, sort_keys=True))


def weights_hash(folder: Path, patterns: tuple[str, ...] = _WEIGHTS) -> str:
    """SHA-256 over the names and bytes of a model's files, wherever the folder lies."""
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    lines = [f"{file.name} {file_hash(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
