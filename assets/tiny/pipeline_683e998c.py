"""OneDiffusion for diffusers: text to image, any image ↔ condition, identity, views and cameras.

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe("[[text2image]] a red cube").images[0]

Prompts carry their task token. Every task is a sequence of frames, target first; the frames whose
`denoise_mask` is 1 start as noise, the others are conditions. Noise is at t = 1000 and data at 0;
latents are scaling_factor · z (no shift). Axes: b batch, f frames, c channels, h and w latent size.
"""

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
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor


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

    # What diffusers' AutoModel is told, for the models that it shall find.
    _auto_class: ClassVar[str | None] = None
    _carries_code: ClassVar[bool] = True

    def save_config(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Writes the file of the class, where it came from one, then the configuration."""
        if CODE is not None:
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{file_stem(type(self))}.py").write_text(CODE, encoding="utf-8")
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def to_json_string(self) -> str:
        """The configuration; AutoModel's entry is there in every version of diffusers."""
        fields = json.loads(super().to_json_string())
        if self._auto_class:
            name = f"{file_stem(type(self))}.{type(self).__name__}"
            fields["auto_map"] = {self._auto_class: name}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """AutoModel's entry is for finding the class, not for building it: no warning about it."""
        config_dict = {key: value for key, value in config_dict.items() if key != "auto_map"}
        return super().extract_init_dict(config_dict, **kwargs)


def file_stem(kind: type) -> str:
    """The name, without .py, of the file a class was loaded from."""
    return kind.__module__.split(".")[-1]


# -------------------------------------------------------------------------------------------------
# What makes a saved pipeline carry the code of its class and of its components' classes.
# -------------------------------------------------------------------------------------------------

class PipelineCode(OwnCode):
    """OwnCode for pipelines: model_index.json names the file of every class that has one."""

    def to_json_string(self) -> str:
        """model_index.json; its lists of a file and a class are how diffusers finds the classes."""
        index = json.loads(super().to_json_string())
        index["_class_name"] = [file_stem(type(self)), type(self).__name__]
        for name, model in self._own_models().items():
            index[name] = [file_stem(type(model)), type(model).__name__]
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves the pipeline, so that it loads as this one did; see DiffusionPipeline.

        Components wrapped by torch.compile or peft are saved as what they wrap.
        """
        wrapped = {
            name: part for name, part in self.components.items() if part is not unwrapped(part)
        }
        for name, model in self._own_models().items():
            if not getattr(model, "_carries_code", False):  # another project's class
                target = Path(save_directory) / name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(inspect.getfile(type(model)), target)
        try:
            for name, part in wrapped.items():
                setattr(self, name, unwrapped(part))
            super().save_pretrained(save_directory, *args, **kwargs)
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
# Orbit cameras, their ray maps, and cameras back from ray maps (numpy only).
#
# PyTorch3D's convention: row vectors, `x_cam = x_world @ R + T`, camera axes x left, y up, z into
# the scene. Focal lengths are in units of the smaller image side. A ray is its unit direction and
# its moment (origin × direction), six numbers per latent pixel. World: the first camera's frame.
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


def camera_rays(rotations, translations, focal: float, size: tuple[int, int]) -> np.ndarray:
    """Rays (N, h, w, 6) float32 through the pixel centres of (h, w) latent images."""
    directions = np.einsum("hwj,nij->nhwi", _local_directions(focal, size), rotations)
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


def cameras_from_rays(rays: np.ndarray, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and T (N, 3) that best explain rays (N, h, w, 6), in the world of the rays.

    The rotation aligns the directions with those the focal length gives (SVD); the centre is the
    point nearest to all rays.
    """
    rays = np.asarray(rays, np.float64)
    local = _local_directions(focal, rays.shape[1:3])
    norms = np.linalg.norm(rays[..., :3], axis=-1, keepdims=True)
    if not (norms > 1e-6).all():
        raise ValueError("rays with a direction of zero length, or not finite")
    unit, moments = rays[..., :3] / norms, rays[..., 3:]
    left, _, right = np.linalg.svd(np.einsum("nhwi,hwj->nij", unit, local))
    left[:, :, 2] *= np.linalg.det(left @ right)[:, None]  # a rotation, never a mirror image
    rotations = left @ right
    # direction × moment is the point of a ray nearest to the origin.
    projections = np.eye(3) - unit[..., :, None] * unit[..., None, :]
    points = np.einsum("nhwij,nhwj->ni", projections, np.cross(unit, moments))
    centres = np.linalg.solve(projections.sum((1, 2)), points[..., None])[..., 0]
    return rotations, -np.einsum("ni,nij->nj", centres, rotations)


def _local_directions(focal: float, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) unit directions through the pixel centres, in camera axes."""
    if not focal > 0:
        raise ValueError(f"{focal=} must be positive")
    # Coordinates run from 1 to −1 across the smaller side: half a side is the unit.
    x, y = (np.linspace(n - 1, 1 - n, n) / (min(size) * 2 * focal) for n in (size[1], size[0]))
    plane = np.stack([*np.meshgrid(x, y), np.ones(size)], -1)
    return plane / np.linalg.norm(plane, axis=-1, keepdims=True)


# -------------------------------------------------------------------------------------------------
# Pictures in, tensors out: what a pipeline accepts as an image (torch, numpy, PIL).
# -------------------------------------------------------------------------------------------------

def as_tensor(picture) -> torch.Tensor:
    """A picture as (3, H, W) float32 in 0..1.

    Args:
      picture: a PIL image; an array (H, W, 3), uint8 or floats in 0..1; or a tensor (3, H, W) of
        floats in 0..1.

    Raises:
      ValueError: another type, shape or range.
    """
    if isinstance(picture, Image.Image):
        if picture.mode.startswith(("I", "F")):  # conversion would clip, not scale
            raise ValueError(f"a picture of mode {picture.mode!r} must be scaled to 8 bits first")
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


def fit(picture, height: int, width: int) -> torch.Tensor:
    """A picture scaled to cover height × width and cut about its centre: (3, H, W) in −1..1."""
    picture = as_tensor(picture)
    if picture.shape[1:] != (height, width):
        scale = max(height / picture.shape[1], width / picture.shape[2])
        size = [
            max(m, round(n * scale))
            for n, m in zip(picture.shape[1:], (height, width), strict=True)
        ]
        picture = F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0]
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        picture = picture[:, top : top + height, left : left + width].clamp(0, 1)
    return picture * 2 - 1


def size_like(picture, area: int, multiple: int) -> tuple[int, int]:
    """(height, width) of about `area` pixels in the picture's aspect ratio, multiples given."""
    height, width = as_tensor(picture).shape[1:]
    scale = math.sqrt(area / (height * width))
    return tuple(max(multiple, round(n * scale / multiple) * multiple) for n in (height, width))


# -------------------------------------------------------------------------------------------------
# The sampling loop: Euler steps over frames of which some are known (torch and diffusers only).
#
# Noise is at σ = 1 (t = 1000), data at σ = 0; the network predicts ε − x. Axes: b batch, f frames,
# c channels, h and w latent size, l caption length, d caption width.
# -------------------------------------------------------------------------------------------------

def set_schedule(scheduler, image_seq_len: float, num_inference_steps: int, device) -> torch.Tensor:
    """Sets the scheduler to n steps from σ = 1 to 0 and returns their timesteps (n,).

    Longer images get more of the noisy end: the shift μ is linear in the tokens to denoise.
    """
    if num_inference_steps < 1:
        raise ValueError(f"{num_inference_steps=} must be positive")
    shift = {}
    config = scheduler.config
    if config.use_dynamic_shifting:
        span = config.max_image_seq_len - config.base_image_seq_len
        slope = (config.max_shift - config.base_shift) / span
        shift["mu"] = config.base_shift + slope * (image_seq_len - config.base_image_seq_len)
    sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
    scheduler.set_timesteps(sigmas=sigmas, device=device, **shift)
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
    noise_scale: float = 1.0,
    scale_factor: float = 1.0,
    scale_watershed: float = 1.0,
    callback_on_step_end: Callable | None = None,
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
) -> torch.Tensor:
    """From noise to latents, both (b, f, c, h, w), float32 throughout.

    Args:
      pipe: whose transformer, scheduler and progress bar to use.
      conditions: clean latents like noise; read where denoise_mask (f,) is 0.
      text, null_text: features (b, l, d) and mask (b, l); null_text only when guidance > 1.
      guidance: v = v_null + guidance·(v − v_null) where it exceeds 1.
      noise_scale: multiplies the number of tokens that shifts the schedule.
      scale_factor, scale_watershed: stretch of the positions, see NextDiT.
      callback_on_step_end: called as (pipe, step, timestep, tensors) and may return tensors to put
        in place of those named.
    """
    unknown = set(callback_on_step_end_tensor_inputs) - set(pipe._callback_tensor_inputs)
    if unknown:
        raise ValueError(f"{sorted(unknown)} not among {pipe._callback_tensor_inputs}")
    device, guided = noise.device, guidance > 1
    if guided and null_text is None:
        raise ValueError(f"{guidance=} needs null_text")
    mask = torch.tensor(denoise_mask, dtype=torch.bool, device=device)
    if not mask.any():
        raise ValueError(f"denoise_mask={list(denoise_mask)} leaves nothing to generate")
    keep = mask[None, :, None, None, None]
    conditions = conditions.to(device, torch.float32)
    latents = torch.where(keep, noise.float(), conditions)
    patch = pipe.transformer.config.patch_size[-1]
    tokens = int(mask.sum()) * (noise.shape[3] // patch) * (noise.shape[4] // patch)
    timesteps = set_schedule(pipe.scheduler, tokens * noise_scale, num_inference_steps, device)
    tensors = {"prompt_embeds": text[0], "negative_prompt_embeds": null_text and null_text[0]}
    text_mask = torch.cat([null_text[1], text[1]]) if guided else text[1]
    with pipe.progress_bar(total=len(timesteps)) as progress:
        for step, t in enumerate(timesteps):
            # Conditions get the schedule's last timestep, as clean as the network has seen.
            per_frame = torch.where(mask, t, timesteps[-1])[None]
            embeds = tensors["prompt_embeds"]
            if guided:
                embeds = torch.cat([tensors["negative_prompt_embeds"], embeds])
            velocity = pipe.transformer(
                torch.cat([latents, latents]) if guided else latents,
                per_frame,
                embeds,
                text_mask,
                scale_factor=scale_factor,
                scale_watershed=scale_watershed,
                return_dict=False,
            )[0].float()
            if guided:
                away, towards = velocity.chunk(2)
                velocity = away + guidance * (towards - away)
            latents = pipe.scheduler.step(velocity, t, latents, return_dict=False)[0]
            if callback_on_step_end is not None:
                tensors["latents"] = latents
                named = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                tensors.update(callback_on_step_end(pipe, step, t, named) or {})
                latents = tensors["latents"]
            latents = torch.where(keep, latents, conditions)
            progress.update()
    return latents


T5_LENGTH = 300  # tokens that captions are padded or cut to


@dataclasses.dataclass
class OneDiffusionPipelineOutput(BaseOutput):
    """`images`: the generated pictures, prompt by prompt. `cameras`: one dictionary per view with
    R (3, 3) and T (3,) (`x_cam = x_world @ R + T`), multiview only."""

    images: list | np.ndarray | torch.Tensor
    cameras: list[dict[str, np.ndarray]] | None = None


class OneDiffusionPipeline(PipelineCode, DiffusionPipeline):
    """Samples a OneDiffusion model.

    Args:
      transformer: NextDiT.
      vae: AutoencoderKL, or LightCodec, which has its interface.
      text_encoder: T5EncoderModel, or HashedTextEncoder, which takes prompts.
      tokenizer: the T5 tokenizer; None with HashedTextEncoder.
      scheduler: FlowMatchEulerDiscreteScheduler.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar = ["tokenizer"]
    _callback_tensor_inputs: ClassVar = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(self, transformer, vae, text_encoder, tokenizer, scheduler):
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        light = getattr(vae.config, "block_size", None)
        self.vae_scale_factor = light or 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        **options,
    ):
        """Text to image: img2img without a condition. See `img2img` for the other options."""
        return self.img2img(
            prompt,
            [],
            [1],
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            **options,
        )

    @torch.no_grad()
    def img2img(
        self,
        prompt: str | Sequence[str],
        image,
        denoise_mask: Sequence[int] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
        **sampling,
    ):
        """Generates the frames marked 1 given the pictures of the frames marked 0.

        Args:
          prompt: one or a batch.
          image: the condition pictures in frame order (PIL, array or tensor; one may stand without
            a list); for a batch of prompts, a list of such lists, or one list for all.
          denoise_mask: one entry per frame, 1 = generate; default: the first of all frames. [0, 1]
            with [[depth2image]] estimates depth from a picture.
          height, width: pixels; default: about the area the model was trained on, in the aspect
            ratio of the first picture.
          output_type: "pil", "np" (N, H, W, 3), "pt" (N, 3, H, W), both in 0..1, or "latent"
            (N, c, h, w).
          sampling: see `sample`.

        Returns:
          OneDiffusionPipelineOutput; its images are the generated frames, prompt by prompt. A tuple
          (images,) when return_dict is False.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        per_prompt = _pictures_per_prompt(image, len(prompts))
        mask = [1] + [0] * len(per_prompt[0]) if denoise_mask is None else list(denoise_mask)
        if any(mask.count(0) != len(pictures) for pictures in per_prompt):
            raise ValueError(
                f"denoise_mask={mask} asks for {mask.count(0)} condition picture(s), got"
                f" {[len(pictures) for pictures in per_prompt]}"
            )
        first = per_prompt[0][0] if per_prompt[0] else None
        height, width = self._size(height, width, first)
        frames = []
        for pictures in per_prompt:
            rest = iter([fit(picture, height, width) for picture in pictures])
            frames += [[None if m else next(rest) for m in mask]] * num_images_per_prompt
        prompts = [p for p in prompts for _ in range(num_images_per_prompt)]
        latents = self.sample(prompts, frames, height, width, **sampling)
        chosen = latents[:, [i for i, m in enumerate(mask) if m]].flatten(0, 1)
        images = self._decode(chosen, output_type)
        return OneDiffusionPipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def multiview(
        self,
        prompt: str,
        image,
        azimuths: Sequence[float | None],
        elevations: Sequence[float | None] | float = 0.0,
        distances: Sequence[float | None] | float = 1.7,
        *,
        focal: float = 1.3887,
        height: int | None = None,
        width: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **sampling,
    ):
        """New views of a scene, and the cameras of views whose camera is not known.

        Args:
          prompt: "[[multiview]] a caption".
          image: pictures of the first views (possibly none); the other views are generated.
          azimuths, elevations, distances: orbit cameras of all views around the origin, degrees
            and world units; only their differences matter. None where the camera is unknown.
          focal: focal length in units of the smaller image side.
          sampling: see `sample`.

        Returns:
          `images`: the generated views; `cameras`: all views', in the first view's frame.
        """
        pictures = _pictures_per_prompt(image, 1)[0]
        height, width = self._size(height, width, pictures[0] if pictures else None)
        grid = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        rays = _orbit_frames(azimuths, elevations, distances, focal, grid)
        if len(pictures) > len(rays):
            raise ValueError(f"{len(pictures)} pictures for {len(rays)} cameras")
        views = [fit(picture, height, width) for picture in pictures]
        views += [None] * (len(rays) - len(pictures))
        frames = [frame for pair in zip(views, rays, strict=True) for frame in pair]
        latents = self.sample([prompt], [frames], height, width, **sampling)[0]
        found = rays_from_frames(latents[1::2].cpu().numpy())
        rotations, translations = rebase(*cameras_from_rays(found, focal))
        cameras = [{"R": r, "T": t} for r, t in zip(rotations, translations, strict=True)]
        images = self._decode(latents[2 * len(pictures) :: 2], output_type)
        if not return_dict:
            return images, cameras
        return OneDiffusionPipelineOutput(images=images, cameras=cameras)

    def estimate_cameras(self, images, prompt: str = "[[multiview]]", **options) -> list[dict]:
        """Cameras of pictures of one scene: one {"R": (3, 3), "T": (3,)} each, first = identity.

        Options are those of `multiview` (focal, height, width and the sampling).
        """
        unknown = [None] * len(_pictures_per_prompt(images, 1)[0])
        return self.multiview(prompt, images, unknown, output_type="latent", **options).cameras

    def encode_prompt(
        self, prompts: Sequence[str], max_length: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (b, l, d) and mask (b, l) of prompts, padded to one length."""
        device = self._execution_device
        if self.tokenizer is None:
            embeds, mask = self.text_encoder(list(prompts), max_length)
            return embeds.to(device), mask.to(device)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=max_length or T5_LENGTH,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        return (
            self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0],
            tokens.attention_mask,
        )

    def sample(
        self,
        prompts: Sequence[str],
        frames: Sequence[Sequence[torch.Tensor | None]],
        height: int,
        width: int,
        *,
        negative_prompt: str | Sequence[str] = "",
        max_length: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        guidance_scale: float = 4.0,
        **flow,
    ) -> torch.Tensor:
        """Latents (b, f, c, h, w) float32 of all frames.

        Args:
          frames: per prompt, f frames: None to generate, a picture (3, H, W) in −1..1, or latents.
          negative_prompt: what guidance leads away from; one or one per prompt.
          max_length: caption tokens; default 300 for T5, the encoder's own for hashed text.
          generator: seeds noise and the autoencoder's posterior; one, or one per prompt.
          latents: the noise (b, f, c, h, w), or (b, c, h, w) of the only frame.
          guidance_scale: v = v_negative + guidance·(v − v_negative) where it exceeds 1.
          flow: see `denoise`.
        """
        negative = [negative_prompt] if isinstance(negative_prompt, str) else list(negative_prompt)
        if not negative or len(prompts) % len(negative):
            raise ValueError(f"{len(negative)} negative prompts for {len(prompts)} prompts")
        negative = [text for text in negative for _ in range(len(prompts) // len(negative))]
        if isinstance(generator, Sequence) and len(generator) != len(prompts):
            raise ValueError(f"{len(generator)} generators for {len(prompts)} prompts")
        text = self.encode_prompt(prompts, max_length)
        null = self.encode_prompt(negative, max_length) if guidance_scale > 1 else None
        device = self._execution_device
        c = self.transformer.config.in_channels
        factor = self.vae_scale_factor
        shape = (len(prompts), len(frames[0]), c, height // factor, width // factor)
        conditions = self._encode(frames, shape, generator, device)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        mask = [frame is None for frame in frames[0]]
        latents = latents.to(device).reshape(shape)
        return denoise(self, latents, conditions, mask, text, null, guidance=guidance_scale, **flow)

    def _size(self, height: int | None, width: int | None, picture) -> tuple[int, int]:
        """Pixels of all frames; see img2img."""
        config, factor = self.transformer.config, self.vae_scale_factor
        multiple = factor * config.patch_size[-1]
        if (height is None) != (width is None):
            raise ValueError(f"{height=} and {width=} go together: give both or neither")
        if height is None:
            height, width = (n * factor for n in config.input_size[1:])
            if picture is not None:
                height, width = size_like(picture, height * width, multiple)
        if height <= 0 or width <= 0 or height % multiple or width % multiple:
            raise ValueError(f"{height=} and {width=} must be positive multiples of {multiple}")
        return height, width

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
                frame = self.vae.encode(picture).latent_dist.sample(own)[0].float()
                frame = frame * self.vae.config.scaling_factor
            latents[row, column] = frame
        return latents

    def _decode(self, latents: torch.Tensor, output_type: str):
        """Latents (n, c, h, w) as pictures, one at a time to bound memory."""
        if output_type != "latent" and len(latents):
            latents = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
            pictures = [self.vae.decode(z).sample.float() for z in latents.split(1)]
            latents = self.image_processor.postprocess(torch.cat(pictures), output_type)
        self.maybe_free_model_hooks()
        return latents


def _pictures_per_prompt(image, count: int) -> list[list]:
    """The condition pictures of each of `count` prompts."""
    pictures = list(image) if isinstance(image, list | tuple) else [image]
    if not pictures or not isinstance(pictures[0], list | tuple):
        return [pictures] * count
    if len(pictures) != count or len({len(p) for p in pictures}) != 1:
        raise ValueError(f"{count} prompts need as many lists of pictures, all of one length")
    return [list(p) for p in pictures]


def _orbit_frames(azimuths, elevations, distances, focal: float, grid) -> list:
    """Ray frames (16, h, w) of orbit cameras in the first one's frame; None where unknown."""
    columns = []
    for name, values in (("elevations", elevations), ("distances", distances)):
        values = list(values) if np.ndim(values) else [values] * len(azimuths)
        if len(values) != len(azimuths):
            raise ValueError(f"{len(values)} {name} for {len(azimuths)} azimuths")
        columns.append(values)
    poses = list(zip(azimuths, *columns, strict=True))
    known = [i for i, pose in enumerate(poses) if None not in pose]
    frames = [None] * len(poses)
    if not known:
        return frames
    if known[0] != 0:
        raise ValueError("the first camera must be known when any is: it is the origin")
    rays = orbit_rays(*np.array([poses[i] for i in known]).T, focal, grid)
    for i, frame in zip(known, ray_frames(rays), strict=True):
        frames[i] = torch.from_numpy(frame)
    return frames


CODE = Path(__file__).read_text(encoding="utf-8")
if __name__.startswith("diffusers_modules."):  # a second file of this name gets a module of its own
    sys.modules[__name__] = types.ModuleType(__name__)
    vars(sys.modules[__name__]).update(globals())
    Path(importlib.util.cache_from_source(__file__)).unlink(missing_ok=True)
