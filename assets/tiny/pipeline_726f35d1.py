"""OneDiffusion for diffusers: text to image, any image ↔ condition, identity, views and cameras.

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe("[[text2image]] a red cube").images[0]

Prompts carry their task token. Every task is a sequence of frames, target first; the frames whose
`denoise_mask` is 1 start as noise, the others are conditions. Noise is at t = 1000 and data at 0;
latents are scaling_factor · z (no shift). Axes: b batch, f frames, c channels, h and w latent size.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import math
import shutil
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import CogVideoXLoraLoaderMixin
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_512_BIN
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from safetensors import safe_open
from safetensors.torch import load_file


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


# -------------------------------------------------------------------------------------------------
# What makes a saved pipeline carry the code of its class and of its components' classes.
# -------------------------------------------------------------------------------------------------

class PipelineCode(OwnCode):
    """OwnCode for pipelines: model_index.json names the file of every class that has one."""

    components: Any
    register_modules: Any

    def to_json_string(self) -> str:
        """model_index.json; its lists of a file and a class are how diffusers finds the classes."""
        index = json.loads(super().to_json_string())
        index["_class_name"] = [file_stem(type(self)), type(self).__name__]
        for name, model in self._own_models().items():
            index[name] = [file_stem(type(model)), type(model).__name__]
            if getattr(model, "_auto_class", None):
                # AutoModel looks here, not in the subfolder it is asked for.
                index["auto_map"] = {model._auto_class: ".".join(index[name])}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves the pipeline, so that it loads as this one did; see DiffusionPipeline.

        Components wrapped by torch.compile or peft are saved as what they wrap.
        """
        wrapped = {
            name: part for name, part in self.components.items() if part is not unwrapped(part)
        }
        for name, part in self.components.items():
            if part is not None and self.config[name][0] is None:  # was set to None, and again
                self.register_modules(**{name: part})
        for name, model in self._own_models().items():
            if not getattr(model, "_carries_code", False):  # another project's class
                target = Path(save_directory) / name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(inspect.getfile(type(model)), target)
        try:
            for name, part in wrapped.items():
                setattr(self, name, unwrapped(part))
            library: Any = super()
            library.save_pretrained(save_directory, *args, **kwargs)
        finally:
            for name, part in wrapped.items():
                setattr(self, name, part)

    def _own_models(self) -> dict:
        """The components, unwrapped, whose classes are no library's."""
        parts = {name: unwrapped(part) for name, part in self.components.items()}
        libraries = ("diffusers", "transformers", "builtins")
        return {
            name: part
            for name, part in parts.items()
            if type(part).__module__.split(".")[0] not in libraries
        }


def unwrapped(model):
    """The model inside the wrapper of torch.compile (`_orig_mod`) or peft (`get_base_model`)."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


# -------------------------------------------------------------------------------------------------
# Adapters (LoRA) of the pipeline: diffusers' own methods, and files in ComfyUI's form.
# -------------------------------------------------------------------------------------------------

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


# -------------------------------------------------------------------------------------------------
# Orbit cameras, their ray maps, and cameras back from ray maps (numpy only).
#
# PyTorch3D's convention: row vectors, `x_cam = x_world @ R + T`, camera axes x left, y up, z into
# the scene. Focal lengths are in units of the smaller image side; where intrinsics (3, 3) or
# (N, 3, 3) stand in place of one focal length, their fx, fy, cx, cy are too. A ray is its unit
# direction and its moment (origin × direction), six numbers per latent pixel. World: the first
# camera's frame.
# -------------------------------------------------------------------------------------------------

RAY_SCALE = 1.658  # brings rays to the scale of image latents


def orbit_rays(azimuths, elevations, distances, focal: float, size: tuple[int, int]) -> np.ndarray:
    """Rays (N, h, w, 6) float32 of orbit cameras, the first of which is the world's frame."""
    return camera_rays(*rebase(*orbit_cameras(azimuths, elevations, distances)), focal, size)


def orbit_cameras(azimuths, elevations, distances) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and T (N, 3) of cameras that look at the origin of a z-up world.

    Args:
      azimuths, elevations: degrees, (N,); azimuth 0 is +x, 90 is +y; positive elevations look down.
      distances: world units, (N,), positive.
    """
    azimuth, elevation = np.deg2rad(azimuths), np.deg2rad(elevations)
    distances = np.asarray(distances, np.float64)
    if not (distances > 0).all():
        raise ValueError(f"distances must be positive, got {distances.min()}")
    zero, flat = np.zeros_like(azimuth), np.cos(elevation)
    left = np.stack([np.sin(azimuth), -np.cos(azimuth), zero], -1)
    outward = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], -1)
    rotations = np.stack([left, np.cross(left, outward), -outward], -1)
    # The origin is straight ahead of every camera, at its distance.
    return rotations, distances[:, None] * np.array([0.0, 0.0, 1.0])


def rebase(rotations, translations) -> tuple[np.ndarray, np.ndarray]:
    """The same cameras in the frame of the first: R[0] = identity, T[0] = 0."""
    relative = rotations[0].T @ rotations
    return relative, translations - np.einsum("i,nij->nj", translations[0], relative)


def cameras_from_c2w(matrices) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and T (N, 3) of camera-to-world matrices (N, 4, 4) of NeRF's convention.

    Their columns are the camera's x (right), y (up) and z (backward) in the world, then its centre.
    """
    matrices = np.asarray(matrices, np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4):
        raise ValueError(f"camera-to-world matrices {matrices.shape} must be (N, 4, 4)")
    rotations = matrices[:, :3, :3] * np.array([-1.0, 1.0, -1.0])
    wrong = np.abs(np.swapaxes(rotations, 1, 2) @ rotations - np.eye(3)).max((1, 2)) > 1e-3
    if wrong.any():
        raise ValueError(f"camera-to-world matrices {np.flatnonzero(wrong).tolist()} do not rotate")
    return rotations, -np.einsum("ni,nij->nj", matrices[:, :3, 3], rotations)


def camera_rays(rotations, translations, focal, size: tuple[int, int]) -> np.ndarray:
    """Rays (N, h, w, 6) float32 through the pixel centres of (h, w) latent images."""
    local = _local_directions(focal, size, len(rotations))
    directions = np.einsum("nhwj,nij->nhwi", local, rotations)
    centres = -np.einsum("nij,nj->ni", rotations, translations)
    moments = np.cross(centres[:, None, None], directions)
    return np.concatenate([directions, moments], -1).astype(np.float32)


def ray_frames(rays: np.ndarray) -> np.ndarray:
    """Rays (N, h, w, 6) → latent frames (N, 16, h, w): the six channels repeated, times 1.658."""
    frames = RAY_SCALE * np.concatenate([rays, rays, rays[..., :4]], -1)
    return np.moveaxis(frames, -1, 1)


def rays_from_frames(frames: np.ndarray) -> np.ndarray:
    """Latent frames (N, 16, h, w) → rays (N, h, w, 6), repeated channels averaged."""
    frames = np.moveaxis(np.asarray(frames, np.float64), 1, -1) / RAY_SCALE
    total = frames[..., :6] + frames[..., 6:12]
    total[..., :4] += frames[..., 12:]
    return total / np.array([3, 3, 3, 3, 2, 2])


def cameras_from_rays(rays: np.ndarray, focal) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and T (N, 3) that best explain rays (N, h, w, 6), in the world of the rays.

    The rotation aligns the directions with those the focal length gives (SVD); the centre is the
    point nearest to all rays.
    """
    rays = np.asarray(rays, np.float64)
    local = _local_directions(focal, rays.shape[1:3], len(rays))
    norms = np.linalg.norm(rays[..., :3], axis=-1, keepdims=True)
    if not (norms > 1e-6).all():
        raise ValueError("rays with a direction of zero length, or not finite")
    unit, moments = rays[..., :3] / norms, rays[..., 3:]
    left, _, right = np.linalg.svd(np.einsum("nhwi,nhwj->nij", unit, local))
    left[:, :, 2] *= np.linalg.det(left @ right)[:, None]  # a rotation, never a mirror image
    rotations = left @ right
    # direction × moment is the point of a ray nearest to the origin.
    projections = np.eye(3) - unit[..., :, None] * unit[..., None, :]
    points = np.einsum("nhwij,nhwj->ni", projections, np.cross(unit, moments))
    centres = np.linalg.solve(projections.sum((1, 2)), points[..., None])[..., 0]
    return rotations, -np.einsum("ni,nij->nj", centres, rotations)


def _local_directions(focal, size: tuple[int, int], count: int) -> np.ndarray:
    """(count, h, w, 3) unit directions through the pixel centres, in camera axes."""
    centre = np.array([size[1], size[0]]) / (2 * min(size))  # of the picture: (x, y)
    if np.ndim(focal) == 0:
        focal = np.diag([focal, focal, 1.0])
        focal[:2, 2] = centre
    intrinsics = np.asarray(focal, np.float64)
    if intrinsics.shape not in ((3, 3), (count, 3, 3)):
        raise ValueError(f"intrinsics {intrinsics.shape} must be (3, 3) or ({count}, 3, 3)")
    intrinsics = np.broadcast_to(intrinsics, (count, 3, 3))
    lengths = intrinsics[:, [0, 1], [0, 1]]
    if not ((lengths > 0) & (lengths < 30)).all():
        raise ValueError(
            f"focal lengths must be positive and in units of the smaller image side, such as"
            f" 1.3887, not pixels; got {lengths.min():g}..{lengths.max():g}"
        )
    # x grows to the left and y upward, from the picture's centre.
    axes = [np.linspace(n - 1, 1 - n, n) / (min(size) * 2) for n in (size[1], size[0])]
    offsets = intrinsics[:, :2, 2] - centre
    x, y = ((axes[i] + offsets[:, i, None]) / lengths[:, i, None] for i in range(2))
    shape = (count, *size)
    planes = (np.broadcast_to(x[:, None, :], shape), np.broadcast_to(y[:, :, None], shape))
    plane = np.stack([*planes, np.ones(shape)], -1)
    return plane / np.linalg.norm(plane, axis=-1, keepdims=True)


# -------------------------------------------------------------------------------------------------
# Captions: from prompts, or embeddings made earlier, to what the transformer reads.
# -------------------------------------------------------------------------------------------------

T5_LENGTH = 300  # tokens that captions are padded or cut to
Text = tuple[torch.Tensor, torch.Tensor]  # features (b, l, d), mask (b, l)


class Captions:
    """The part of the pipeline that encodes prompts; needs text_encoder and tokenizer alone."""

    text_encoder: Any
    tokenizer: Any
    _execution_device: Any

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        device=None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        max_length: int | None = None,
    ):
        """Features and masks of prompts and of what guidance leads away from.

        A call of the pipeline takes the four under the same names, in place of prompts: encode,
        free the text encoder, sample.

        Args:
          prompt: one or a batch; or prompt_embeds (b, l, d) with prompt_attention_mask (b, l).
          do_classifier_free_guidance: False: the negative ones are None.
          negative_prompt: one, one for several prompts each, or None for the empty one; or
            negative_prompt_embeds with negative_prompt_attention_mask.
          num_images_per_prompt: every row is repeated so often.
          device: default: where the pipeline computes.
          max_length: caption tokens; default 300 for T5, the encoder's own for hashed text.

        Raises:
          ValueError: neither or both of prompts and embeddings, embeddings without a mask, or
            numbers of prompts that do not fit.
        """
        device = device or self._execution_device
        given = _given("prompt", prompt, prompt_embeds, prompt_attention_mask)
        if given is not None:
            text = given
        elif prompt is not None:
            text = self._encode_texts("prompt", _listed(prompt), max_length, device)
        else:
            raise ValueError("give prompt, or prompt_embeds with prompt_attention_mask")
        null = (None, None)
        if do_classifier_free_guidance:
            name = "negative_prompt"
            null = _given(
                name, negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask
            )
            texts = _listed("" if negative_prompt is None else negative_prompt)
            null = null or self._encode_texts(name, texts, max_length, device)
            if not len(null[0]) or len(text[0]) % len(null[0]):
                raise ValueError(f"{len(null[0])} negative prompts for {len(text[0])} prompts")
            null = _repeated(null, len(text[0]) // len(null[0]) * num_images_per_prompt, device)
        text = _repeated(text, num_images_per_prompt, device)
        prompt_embeds, prompt_attention_mask = text
        negative_prompt_embeds, negative_prompt_attention_mask = null
        return (
            prompt_embeds,
            prompt_attention_mask,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
        )

    def _encode_texts(self, name: str, texts: list[str], max_length, device) -> Text:
        if self.text_encoder is None:
            raise ValueError(
                f"this pipeline has no text_encoder: give {name}_embeds and {name}_attention_mask,"
                " as encode_prompt returns them"
            )
        if self.tokenizer is None:
            embeds, mask = self.text_encoder(texts, max_length)
            return embeds.to(device), mask.to(device)
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=max_length or T5_LENGTH,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        embeds = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return embeds, tokens.attention_mask


def _given(name: str, prompt, embeds, mask) -> Text | None:
    if embeds is None:
        return None
    if prompt is not None:
        raise ValueError(f"give {name} or {name}_embeds, not both")
    if mask is None:
        raise ValueError(f"{name}_embeds needs {name}_attention_mask: which tokens are no padding")
    return embeds, mask


def _listed(prompt: str | Sequence[str]) -> list[str]:
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"prompts must be strings, got {[type(text).__name__ for text in texts]}")
    return texts


def _repeated(text: Text, times: int, device) -> Text:
    features, mask = (tensor.to(device).repeat_interleave(times, dim=0) for tensor in text)
    return features, mask


# -------------------------------------------------------------------------------------------------
# The sampling loop: steps of a flow's scheduler over frames of which some are known.
#
# Noise is at σ = 1 (t = 1000), data at σ = 0; the network predicts ε − x. Axes: b batch, f frames,
# c channels, h and w latent size, l caption length, d caption width.
# -------------------------------------------------------------------------------------------------

def set_schedule(scheduler, image_seq_len: float, num_inference_steps: int, device) -> torch.Tensor:
    """Sets the scheduler to n steps from σ = 1 to 0 and returns their timesteps.

    Longer images get more of the noisy end: the shift μ is linear in the tokens to denoise. A
    scheduler that takes no sigmas (Heun, DPM++) makes its own steps, with μ where it takes that.

    Raises:
      ValueError: no steps, or a scheduler that does not take the velocity of a flow.
    """
    if num_inference_steps < 1:
        raise ValueError(f"{num_inference_steps=} must be positive")
    kind, config = type(scheduler).__name__, scheduler.config
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise ValueError(
            f"scheduler {kind} expects {config['prediction_type']!r}, and this model predicts a"
            f" flow's velocity: {kind}.from_config(pipe.scheduler.config, use_flow_sigmas=True,"
            " prediction_type='flow_prediction')"
        )
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    options = {"device": device}
    if "sigmas" in accepted:
        options["sigmas"] = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
    else:
        options["num_inference_steps"] = num_inference_steps
    if config.get("use_dynamic_shifting") and "mu" in accepted:
        span = config.get("max_image_seq_len", 4096) - config.get("base_image_seq_len", 256)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        past = image_seq_len - config.get("base_image_seq_len", 256)
        options["mu"] = low + (high - low) / span * past
    scheduler.set_timesteps(**options)
    return scheduler.timesteps


@torch.no_grad()
def denoise(
    pipe,
    noise: torch.Tensor,
    conditions: torch.Tensor,
    denoise_mask: Sequence[int],
    text: tuple[torch.Tensor, torch.Tensor],
    null_text: tuple[torch.Tensor, torch.Tensor] | None = None,
    *,
    guidance: float = 4.0,
    num_inference_steps: int = 50,
    eta: float = 0.0,
    generator=None,
    noise_scale: float | None = None,
    scale_factor: float = 1.0,
    scale_watershed: float = 1.0,
    callback: Callable | None = None,
    callback_steps: int = 1,
    callback_on_step_end: Callable | None = None,
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
) -> torch.Tensor:
    """From noise to latents, both (b, f, c, h, w), float32 throughout.

    Args:
      pipe: whose transformer, scheduler and progress bar to use. Its `_guidance_scale`, set to
        `guidance`, and its `_interrupt` are read in every step: callbacks may change them.
      conditions: clean latents like noise; read where denoise_mask (f,) is 0.
      text, null_text: features (b, l, d) and mask (b, l); null_text only when guidance > 1.
      guidance: v = v_null + guidance·(v − v_null) where it exceeds 1.
      eta, generator: for schedulers whose steps take them.
      noise_scale: multiplies the number of tokens that shifts the schedule; default 1.
      scale_factor, scale_watershed: stretch of the positions, see NextDiT.
      callback: called as (step, timestep, latents) every callback_steps steps.
      callback_on_step_end: called as (pipe, step, timestep, tensors) and may return tensors to put
        in place of those named; a PipelineCallback names its own.
    """
    if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
        callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
    unknown = set(callback_on_step_end_tensor_inputs) - set(pipe._callback_tensor_inputs)
    if unknown:
        raise ValueError(f"{sorted(unknown)} not among {pipe._callback_tensor_inputs}")
    if callback is not None and callback_steps < 1:
        raise ValueError(f"{callback_steps=} must be positive")
    if guidance > 1 and null_text is None:
        raise ValueError(f"{guidance=} needs null_text")
    device = noise.device
    mask = torch.tensor([bool(m) for m in denoise_mask], device=device)
    if not mask.any():
        raise ValueError(f"denoise_mask={list(denoise_mask)} leaves nothing to generate")
    keep = mask[None, :, None, None, None]
    conditions = conditions.to(device, torch.float32)
    latents = torch.where(keep, noise.float(), conditions)
    patch = pipe.transformer.config.patch_size[-1]
    tokens = int(mask.sum()) * (noise.shape[3] // patch) * (noise.shape[4] // patch)
    tokens *= 1.0 if noise_scale is None else noise_scale
    timesteps = set_schedule(pipe.scheduler, tokens, num_inference_steps, device)
    stretch = {"scale_factor": scale_factor, "scale_watershed": scale_watershed}
    takes = inspect.signature(pipe.scheduler.step).parameters
    extra = {k: v for k, v in (("eta", eta), ("generator", generator)) if k in takes}
    tensors = {"prompt_embeds": text[0], "negative_prompt_embeds": null_text and null_text[0]}
    pipe._guidance_scale, pipe._num_timesteps, pipe._interrupt = guidance, len(timesteps), False
    if hasattr(pipe.transformer, "_reset_stateful_cache"):  # a call that ended early left its own
        pipe.transformer._reset_stateful_cache()
    with pipe.progress_bar(total=len(timesteps)) as progress:
        for step, t in enumerate(timesteps):
            if pipe._interrupt:
                continue
            # Conditions get the schedule's last timestep, as clean as the network has seen.
            times = torch.where(mask, t, timesteps[-1])[None]
            told = (tensors["prompt_embeds"], text[1])
            null = null_text and (tensors["negative_prompt_embeds"], null_text[1])
            velocity = _velocity(pipe, latents, times, told, null, stretch)
            latents = pipe.scheduler.step(velocity, t, latents, **extra, return_dict=False)[0]
            if callback_on_step_end is not None:
                tensors["latents"] = latents
                named = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                tensors.update(callback_on_step_end(pipe, step, t, named) or {})
                latents = tensors["latents"]
            latents = torch.where(keep, latents, conditions)
            if callback is not None and step % callback_steps == 0:
                callback(step, t, latents)
            progress.update()
    return latents


def _velocity(pipe, latents, times, text, null_text, stretch) -> torch.Tensor:
    """The guided velocity (b, f, c, h, w) float32."""
    guided = pipe._guidance_scale > 1
    if guided:
        latents = torch.cat([latents, latents])
        text = [torch.cat(pair) for pair in zip(null_text, text, strict=True)]
    if len(text[0]) != len(latents):
        raise ValueError(f"prompt_embeds of {len(text[0])} captions for {len(latents)} samples")
    # What caches of diffusers tell one kind of call from another by.
    cached = getattr(pipe.transformer, "cache_context", lambda name: contextlib.nullcontext())
    with cached("guided" if guided else "cond"):
        velocity = pipe.transformer(latents, times, *text, **stretch, return_dict=False)[0].float()
    if guided:
        away, towards = velocity.chunk(2)
        velocity = away + pipe._guidance_scale * (towards - away)
    return velocity


# -------------------------------------------------------------------------------------------------
# Frames: what is asked of them, and what comes back.
# -------------------------------------------------------------------------------------------------

@dataclasses.dataclass
class OneDiffusionPipelineOutput(BaseOutput):
    """`images`: the generated pictures, prompt by prompt. `cameras`: one dictionary per view with
    R (3, 3) and T (3,) (`x_cam = x_world @ R + T`), multiview only. `latents`: all frames
    (b, f, c, h, w) over 1.658, which is what makes ray frames rays."""

    images: list | np.ndarray | torch.Tensor
    cameras: list[dict[str, np.ndarray]] | None = None
    latents: torch.Tensor | None = None


def kind_of(mask: list[int], is_multiview: bool) -> str:
    """Which of the model's sizes a call is for."""
    if is_multiview:
        return "multiview"
    return {1: "t2i", 2: "i2i"}.get(len(mask), "identity")


def pictures_per_prompt(image, count: int) -> list[list]:
    """The condition pictures of each of `count` prompts."""
    pictures = list(image) if isinstance(image, list | tuple) else [image]
    pictures = [] if image is None else pictures
    if not pictures or not isinstance(pictures[0], list | tuple):
        return [pictures] * count
    if len(pictures) != count or len({len(p) for p in pictures}) != 1:
        raise ValueError(f"{count} prompts need as many lists of pictures, all of one length")
    return [list(p) for p in pictures]


def frames_of(mask: list[int], pictures: list, rays: list) -> list:
    """The frames of one prompt: None where generated, else the next picture, or the view's rays."""
    wanted = sum(not m and not (rays and i % 2) for i, m in enumerate(mask))
    if wanted != len(pictures):
        raise ValueError(
            f"denoise_mask={mask} asks for {wanted} condition picture(s), got {len(pictures)}"
        )
    frames, rest = [], iter(pictures)
    for i, m in enumerate(mask):
        frames.append(None if m else rays[i // 2] if rays and i % 2 else next(rest))
    return frames


def cameras_of(latents: torch.Tensor, focal) -> list[dict]:
    """The cameras of all views from their latents (f, c, h, w), in the first view's frame."""
    rays = rays_from_frames(latents[1::2].cpu().numpy())
    rotations, translations = rebase(*cameras_from_rays(rays, focal))
    return [{"R": r, "T": t} for r, t in zip(rotations, translations, strict=True)]


# -------------------------------------------------------------------------------------------------
# Pictures in, tensors out: what a pipeline accepts as an image (torch, numpy, PIL).
# -------------------------------------------------------------------------------------------------

# Where the released code's sizes go beyond those of diffusers.
ASPECT_RATIOS_512 = dict(
    ASPECT_RATIO_512_BIN,
    **{"0.26": [256, 992], "0.27": [256, 960], "2.89": [832, 288], "3.11": [896, 288]},
    **{"3.62": [928, 256], "3.75": [960, 256], "3.88": [992, 256]},
)


def as_tensor(picture) -> torch.Tensor:
    """A picture as (3, H, W) float32 in 0..1.

    Args:
      picture: a PIL image, which lies on white where it is transparent; an array (H, W, 3), uint8
        or floats in 0..1; or a tensor (3, H, W) of floats in 0..1.

    Raises:
      ValueError: another type, shape or range.
    """
    if isinstance(picture, Image.Image):
        if picture.mode.startswith(("I", "F")):  # conversion would clip, not scale
            raise ValueError(f"a picture of mode {picture.mode!r} must be scaled to 8 bits first")
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        picture = np.array(picture.convert("RGB"))
    if isinstance(picture, np.ndarray) and picture.ndim == 3:
        scale = 255.0 if picture.dtype == np.uint8 else 1.0
        picture = torch.from_numpy(picture.astype(np.float32) / scale).permute(2, 0, 1)
    if not isinstance(picture, torch.Tensor) or picture.ndim != 3 or picture.shape[0] != 3:
        raise ValueError(
            "a picture must be a PIL image, an array (H, W, 3) or a tensor (3, H, W), got"
            f" {type(picture).__name__} {tuple(getattr(picture, 'shape', ()))}"
        )
    picture = picture.float().cpu()
    low, high = picture.aminmax()
    if not (low > -1e-3 and high < 1 + 1e-3):
        raise ValueError(f"pictures of floats must lie in 0..1, got {low:.3g}..{high:.3g}")
    return picture


def fit(picture, height: int, width: int, *, crop: bool = True) -> torch.Tensor:
    """A picture scaled to cover height × width and cut about its centre: (3, H, W) in −1..1.

    Without `crop` it is stretched to height × width.
    """
    picture = as_tensor(picture)
    if not crop:
        picture = F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0]
        picture = picture.clamp(0, 1)
    elif picture.shape[1:] != (height, width):
        scale = max(height / picture.shape[1], width / picture.shape[2])
        size = [
            max(m, round(n * scale))
            for n, m in zip(picture.shape[1:], (height, width), strict=True)
        ]
        picture = F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0]
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        picture = picture[:, top : top + height, left : left + width].clamp(0, 1)
    return picture * 2 - 1


def size_like(picture, area: int, multiple: int, sizes=None) -> tuple[int, int]:
    """(height, width) that suits a picture.

    Args:
      picture: whose aspect ratio counts.
      area: of the model's pictures, in pixels. From 512² on it is one of the released code's sizes,
        whose area is 512²; below, about that area in the picture's own ratio.
      multiple: of both sides.
      sizes: (height, width) pairs that the model was trained on: the nearest in ratio is taken.
    """
    height, width = as_tensor(picture).shape[1:]
    if not sizes and area >= 512 * 512:
        # The released code compares ratios themselves, by the names of the sizes.
        key = min(ASPECT_RATIOS_512, key=lambda ratio: abs(float(ratio) - height / width))
        tall, wide = ASPECT_RATIOS_512[key]
        return int(tall), int(wide)
    if sizes:
        pairs = [(tall, wide) for tall, wide in sizes]
        return min(pairs, key=lambda size: abs(math.log(size[0] / size[1] * width / height)))
    scale = math.sqrt(area / (height * width))
    tall, wide = (max(multiple, round(n * scale / multiple) * multiple) for n in (height, width))
    return tall, wide


# -------------------------------------------------------------------------------------------------
# Tasks as data: what an exported folder's model_index.json says of the tasks it was trained on.
#
# {"depth2image": {"frames": ["image", "depth"], "directions": {"depth2image": "first",
# "image2depth": "rest"}}}: the roles of the frames, of which the last "repeats" repeat in longer
# examples, and what each direction generates of them, by a rule or by roles.
# -------------------------------------------------------------------------------------------------

"""Tasks as data: what an exported folder's model_index.json says of the tasks it was trained on.

{"depth2image": {"frames": ["image", "depth"], "directions": {"depth2image": "first",
"image2depth": "rest"}}}: the roles of the frames, of which the last "repeats" repeat in longer
examples, and what each direction generates of them, by a rule or by roles.
"""

# What a direction may generate: rule → (frame index, frame role) → generated?
GENERATES = {
    "all": lambda index, role: True,
    "first": lambda index, role: index == 0,
    "rest": lambda index, role: index > 0,
    "images": lambda index, role: role == "image",
    "images but the first": lambda index, role: role == "image" and index > 0,
    "rays": lambda index, role: role == "ray",
}


def find_direction(tasks: dict, name: str) -> tuple[str, dict]:
    """The task of a direction, and what is said of it.

    Raises ValueError for an unknown name; it lists the choices.
    """
    for task, entry in tasks.items():
        if name in entry["directions"]:
            return task, entry
    choices = [direction for entry in tasks.values() for direction in entry["directions"]]
    raise ValueError(f"direction {name!r} is not one this model was trained on: {choices}")


def task_prompt(task: str, prompt) -> str:
    """The whole prompt of a caption, or of one that has its task's token already.

    Raises ValueError for several prompts, or the token of another task.
    """
    if not isinstance(prompt, str):
        raise ValueError(f"{prompt=} must be one string; img2img takes several")
    text, token = prompt.strip(), f"[[{task}]]"
    if text.startswith(token):
        return text
    if text.startswith("[[") and not text.startswith("[[img"):
        raise ValueError(f"{prompt=} is for another task than {task}")
    return f"{token} {text}".strip()


def direction_of(tasks: dict, prompt, mask: list[int]) -> str | None:
    """The direction that a prompt's [[task]] and what is generated stand for; None for others."""
    first = prompt if isinstance(prompt, str) or not prompt else prompt[0]
    name = str(first or "").strip().partition("]]")[0].removeprefix("[[")
    for direction in tasks.get(name, {}).get("directions", {}):
        if direction_mask(tasks[name], direction, mask.count(0)) == mask:
            return direction
    return None


def direction_mask(task: dict, direction: str, count: int) -> list[int]:
    """1 = generated, for a task's frames; where they repeat, until `count` are not generated."""
    rule, repeats = task["directions"][direction], task.get("repeats", 0)
    if isinstance(rule, str) and rule not in GENERATES:
        raise ValueError(f"unknown rule {rule!r}; choose from {list(GENERATES)}")
    frames = list(task["frames"])
    for _ in range(count + 1):
        mask = [
            int(role in rule if not isinstance(rule, str) else GENERATES[rule](i, role))
            for i, role in enumerate(frames)
        ]
        if mask.count(0) >= count or not repeats:
            break
        frames += frames[-repeats:]
    return mask


# -------------------------------------------------------------------------------------------------
# Pictures to latents and back, with every autoencoder that diffusers has for these latents.
# -------------------------------------------------------------------------------------------------

# TAESD3 works on the latents that SD3's own pipeline has: scaling · (z − shift), not scaling · z.
TINY_OFFSET = 1.5305 * 0.0609


class Autoencoding:
    """The part of the pipeline that knows the vae."""

    vae: Any
    image_processor: Any

    def enable_vae_slicing(self):
        """A picture at a time in the vae. (This pipeline never gives it more than one.)"""
        self.vae.enable_slicing()

    def disable_vae_slicing(self):
        """Undoes enable_vae_slicing."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self):
        """Large pictures tile by tile in the vae: less memory."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self):
        """Undoes enable_vae_tiling."""
        self.vae.disable_tiling()

    def _scale_factor(self) -> int:
        """Pixels per latent."""
        config: Any = getattr(self.vae, "config", None)
        channels = getattr(config, "block_out_channels", (0,) * 4)
        if "encoder_block_out_channels" in (config or {}):  # AutoencoderTiny
            channels = config.encoder_block_out_channels
        return getattr(config, "block_size", None) or 2 ** (len(channels) - 1)

    def _offset(self) -> float:
        """What the vae's latents lack to scaling_factor · z."""
        return TINY_OFFSET if type(self.vae).__name__ == "AutoencoderTiny" else 0.0

    def _encode(self, frames, shape, generator, device) -> torch.Tensor:
        """Known frames as latents (b, f, c, h, w) float32; zeros for the others."""
        latents = torch.zeros(shape, device=device)
        for row, column in np.ndindex(*shape[:2]):
            frame = frames[row][column]
            if frame is None:
                continue
            if len(frame) == 3:
                own = generator[row] if isinstance(generator, Sequence) else generator
                picture = frame[None].to(device, self.vae.dtype)
                found = self.vae.encode(picture)
                found = found.latent_dist.sample(own) if "latent_dist" in found else found.latents
                frame = found[0].float() * self.vae.config.scaling_factor + self._offset()
            latents[row, column] = frame
        return latents

    def _decode(self, latents: torch.Tensor, output_type: str):
        """Latents (n, c, h, w) as pictures, one at a time to bound memory."""
        if output_type == "latent" or not len(latents):
            return latents
        latents = (latents - self._offset()) / self.vae.config.scaling_factor
        latents = latents.to(self.vae.dtype)
        pictures = [self.vae.decode(z).sample.float() for z in latents.split(1)]
        return self.image_processor.postprocess(torch.cat(pictures), output_type)


# -------------------------------------------------------------------------------------------------
# Multiview: the ray frames of cameras that are known, however they are given.
# -------------------------------------------------------------------------------------------------

def ray_frames_of(
    count: int, grid, *, orbit=None, c2ws=None, focal: Any = 1.3887, known=None
) -> list:
    """Ray frames (16, h, w) of `count` views in the first one's world; None where unknown.

    Args:
      grid: (h, w) of the latents.
      orbit: azimuths, elevations and distances, per view (None where unknown), per known view, or
        one number for all.
      c2ws: camera-to-world matrices instead, (N, 4, 4), per view or per known view.
      focal: focal length, or intrinsics (3, 3) or per camera, in units of the smaller image side.
      known: the views whose cameras are given; None: those of which nothing is None.

    Raises:
      ValueError: numbers that do not fit, or a first camera that is unknown while others are not.
    """
    if c2ws is not None:
        if isinstance(c2ws, list | tuple):
            c2ws = np.stack([np.asarray(matrix, np.float64) for matrix in c2ws])
        poses = list(np.asarray(c2ws, np.float64))
    else:
        columns = _columns(orbit)
        poses = [None if None in pose else pose for pose in zip(*columns, strict=True)]
    if known is None:
        known = [view for view, pose in enumerate(poses) if pose is not None]
    given = [pose for pose in poses if pose is not None]
    if len(poses) == count and all(poses[view] is not None for view in known):
        given = [poses[view] for view in known]
    if len(given) != len(known):
        raise ValueError(f"{len(given)} cameras for {len(known)} views whose cameras are given")
    frames: list[torch.Tensor | None] = [None] * count
    if not known:
        return frames
    if known[0] != 0:
        raise ValueError("the first camera must be known when any is: it is the origin")
    cameras = cameras_from_c2w(given) if c2ws is not None else orbit_cameras(*np.array(given).T)
    if np.ndim(focal) == 3 and len(focal) == count:
        focal = np.asarray(focal)[known]
    rays = camera_rays(*rebase(*cameras), focal, grid)
    for view, frame in zip(known, ray_frames(rays), strict=True):
        frames[view] = torch.from_numpy(frame)
    return frames


def _columns(orbit) -> list[list]:
    names = ("azimuths", "elevations", "distances")
    columns = [list(values) if np.ndim(values) else values for values in orbit]
    count = max(len(column) if isinstance(column, list) else 1 for column in columns)
    if isinstance(columns[0], list):
        count = len(columns[0])
    columns = [c if isinstance(c, list) else [c] * count for c in columns]
    for name, column in zip(names, columns, strict=True):
        if len(column) != count:
            raise ValueError(f"{len(column)} {name} for {count} {names[0]}")
    return columns


Prompts = str | Sequence[str]
Generators = torch.Generator | Sequence[torch.Generator]


class OneDiffusionPipeline(PipelineCode, Captions, Autoencoding, Adapters, DiffusionPipeline):
    """Samples a OneDiffusion model.

    Args:
      transformer: NextDiT.
      vae: AutoencoderKL, AutoencoderTiny, or LightCodec.
      text_encoder: T5EncoderModel, or HashedTextEncoder, which takes prompts.
      tokenizer: the T5 tokenizer; None with HashedTextEncoder.
      scheduler: FlowMatchEulerDiscreteScheduler, or another that takes a flow's velocity.
      defaults: what calls do that do not say: num_inference_steps, guidance_scale, height, width,
        and sizes, a list of (height, width) per kind of task (t2i, i2i, identity, multiview).
      tasks: what it was trained on; see `run`.

    Any component may be None in a pipeline that does not need it.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs: ClassVar = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        transformer,
        vae,
        text_encoder,
        tokenizer,
        scheduler,
        defaults: dict | None = None,
        tasks: dict | None = None,
    ):
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(defaults=dict(defaults or {}), tasks=dict(tasks or {}))
        self.vae_scale_factor = self._scale_factor()
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self._guidance_scale, self._num_timesteps, self._interrupt = None, None, False

    @property
    def guidance_scale(self) -> float | None:
        """Of the call in progress, or of the last one."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the call in progress is guided."""
        return self._guidance_scale is not None and self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int | None:
        """Of the call in progress, or of the last one: evaluations of the network."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Callbacks set `_interrupt` to leave out the steps that are left."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: Prompts | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callable | None = None,
        callback_steps: int = 1,
        forward_kwargs: dict[str, Any] | None = None,
        *,
        noise_scale: float | None = None,
        scale_factor: float = 1.0,
        scale_watershed: float = 1.0,
        max_length: int | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        NEGATIVE_PROMPT: Prompts | None = None,
    ):
        """Text to image: `img2img` without a condition, whose options these are."""
        if isinstance(height, str | list | tuple):
            raise TypeError(f"{height=}: height comes second, as in the released code; name others")
        return self.img2img(
            prompt=prompt,
            image=None,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            denoise_mask=[1],
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            eta=eta,
            generator=generator,
            latents=latents,
            output_type=output_type,
            return_dict=return_dict,
            callback=callback,
            callback_steps=callback_steps,
            forward_kwargs=forward_kwargs,
            noise_scale=noise_scale,
            scale_factor=scale_factor,
            scale_watershed=scale_watershed,
            max_length=max_length,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            NEGATIVE_PROMPT=NEGATIVE_PROMPT,
        )

    def generate(
        self,
        prompt: Prompts,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: Prompts | None = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        **options,
    ):
        """Text to image, with the released code's order of arguments; options as of a call."""
        return self(
            prompt,
            height,
            width,
            num_inference_steps,
            guidance_scale,
            negative_prompt,
            num_images_per_prompt,
            **options,
        )

    @torch.no_grad()
    def img2img(
        self,
        prompt: Prompts | None = None,
        image=None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        denoise_mask: Sequence[int] | None = None,
        negative_prompt: Prompts | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callable | None = None,
        callback_steps: int = 1,
        do_crop: bool = True,
        is_multiview: bool = False,
        multiview_azimuths: Sequence[float | None] = (0, 30, 60, 90),
        multiview_elevations: Sequence[float | None] | float = 0.0,
        multiview_distances: Sequence[float | None] | float = 1.7,
        multiview_c2ws=None,
        multiview_intrinsics=None,
        multiview_focal_length: float = 1.3887,
        forward_kwargs: dict[str, Any] | None = None,
        noise_scale: float | None = None,
        *,
        scale_factor: float = 1.0,
        scale_watershed: float = 1.0,
        max_length: int | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        NEGATIVE_PROMPT: Prompts | None = None,
    ):
        """Generates the frames marked 1 given the pictures of the frames marked 0.

        The order of the arguments is that of the released code.

        Args:
          prompt: one or a batch; or prompt_embeds and its mask, see `encode_prompt`.
          image: the condition pictures in frame order (PIL, array or tensor; one may stand without
            a list; None for none); for a batch of prompts, a list of such lists, or one list for
            all.
          height, width: pixels; default: what the model was trained on that is nearest to the
            first picture's aspect ratio (the released model: 512² in area).
          num_inference_steps, guidance_scale: default: as the folder says, or 50 and 4;
            v = v_negative + guidance·(v − v_negative) where guidance exceeds 1.
          denoise_mask: one entry per frame, 1 = generate; default: the first of all frames. [0, 1]
            with [[depth2image]] estimates depth from a picture.
          negative_prompt: what guidance leads away from; NEGATIVE_PROMPT is the same.
          generator: seeds noise and the autoencoder's posterior; one, or one per picture generated.
          latents: the noise (b, f, c, h, w), or (b, c, h, w) of the only frame.
          output_type: "pil", "np" (N, H, W, 3), "pt" (N, 3, H, W), both in 0..1, or "latent"
            (N, c, h, w).
          do_crop: pictures are cut to the size about their centre; False: stretched.
          is_multiview: frames are image, camera, image, camera, …; a camera marked 0 is that of the
            azimuths (degrees), elevations and distances, or of multiview_c2ws (N, 4, 4) with
            multiview_intrinsics (3, 3) or (N, 3, 3) or the focal length, in units of the image.
          forward_kwargs: scale_factor and scale_watershed may stand here too.
          eta, callback, callback_steps, noise_scale, scale_factor, scale_watershed,
          callback_on_step_end and its tensor inputs: see `denoise`.

        Returns:
          OneDiffusionPipelineOutput; its images are the generated frames, prompt by prompt. A tuple
          (images,) when return_dict is False.
        """
        if isinstance(height, list | tuple):
            raise TypeError(f"{height=}: height comes third, as in the released code; name others")
        stretch = {"scale_factor": scale_factor, "scale_watershed": scale_watershed}
        unknown = set(forward_kwargs or {}) - set(stretch)
        if unknown:
            raise ValueError(f"forward_kwargs has {sorted(unknown)}; choose from {sorted(stretch)}")
        if negative_prompt is not None and NEGATIVE_PROMPT is not None:
            raise ValueError("negative_prompt and NEGATIVE_PROMPT are the same: give one")
        guidance_scale = self._guidance(guidance_scale)
        text = self.encode_prompt(
            prompt=prompt,
            do_classifier_free_guidance=guidance_scale > 1,
            negative_prompt=NEGATIVE_PROMPT if negative_prompt is None else negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            max_length=max_length,
        )
        pictures = pictures_per_prompt(image, len(text[0]) // num_images_per_prompt)
        mask = [1] + [0] * len(pictures[0]) if denoise_mask is None else list(denoise_mask)
        steps = self._steps(num_inference_steps, direction_of(self.config.tasks, prompt, mask))
        first = pictures[0][0] if pictures[0] else None
        height, width = self._size(height, width, first, kind_of(mask, is_multiview))
        rays, focal = [], multiview_focal_length
        if is_multiview:
            focal = focal if multiview_intrinsics is None else np.asarray(multiview_intrinsics)
            orbit = (multiview_azimuths, multiview_elevations, multiview_distances)
            rays = self._rays(mask, height, width, orbit, multiview_c2ws, focal)
        frames = [
            frames_of(mask, [fit(p, height, width, crop=do_crop) for p in row], rays)
            for row in pictures
            for _ in range(num_images_per_prompt)
        ]
        everything = self._sample(
            text,
            frames,
            (height, width),
            generator=generator,
            latents=latents,
            guidance=guidance_scale,
            num_inference_steps=steps,
            eta=eta,
            noise_scale=noise_scale,
            callback=callback,
            callback_steps=callback_steps,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            **stretch | (forward_kwargs or {}),
        )
        shown = [i for i, m in enumerate(mask) if m and not (is_multiview and i % 2)]
        images = self._decode(everything[:, shown].flatten(0, 1), output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        cameras = cameras_of(everything[0], focal) if is_multiview else None
        return OneDiffusionPipelineOutput(images, cameras, everything / RAY_SCALE)

    def run(self, direction: str, image=None, prompt: str = "", **options):
        """One of the directions of the tasks the model was trained on, by its name.

        Args:
          direction: such as "image2depth"; `pipe.config.tasks` lists them, own tasks included.
          image: the given pictures in frame order.
          prompt: the caption; the task's token is put before it, where it has none. One string.
          options: those of `img2img`.
        """
        task, entry = find_direction(self.config.tasks, direction)
        pictures = pictures_per_prompt(image, 1)[0]
        if "ray" in entry["frames"]:
            raise ValueError(f"{direction!r} has cameras: call multiview or estimate_cameras")
        mask = direction_mask(entry, direction, len(pictures))
        return self.img2img(task_prompt(task, prompt), pictures, denoise_mask=mask, **options)

    def multiview(
        self,
        prompt: str,
        image,
        azimuths: Sequence[float | None],
        elevations: Sequence[float | None] | float = 0.0,
        distances: Sequence[float | None] | float = 1.7,
        *,
        focal: float = 1.3887,
        return_dict: bool = True,
        **options,
    ):
        """New views of a scene, and the cameras of views whose camera is not known.

        Args:
          prompt: "[[multiview]] a caption".
          image: pictures of the first views (possibly none); the other views are generated.
          azimuths, elevations, distances: orbit cameras of all views around the origin, degrees
            and world units; only their differences matter. None where the camera is unknown.
          focal: focal length in units of the smaller image side.
          options: those of `img2img`.

        Returns:
          `images`: the generated views; `cameras`: all views', in the first view's frame.
        """
        pictures = pictures_per_prompt(image, 1)[0]
        if len(pictures) > len(azimuths):
            raise ValueError(f"{len(pictures)} pictures for {len(azimuths)} cameras")
        orbit: tuple[Any, ...] = (azimuths, elevations, distances)
        columns = [list(v) if np.ndim(v) else [v] * len(azimuths) for v in orbit]
        for name, values in zip(("elevations", "distances"), columns[1:], strict=True):
            if len(values) != len(azimuths):
                raise ValueError(f"{len(values)} {name} for {len(azimuths)} azimuths")
        unknown = [int(None in pose) for pose in zip(*columns, strict=True)]
        out: Any = self.img2img(
            prompt,
            pictures,
            denoise_mask=[
                m for i, lost in enumerate(unknown) for m in (int(i >= len(pictures)), lost)
            ],
            is_multiview=True,
            multiview_azimuths=columns[0],
            multiview_elevations=columns[1],
            multiview_distances=columns[2],
            multiview_focal_length=focal,
            **options,
        )
        return out if return_dict else (out.images, out.cameras)

    def estimate_cameras(self, images, prompt: str = "[[multiview]]", **options) -> list[dict]:
        """Cameras of pictures of one scene: one {"R": (3, 3), "T": (3,)} each, first = identity.

        Options are those of `multiview` (focal, height, width and the sampling).
        """
        unknown = [None] * len(pictures_per_prompt(images, 1)[0])
        out: Any = self.multiview(prompt, images, unknown, output_type="latent", **options)
        return out.cameras

    def sample(
        self,
        prompts: Sequence[str],
        frames: Sequence[Sequence[torch.Tensor | None]],
        height: int,
        width: int,
        *,
        negative_prompt: Prompts | None = None,
        max_length: int | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        **options,
    ) -> torch.Tensor:
        """Latents (b, f, c, h, w) float32 of all frames.

        Args:
          frames: per prompt, f frames: None to generate, a picture (3, H, W) in −1..1, or latents.
          options: generator, latents, and those of `denoise`; the others as in `img2img`.
        """
        guidance = self._guidance(guidance_scale)
        options |= {"guidance": guidance, "num_inference_steps": self._steps(num_inference_steps)}
        with torch.no_grad():
            text = self.encode_prompt(
                prompts, guidance > 1, negative_prompt=negative_prompt, max_length=max_length
            )
            return self._sample(text, frames, (height, width), **options)

    def _sample(
        self, text, frames, size, *, generator: Any = None, latents=None, **flow
    ) -> torch.Tensor:
        """Latents of all frames from encoded captions; see `sample`."""
        count = len(generator) if isinstance(generator, Sequence) else len(frames)
        if count != len(frames):
            raise ValueError(f"{count} generators for {len(frames)} prompts")
        device, factor = self._execution_device, self.vae_scale_factor
        grid = [n // factor for n in size]
        shape = (len(frames), len(frames[0]), self.transformer.config.in_channels, *grid)
        conditions = self._encode(frames, shape, generator, device)
        if latents is None:
            noise: Any = generator  # one, or one per prompt
            latents = randn_tensor(shape, generator=noise, device=device, dtype=torch.float32)
        elif latents.numel() != np.prod(shape):
            raise ValueError(f"latents {tuple(latents.shape)} must be {shape}")
        mask = [frame is None for frame in frames[0]]
        latents = latents.to(device).reshape(shape)
        null = None if text[2] is None else text[2:]
        return denoise(self, latents, conditions, mask, text[:2], null, generator=generator, **flow)

    def _guidance(self, guidance: float | None) -> float:
        return self.config.defaults.get("guidance_scale", 4.0) if guidance is None else guidance

    def _steps(self, steps: int | None, direction: str | None = None) -> int:
        """As asked; else as the folder says of the direction; else as it says of all."""
        if steps is not None:
            return steps
        defaults = self.config.defaults
        return defaults.get("steps", {}).get(direction, defaults.get("num_inference_steps", 50))

    def _size(self, height, width, picture, kind: str) -> tuple[int, int]:
        """Pixels of all frames; see img2img."""
        config, factor = self.transformer.config, self.vae_scale_factor
        multiple = factor * config.patch_size[-1]
        if (height is None) != (width is None):
            raise ValueError(f"{height=} and {width=} go together: give both or neither")
        if height is None:
            sizes = self.config.defaults.get("sizes", {}).get(kind)
            area = [n * factor for n in config.input_size[1:]]
            height, width = sizes[0] if sizes else area
            if picture is not None:
                height, width = size_like(picture, area[0] * area[1], multiple, sizes)
        if height <= 0 or width <= 0 or height % multiple or width % multiple:
            raise ValueError(f"{height=} and {width=} must be positive multiples of {multiple}")
        return height, width

    def _rays(self, mask: list[int], height: int, width: int, orbit, c2ws, focal) -> list:
        """The ray frames of the cameras marked 0, view by view; None for the others."""
        if len(mask) % 2:
            raise ValueError(f"denoise_mask={mask} must hold an image and a camera per view")
        grid = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        views = len(mask) // 2
        known = [view for view in range(views) if not mask[2 * view + 1]]
        if c2ws is None and np.ndim(orbit[0]) and len(orbit[0]) > views:
            orbit = [values[:views] if np.ndim(values) else values for values in orbit]
        return ray_frames_of(views, grid, orbit=orbit, c2ws=c2ws, focal=focal, known=known)


CODE = Path(__file__).read_text(encoding="utf-8")
if __name__.startswith("diffusers_modules."):  # a second file of this name gets a module of its own
    sys.modules[__name__] = types.ModuleType(__name__)
    vars(sys.modules[__name__]).update(globals())
    Path(importlib.util.cache_from_source(__file__)).unlink(missing_ok=True)
