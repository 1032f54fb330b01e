"""Euler sampling with any subset of frames given (arXiv 2411.16318, section 3.1)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from onediff_jax.flow.path import Arrays
from onediff_jax.flow.schedule import euler_schedule

Velocity = Callable[[Array, Array], Array]


def euler_step(
    velocity: Velocity,
    conditions: Float[Array, "*s"],
    generate: Bool[Array, "*f"],
    given_sigma: Float[Array, "*f"],
    expand: Callable[[Array], Array],
) -> Callable:
    """The body of the Euler loop, for jax.lax.scan: (latents, (σ now, σ after)) → latents.

    Args:
      velocity: (latents, timesteps per frame) → ε − x.
      conditions: clean frames; given frames are put back from them after every step.
      generate: which frames are generated.
      given_sigma: what given frames are told at every step: the last σ above 0 of the whole
        schedule (the reference's convention; not 0).
      expand: broadcasts a per-frame array against the latents.
    """

    def step(latents, pair):
        now, after = pair
        timesteps = 1000.0 * jnp.where(generate, now, given_sigma)
        v = velocity(latents, timesteps).astype(jnp.float32)
        stepped = latents.astype(jnp.float32) + expand(after - now) * v
        return jnp.where(expand(generate), stepped, conditions), None

    return step


def euler(
    step: Callable, latents: Float[Array, "*s"], sigmas: Float[Array, " n1 *frames"]
) -> Float[Array, "*s"]:
    """The Euler loop, one compiled scan over the n steps of a schedule, or of a part of one.

    Args:
      step: from `euler_step`.
      latents: generated frames at the noise level sigmas[0]; given frames clean.
      sigmas: (n + 1, …) noise levels per frame.
    """
    return jax.lax.scan(step, latents.astype(jnp.float32), (sigmas[:-1], sigmas[1:]))[0]


def guided(
    model: Callable,
    prompt: tuple[Arrays, ...],
    negative: tuple[Arrays, ...],
    guidance: float | Array,
    *,
    off: bool | None = None,
) -> Velocity:
    """Classifier-free guidance v = v0 + g·(v1 − v0) as one doubled batch.

    Args:
      model: (latents, timesteps, *prompt) → velocity; the first axis of all is the batch.
      prompt, negative: what else the model takes, with the prompt and with the negative one.
      guidance: g.
      off: whether the model is run plainly; None: where g ≤ 1, which must be a number then.
    """

    def velocity(latents, timesteps):
        if guidance <= 1.0 if off is None else off:
            return model(latents, timesteps, *prompt)
        both = [jnp.concatenate(pair) for pair in zip(negative, prompt, strict=True)]
        twice = [jnp.concatenate([a, a]) for a in (latents, timesteps)]
        without, with_prompt = jnp.split(model(*twice, *both), 2)
        return without + guidance * (with_prompt - without)

    return velocity


def denoise(
    model: Callable,
    noise: Float[Arrays, "b f h w c"],
    conditions: Float[Arrays, "..."],
    denoise_mask: Shaped[Arrays, " frames"] | Sequence[int],
    text: Float[Arrays, "b l d"],
    text_mask: Shaped[Arrays, "b l"],
    null_text: Float[Arrays, "b l d"],
    null_text_mask: Shaped[Arrays, "b l"],
    *,
    num_steps: int,
    guidance: float,
    patch: int = 2,
    noise_scale: float = 1.0,
    progress: Callable | None = None,
    **schedule,
) -> Float[Array, "b f h w c"]:
    """Generates the frames whose `denoise_mask` is 1 from noise, given the others.

    Args:
      model: (latents, timesteps (b, f), text, text_mask) → velocity.
      noise: starting noise; used for generated frames only.
      conditions: clean latents; used for given frames only.
      denoise_mask: 1 = generate, 0 = given; the same for the whole batch.
      text, text_mask, null_text, null_text_mask: the prompt and the negative prompt.
      num_steps: Euler steps.
      guidance: strength of classifier-free guidance; 1 or less turns it off.
      patch: latents per token side, for the schedule's sequence length.
      noise_scale: multiplies that sequence length.
      progress: wraps the range of steps (such as tqdm); the loop is then run step by step.
      **schedule: passed to `euler_schedule`.

    Raises ValueError when the mask selects nothing or shapes disagree.
    """
    b, f, h, w, _ = noise.shape
    mask = [bool(m) for m in denoise_mask]
    if len(mask) != f or conditions.shape != noise.shape:
        raise ValueError(
            f"noise {noise.shape}, conditions {conditions.shape} and denoise_mask of {len(mask)} "
            "must agree in frames"
        )
    if not any(mask):
        raise ValueError(f"{denoise_mask=} selects no frame to generate")
    tokens = sum(mask) * (h // patch) * (w // patch) * noise_scale
    sigmas, _ = euler_schedule(tokens, num_steps, **schedule)
    sigmas = jnp.broadcast_to(sigmas[:, None, None], (num_steps + 1, b, f))
    generate = jnp.broadcast_to(jnp.asarray(mask), (b, f))
    velocity = guided(model, (text, text_mask), (null_text, null_text_mask), guidance)

    def expand(a):
        return a[:, :, None, None, None]

    step = euler_step(velocity, jnp.asarray(conditions), generate, sigmas[-2], expand)
    latents = jnp.where(expand(generate), noise, conditions)
    if progress is None:
        return euler(step, latents, sigmas)
    for i in progress(range(num_steps)):
        latents = euler(step, latents, sigmas[i : i + 2]).block_until_ready()
    return latents
