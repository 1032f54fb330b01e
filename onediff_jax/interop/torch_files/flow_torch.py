"""The sampling loop: steps of a flow's scheduler over frames of which some are known.

Noise is at σ = 1 (t = 1000), data at σ = 0; the network predicts ε − x. Axes: b batch, f frames,
c channels, h and w latent size, l caption length, d caption width.
"""

import contextlib
import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback


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
