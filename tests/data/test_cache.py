"""Bounded memory: the same values, the newest kept, no more bytes than allowed."""

import pickle
import tracemalloc

import numpy as np
import pytest

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.cache import Cache, Cached, size_of


class Numbered:
    """Examples that know their index; counts how often each is made."""

    def __init__(self):
        self.reads = []

    def __len__(self):
        return 100

    def __getitem__(self, index: int) -> Encoded:
        self.reads.append(index)
        frames = tuple(np.full((8, 8, 16), index + f, np.float16) for f in range(2))
        return Encoded("depth2image", f"[[depth2image]] number {index}", frames)


def cached(size: float, name="a") -> tuple[Numbered, Cached, Cache]:
    source, cache = Numbered(), Cache(size)
    return source, Cached(source, lambda example: example, cache, name), cache


def test_made_once_and_equal():
    source, examples, _ = cached(1e6)
    assert len(examples) == 100
    for index in (3, 3, np.int64(3)):
        np.testing.assert_array_equal(examples[index].frames[1], np.full((8, 8, 16), 4, np.float16))
    assert source.reads == [3]


def test_least_recently_used_goes():
    one = size_of(Numbered()[0])
    source, examples, cache = cached(3 * one)
    for index in (0, 1, 2, 0, 3, 0, 1):  # 3 takes the room of 1
        assert examples[index].frames[0][0, 0, 0] == index
        assert cache.used <= 3 * one
    assert source.reads == [0, 1, 2, 3, 1]


def test_sources_do_not_mix():
    cache = Cache(1e6)
    first, second = (Cached(Numbered(), lambda e: e, cache, name) for name in ("a", "b"))
    assert first[1] is first[1] and first[1] is not second[1]


@pytest.mark.parametrize("size", [0, 10])
def test_no_room_keeps_nothing(size):
    source, examples, cache = cached(size)
    assert examples[5].frames[0][0, 0, 0] == 5 and examples[5].frames[0][0, 0, 0] == 5
    assert source.reads == [5, 5] and cache.used == 0


def test_another_process_starts_with_an_empty_one():
    _, examples, cache = cached(1e6)
    _ = examples[1]
    sent = pickle.loads(pickle.dumps(cache))
    assert cache.used > 0 and sent.used == 0 and sent.size == 1e6


def test_bytes_are_those_that_python_takes():
    examples = Cached(Numbered(), lambda e: e, cache := Cache(1e9), "a")
    tracemalloc.start()
    for index in range(100):
        _ = examples[index]
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.8 < cache.used / taken < 1.25
