"""The sampling loop: Euler steps over frames of which some are known (torch and diffusers only).

Noise is at σ = 1 (t = 1000), data at σ = 0; the network predicts ε − x. Axes: b batch, f frames,
c channels, h and w latent size, l caption length, d caption width.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch


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
