"""A text encoder without learned weights: every word becomes a fixed pseudo-random vector.

Word vectors come from BLAKE2b, so they are the same everywhere. It takes prompts, not token ids,
so a pipeline that uses it has no tokenizer.
"""

import functools
import hashlib
import re

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from .own_code import OwnCode

# A task token such as [[depth2image]] is one word; so is a hex colour; punctuation stands alone.
WORD = re.compile(r"\[\[\w+\]\]|#[0-9a-f]{6}|\w+|[^\w\s]")
NEIGHBOUR = 0.5  # weight of the words before and after
TASK = 4.0  # length of a leading task token beside a word's 1


@functools.lru_cache(maxsize=65536)
def word_vector(word: str, dim: int) -> np.ndarray:
    """(dim,) float32 in ±√3 (unit variance) from the 16-bit little-endian digests of the word."""
    digests = [
        hashlib.blake2b(word.encode("utf-8"), digest_size=64, salt=i.to_bytes(8, "little")).digest()
        for i in range(-(-dim // 32))
    ]
    integers = np.frombuffer(b"".join(digests), dtype="<u2")[:dim].astype(np.float32)
    return ((integers + 0.5) / 32768.0 - 1.0) * np.float32(np.sqrt(3.0))


class HashedTextEncoder(OwnCode, ModelMixin, ConfigMixin):
    """Prompts → embeddings: word vector + ½ · the rotated vectors of both neighbours; a leading
    task token counts fourfold.

    Args:
      dim: width of an embedding (the transformer's caption channels).
      max_length: words per prompt unless a call says otherwise.
    """

    @register_to_config
    def __init__(self, dim: int, max_length: int):
        super().__init__()
        # Nothing is learned; it gives the module a device and a dtype. Offloading asks a parameter.
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def embed(self, prompt: str, max_length: int) -> np.ndarray:
        """(n, dim) float32 for the n ≤ max_length words of one prompt."""
        dim = self.config.dim
        words = WORD.findall(prompt.lower())[:max_length]
        vectors = np.array([word_vector(word, dim) for word in words], np.float32)
        vectors = vectors.reshape(len(words), dim)
        mixed = vectors.copy()
        mixed[1:] += NEIGHBOUR * np.roll(vectors[:-1], 1, axis=1)
        mixed[:-1] += NEIGHBOUR * np.roll(vectors[1:], -1, axis=1)
        mixed /= np.float32(np.sqrt(1 + 2 * NEIGHBOUR**2))
        if words and words[0].startswith("[["):
            mixed[0] *= TASK
        return mixed

    def forward(self, prompts: list[str], max_length: int | None = None):
        """Embeddings (b, max_length, dim) and mask (b, max_length) bool, True = a word.

        Longer prompts are cut; an empty one keeps one unmasked zero vector.
        """
        length = max_length or int(self.config.max_length)
        embeddings = np.zeros((len(prompts), length, self.config.dim), np.float32)
        mask = np.zeros((len(prompts), length), bool)
        for row, prompt in enumerate(prompts):
            words = self.embed(prompt, length)
            embeddings[row, : len(words)] = words
            mask[row, : max(len(words), 1)] = True
        embeddings = torch.from_numpy(embeddings).to(self.anchor.device, self.anchor.dtype)
        return embeddings, torch.from_numpy(mask).to(self.anchor.device)
