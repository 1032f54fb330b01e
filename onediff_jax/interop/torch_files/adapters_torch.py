"""Adapters (LoRA) of the pipeline: diffusers' own methods, and files in ComfyUI's form."""

from diffusers.loaders import CogVideoXLoraLoaderMixin  # pyright: ignore[reportPrivateImportUsage]

COMFYUI_PREFIX = "diffusion_model."


class Adapters(CogVideoXLoraLoaderMixin):
    """load_lora_weights, set_adapters, fuse_lora, unload_lora_weights and the like.

    They are diffusers' methods for a pipeline whose transformer alone has adapters, whose home
    there is called after another model.
    """

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict, **kwargs):
        """Tensors named transformer.….lora_A.weight, from that form or ComfyUI's."""
        found = super().lora_state_dict(pretrained_model_name_or_path_or_dict, **kwargs)
        if isinstance(found, tuple):
            return from_comfyui(found[0]), *found[1:]
        return from_comfyui(found)


def from_comfyui(tensors: dict) -> dict:
    """diffusion_model.….lora_A or lora_down, with an alpha → transformer.….lora_A, B scaled.

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
        rank = found[f"{module}.lora_A.weight"].shape[0]
        found[f"{module}.lora_B.weight"] = found[f"{module}.lora_B.weight"] * (float(alpha) / rank)
    return found
