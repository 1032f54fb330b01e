"""Prepared folders in object stores (gs://, s3://, whatever fsspec reaches): whole files are copied
to a cache on this machine when a record of theirs is wanted, or soon will be.

    CACHE/HASH/manifest.json, index/…, records/…      as in the folder; HASH is of its address

CACHE is $XDG_CACHE_HOME/onediff_jax/buckets, by default below ~/.cache. Processes share it. Beyond
a size the files of records that were used least recently are removed.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onediff_jax.data.sources.files import open_binary

_STREAMS = 8  # files that are fetched at a time
_PIECE = 1 << 24  # bytes that a stream asks for at once


class BucketError(ValueError):
    """A file of a store that cannot be had."""


def cache_folder() -> Path:
    """Where copies of stores' files lie."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "onediff_jax" / "buckets"


class Bucket:
    """A prepared folder in a store, as files on this machine.

    Args:
      address: of the folder, as gs://bucket/prepared.
      limit: bytes of records' files that stay in the cache, all folders together.
    """

    def __init__(self, address: str, limit: float = float("inf")):
        self.address, self.limit = address.rstrip("/"), limit
        name = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        self.folder = cache_folder() / name
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._coming: set[str] = set()  # files that are on their way ahead of their use

    def __reduce__(self):
        return Bucket, (self.address, self.limit)

    @functools.cached_property
    def _pool(self) -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(_STREAMS, "bucket")

    def manifest(self) -> Path:
        """A new copy of the folder's manifest; where it has none, a folder without one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._copy("manifest.json", None)
        except FileNotFoundError:
            (self.folder / "manifest.json").unlink(missing_ok=True)
        return self.folder

    def file(self, facts: dict[str, Any]) -> Path:
        """The copy of a file of the manifest, made where there is none of its size.

        Raises BucketError where it cannot be had, or has another size.
        """
        path = self.folder / facts["file"]
        with self._lock:
            lock = self._locks.setdefault(facts["file"], threading.Lock())
        with lock:
            if self._is_whole(path, facts):
                with contextlib.suppress(FileNotFoundError):  # another process removed it just now
                    os.utime(path)
                    return path
            try:
                self._copy(facts["file"], facts["bytes"])
            except OSError as error:
                raise BucketError(f"{self.address}/{facts['file']}: {error}") from error
            self._make_room(path)
        return path

    def prefetch(self, facts: dict[str, Any]) -> None:
        """Begins to copy a file that will be wanted, where that has not begun."""
        name = facts["file"]
        with self._lock:
            if name in self._coming or (self.folder / name).exists():
                return
            self._coming.add(name)
        job = self._pool.submit(self.file, facts)
        # What fails is asked for again, and told, when it is read.
        job.add_done_callback(lambda _: self._coming.discard(name))

    @staticmethod
    def _is_whole(path: Path, facts: dict[str, Any]) -> bool:
        try:
            return path.stat().st_size == facts["bytes"]
        except FileNotFoundError:
            return False

    def _copy(self, name: str, size: int | None) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with open_binary(f"{self.address}/{name}") as there, beside.open("wb") as here:
                while piece := there.read(_PIECE):
                    here.write(piece)
                found = here.tell()
            if size is not None and found != size:
                raise BucketError(f"{self.address}/{name} has {found} bytes, not {size}")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def _make_room(self, newest: Path) -> None:
        """Removes files of records, those used least recently first, until the rest fits."""
        if self.limit == float("inf"):
            return
        found = sorted(_used(cache_folder()))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self.limit:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size


def _used(root: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of the last use, bytes, path) of the records' files in the cache."""
    for path in root.glob("*/records/*/*.array_record"):
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            yield facts.st_mtime, facts.st_size, path
