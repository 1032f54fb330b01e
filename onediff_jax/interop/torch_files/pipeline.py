"""OneDiffusion for diffusers: text to image, any image ↔ condition, identity, views and cameras.

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe("[[text2image]] a red cube").images[0]

Prompts carry their task token. Every task is a sequence of frames, target first; the frames whose
`denoise_mask` is 1 start as noise, the others are conditions. Noise is at t = 1000 and data at 0;
latents are scaling_factor · z (no shift). Axes: b batch, f frames, c channels, h and w latent size.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .cameras_torch import cameras_from_rays, orbit_rays, ray_frames, rays_from_frames, rebase
from .flow_torch import denoise
from .pictures_torch import fit, size_like
from .pipeline_code import PipelineCode

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
