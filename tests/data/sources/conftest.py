"""Small real files: what every test of the sources writes."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onediff_jax.data.sources import BadRecord, RawExample, open_source


def photo(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    """(height, width, 3) uint8, smooth, different for every seed."""
    rng = np.random.default_rng(seed)
    corners = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return np.asarray(corners.resize((width, height), Image.Resampling.BICUBIC))


def encode(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """The bytes of a picture file."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class Files:
    """Writes files below a folder."""

    photo = staticmethod(photo)
    encode = staticmethod(encode)

    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, name: str, data) -> str:
        """Bytes as they are, text as UTF-8, an array as PNG, anything else as JSON."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, np.ndarray):
            data = encode(data)
        elif isinstance(data, str):
            data = data.encode()
        elif not isinstance(data, bytes):
            data = json.dumps(data).encode()
        path.write_bytes(data)
        return str(path)


class Result:
    """All that a source yields."""

    def __init__(self, source):
        self.source = source
        shards = source.shards()
        assert len(set(shards)) == len(shards)
        self.records = [record for shard in shards for record in source.read(shard)]
        again = [record for shard in source.shards() for record in source.read(shard)]
        assert [r.key for r in again] == [r.key for r in self.records]  # always the same order
        self.good = [r for r in self.records if isinstance(r, RawExample)]
        self.bad = [r for r in self.records if isinstance(r, BadRecord)]
        assert len({r.key for r in self.good}) == len(self.good)
        json.dumps(source.describe())

    @property
    def reasons(self) -> dict[str, str]:
        return {record.key: record.reason for record in self.bad}

    @property
    def by_key(self) -> dict[str, RawExample]:
        return {record.key: record for record in self.good}


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def read():
    """read(format, path, **options) → Result."""
    return lambda format, path, **options: Result(open_source(format, str(path), **options))
