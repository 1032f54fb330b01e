"""Adapters (LoRA) of the pipeline: diffusers' own methods, and files in ComfyUI's form."""

from pathlib import Path

from diffusers.loaders import CogVideoXLoraLoaderMixin  # pyright: ignore[reportPrivateImportUsage]
from safetensors import safe_open
from safetensors.torch import load_file

COMFYUI_PREFIX = "diffusion_model."


class Adapters(CogVideoXLoraLoaderMixin):
    """load_lora_weights, set_adapters, fuse_lora, unload_lora_weights and the like.

    They are diffusers' methods for a pipeline whose transformer alone has adapters, whose home
    there is called after another model.
    """

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict, **kwargs):
        """Tensors named transformer.….lora_A.weight, from that form or ComfyUI's."""
        tensors = _with_lengths(pretrained_model_name_or_path_or_dict, kwargs.get("weight_name"))
        found = super().lora_state_dict(tensors, **kwargs)
        if isinstance(found, tuple):
            return from_comfyui(found[0]), *found[1:]
        return from_comfyui(found)


def _with_lengths(where, weight_name):
    """The tensors of a local file in ComfyUI's form with the lengths of DoRA, which diffusers would
    leave out (with a warning); everything else as it was given."""
    if isinstance(where, dict):
        return from_comfyui(where)
    file = Path(where) / weight_name if weight_name and Path(where).is_dir() else Path(where)
    if file.suffix != ".safetensors" or not file.is_file():
        return where
    with safe_open(file, "pt") as opened:
        lengths = any(name.endswith(".dora_scale") for name in opened.keys())  # noqa: SIM118
    return from_comfyui(load_file(file)) if lengths else where


def from_comfyui(tensors: dict) -> dict:
    """diffusion_model.….lora_A or lora_down, with an alpha → transformer.….lora_A, B scaled.

    The lengths of DoRA, dora_scale there, are lora_magnitude_vector.

    Tensors of another form are returned as they are.
    """
    if not any(name.startswith(COMFYUI_PREFIX) for name in tensors):
        return tensors
    found = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(COMFYUI_PREFIX)
        name = name.replace(".lora_down.", ".lora_A.").replace(".lora_up.", ".lora_B.")
        found[f"transformer.{name}"] = tensor
    for name in [name for name in found if name.endswith(".alpha")]:
        module, alpha = name.removesuffix(".alpha"), found.pop(name)
        if f"{module}.dora_scale" in found:
            length = found.pop(f"{module}.dora_scale").flatten()
            found[f"{module}.lora_magnitude_vector"] = length
        rank = found[f"{module}.lora_A.weight"].shape[0]
        found[f"{module}.lora_B.weight"] = found[f"{module}.lora_B.weight"] * (float(alpha) / rank)
    return found
