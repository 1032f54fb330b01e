"""Examples of the embedded world, kept in bounded memory once they are rendered and encoded, and
the views that several of them are made of.
"""

import collections
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, SupportsIndex, TypeVar

from onediff_jax.data.bundle import Encoded

# Bytes of Python's objects around the numbers, of one example and of one frame (measured with
# sys.getsizeof: the example, its tuple, its entry here; the array's header).
_EXAMPLE, _FRAME = 700, 130

T = TypeVar("T")


class Cache:
    """What was used least recently goes when there is no room; safe for several threads.

    Args:
      size: bytes that what is kept may take; 0 keeps nothing.

    Attributes: size.
    """

    def __init__(self, size: float):
        self.size, self._used = size, 0
        self._kept: collections.OrderedDict[Hashable, tuple[Any, int]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return Cache, (self.size,)  # a reading process starts with an empty one

    def get(self, key: Hashable, make: Callable[[], T], size_of: Callable[[T], int]) -> T:
        """What is kept under that key, made where nothing is; `size_of` tells its bytes."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found[0]
        made = make()  # outside the lock: the threads render side by side
        size = size_of(made)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made, size
                self._used += size
            while self._used > self.size:
                self._used -= self._kept.popitem(last=False)[1][1]
        return made

    @property
    def used(self) -> int:
        """Bytes that all it keeps takes."""
        return self._used


def size_of(example: Encoded) -> int:
    """Bytes of memory that an example takes, Python's objects included."""
    text = 0 if example.text is None else example.text.nbytes
    frames = sum(frame.nbytes + _FRAME for frame in example.frames)
    return _EXAMPLE + len(example.prompt) + frames + text


class Cached:
    """A random-access source whose encoded examples are kept in a cache.

    Rendering costs more than a training step takes for a small model; the dataset is finite, so
    later epochs are free as far as the cache reaches. The values are the same with and without it.

    Args:
      name: tells this source from the others of the cache.
    """

    def __init__(
        self, source: Sequence[Any], encode: Callable[[Any], Encoded], cache: Cache, name: Hashable
    ):
        self._source, self._encode, self._cache, self._name = source, encode, cache, name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Encoded:
        index = int(index)
        make = lambda: self._encode(self._source[index])  # noqa: E731
        return self._cache.get((self._name, index), make, size_of)
