"""OneDiffusion for diffusers: text to image, any image ↔ condition, identity, views and cameras.

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe("[[text2image]] a red cube").images[0]

Prompts carry their task token. Every task is a sequence of frames, target first; the frames whose
`denoise_mask` is 1 start as noise, the others are conditions. Noise is at t = 1000 and data at 0;
latents are scaling_factor · z (no shift). Axes: b batch, f frames, c channels, h and w latent size.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor

from .adapters_torch import Adapters
from .cameras_torch import RAY_SCALE
from .captions_torch import Captions
from .flow_torch import denoise
from .frames_torch import (
    OneDiffusionPipelineOutput,
    cameras_of,
    frames_of,
    kind_of,
    pictures_per_prompt,
)
from .pictures_torch import fit, size_like
from .pipeline_code import PipelineCode
from .tasks_torch import direction_mask, direction_of, find_direction, task_prompt
from .vae_torch import Autoencoding
from .views_torch import ray_frames_of

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
