"""Frames: what is asked of them, and what comes back."""

import dataclasses

import numpy as np
import torch
from diffusers.utils import BaseOutput  # pyright: ignore[reportPrivateImportUsage]

from .cameras_torch import cameras_from_rays, rays_from_frames, rebase


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
