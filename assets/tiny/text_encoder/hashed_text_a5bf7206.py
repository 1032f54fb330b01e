"""A text encoder without learned weights: every word becomes a fixed pseudo-random vector.

Word vectors come from BLAKE2b, so they are the same everywhere. It takes prompts, not token ids,
so a pipeline that uses it has no tokenizer.
"""

import functools
import hashlib
import importlib.util
import json
import re
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin


# -------------------------------------------------------------------------------------------------
# What makes a saved model or pipeline carry the code of its class (standard library only).
# -------------------------------------------------------------------------------------------------

# The text of the exported file these classes were loaded from, set at its end; None elsewhere.
CODE: str | None = None


class OwnCode:
    """Writes the file of its class beside the configuration, as it was when the class was loaded.

    Comes before ModelMixin, ConfigMixin or DiffusionPipeline in the bases. What is uploaded by
    `push_to_hub` has the file too: the configuration is written before.
    """

    config: Any  # diffusers' record of the arguments
    # What diffusers' AutoModel is told, for the models that it shall find.
    _auto_class: ClassVar[str | None] = None
    _carries_code: ClassVar[bool] = True

    def save_config(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Writes the file of the class, where it came from one, then the configuration."""
        if CODE is not None:
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{file_stem(type(self))}.py").write_text(CODE, encoding="utf-8")
        library: Any = super()
        library.save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def to_json_string(self) -> str:
        """The configuration; AutoModel's entry is there in every version of diffusers."""
        library: Any = super()
        fields = json.loads(library.to_json_string())
        if self._auto_class:
            name = f"{file_stem(type(self))}.{type(self).__name__}"
            fields["auto_map"] = {self._auto_class: name}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """AutoModel's entry is for finding the class, not for building it: no warning about it."""
        config_dict = {key: value for key, value in config_dict.items() if key != "auto_map"}
        library: Any = super()
        return library.extract_init_dict(config_dict, **kwargs)


def file_stem(kind: type) -> str:
    """The name, without .py, of the file a class was loaded from."""
    return kind.__module__.split(".")[-1]


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


CODE = Path(__file__).read_text(encoding="utf-8")
if __name__.startswith("diffusers_modules."):  # a second file of this name gets a module of its own
    sys.modules[__name__] = types.ModuleType(__name__)
    vars(sys.modules[__name__]).update(globals())
    Path(importlib.util.cache_from_source(__file__)).unlink(missing_ok=True)
