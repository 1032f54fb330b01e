"""Adapters of a LoRA run as a file that peft and diffusers read."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from onediff_jax.interop.names import to_name
from onediff_jax.interop.safetensors_io import SafetensorsWriter
from onediff_jax.models.lora import LoRA

STEM = "pytorch_lora_weights"
PREFIX = "transformer"


def write_adapter(folder: Path, adapters: dict[str, Any], lora: LoRA, *, dtype: str) -> Path:
    """Writes the adapters of a run into an existing folder; returns the file.

    A tensor is called transformer.layers.0.attention.wq.lora_A.weight, (rank, in), or lora_B,
    (out, rank). The file has no alpha: B is multiplied by alpha/rank, so that what reads it adds
    B·A as it is (an alpha equal to the rank, which is also the default of diffusers).

    Args:
      adapters: nested dict of `lora_a` (depth, in, rank) and `lora_b` (depth, rank, out).
      dtype: of the file.
    """
    tensors = {}
    for path, array in traverse_util.flatten_dict(adapters).items():
        letter, factor = {"lora_a": ("A", 1.0), "lora_b": ("B", lora.scale)}[path[-1]]
        for layer, matrix in enumerate(np.asarray(array)):
            module = to_name((*path[:-1], "kernel"), layer).removesuffix(".weight")
            tensors[f"{PREFIX}.{module}.lora_{letter}.weight"] = (matrix * factor).T
    shapes = {name: tensor.shape for name, tensor in sorted(tensors.items())}
    with SafetensorsWriter(folder, shapes, dtype, max_shard_bytes=2**62, stem=STEM) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return folder / f"{STEM}.safetensors"
