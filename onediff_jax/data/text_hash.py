"""A text encoder without weights: every word becomes a fixed pseudo-random vector (numpy only).

It stands in for T5 where nothing can be downloaded. Word vectors come from BLAKE2b, so they are the
same bits in every process, on every machine, in every version of Python.
"""

import functools
import hashlib
import re
from typing import Protocol

import numpy as np

# A task token such as [[depth2image]] is one word; so is a hex colour; punctuation stands alone.
_WORD = re.compile(r"\[\[\w+\]\]|#[0-9a-f]{6}|\w+|[^\w\s]")
_NEIGHBOUR = 0.5  # weight of the words before and after: binds "red" to "cube" in "a red cube"
# Length of a task token's vector beside a word's 1: else the mean over a prompt, which tells every
# layer what is asked, would hardly show the task.
_TASK = 4.0


def split_words(prompt: str) -> list[str]:
    """Lower-cased words, task tokens, hex colours and punctuation marks of a prompt, in order."""
    return _WORD.findall(prompt.lower())


@functools.lru_cache(maxsize=65536)
def word_vector(word: str, dim: int) -> np.ndarray:
    """(dim,) float32, uniform with zero mean and unit variance, determined by the word alone."""
    blocks = []
    for block in range(-(-2 * dim // 64)):
        salt = block.to_bytes(8, "little")
        blocks.append(hashlib.blake2b(word.encode("utf-8"), digest_size=64, salt=salt).digest())
    integers = np.frombuffer(b"".join(blocks)[: 2 * dim], dtype="<u2").astype(np.float32)
    return ((integers + 0.5) / 32768.0 - 1.0) * np.float32(np.sqrt(3.0))


class TextEncoder(Protocol):
    """What a row's prompts go through: embeddings, or ids for an encoder on the devices."""

    def __call__(self, prompts: list[str], /) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (b, l, d) or token ids (b, l), and a mask (b, l) bool, True = a token."""
        ...


class HashedTextEncoder:
    """Prompts to embeddings: word vector + ½ · (rotated vectors of both neighbours), unit variance.

    The neighbours' vectors are rotated by one place in opposite directions, so that order shows. A
    leading task token, such as [[depth2image]], counts fourfold. Longer prompts are cut at
    `max_length` words, as a tokenizer would.

    Args:
      dim: width of an embedding (the transformer's caption channels).
      max_length: words per prompt; shorter ones are padded with zeros and masked.
    """

    def __init__(self, dim: int, max_length: int):
        if dim <= 0 or max_length <= 0:
            raise ValueError(f"{dim=} and {max_length=} must be positive")
        self.dim = dim
        self.max_length = max_length

    def embed(self, prompt: str) -> np.ndarray:
        """(n, dim) float32, the n ≤ max_length words of one prompt; (0, dim) for an empty one."""
        words = split_words(prompt)[: self.max_length]
        if not words:
            return np.zeros((0, self.dim), np.float32)
        vectors = np.stack([word_vector(word, self.dim) for word in words])
        mixed, weighted = vectors.copy(), _NEIGHBOUR * vectors
        mixed[1:, 1:] += weighted[:-1, :-1]  # np.roll does the same, three times as slowly
        mixed[1:, 0] += weighted[:-1, -1]
        mixed[:-1, :-1] += weighted[1:, 1:]
        mixed[:-1, -1] += weighted[1:, 0]
        mixed /= np.float32(np.sqrt(1 + 2 * _NEIGHBOUR**2))
        if words[0].startswith("[["):
            mixed[0] *= _TASK
        return mixed

    def __call__(self, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (b, max_length, dim) float32 and mask (b, max_length) bool, True = a word.

        An empty prompt keeps one unmasked zero vector, so that attention over it is defined.
        """
        embeddings = np.zeros((len(prompts), self.max_length, self.dim), np.float32)
        mask = np.zeros((len(prompts), self.max_length), bool)
        for row, prompt in enumerate(prompts):
            words = self.embed(prompt)
            embeddings[row, : len(words)] = words
            mask[row, : max(len(words), 1)] = True
        return embeddings, mask
