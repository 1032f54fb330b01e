"""Euler sampling with any subset of frames given (arXiv 2411.16318, section 3.1)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from onediff_jax.flow.schedule import euler_schedule

Velocity = Callable[[Array, Array], Array]


def euler_step(
    velocity: Velocity,
    latents: Float[Array, "*s"],
    conditions: Float[Array, "*s"],
    generate: Bool[Array, "*f"],
    sigmas: tuple[Float[Array, "*f"], Float[Array, "*f"], Float[Array, "*f"]],
    expand: Callable[[Array], Array],
) -> Float[Array, "*s"]:
    """One Euler step of the generated frames; given frames are put back clean afterwards.

    Args:
      velocity: (latents, timesteps per frame) → ε − x.
      latents, conditions: current and clean frames.
      generate: which frames are generated.
      sigmas: per frame, now, after this step, and the last σ of the schedule, which given frames
        are told at every step (the reference's convention; not 0).
      expand: broadcasts a per-frame array against the latents.
    """
    now, after, last = sigmas
    timesteps = 1000.0 * jnp.where(generate, now, last)
    v = velocity(latents, timesteps).astype(jnp.float32)
    stepped = latents.astype(jnp.float32) + expand(after - now) * v
    return jnp.where(expand(generate), stepped, conditions)


def euler(
    velocity: Velocity,
    noise: Float[Array, "*s"],
    conditions: Float[Array, "*s"],
    generate: Bool[Array, "*f"],
    sigmas: Float[Array, "n1 *f"],
    expand: Callable[[Array], Array],
) -> Float[Array, "*s"]:
    """The whole loop, one compiled scan; sigmas (n + 1, …) per frame, ending in 0."""
    start = jnp.where(expand(generate), noise, conditions).astype(jnp.float32)

    def body(latents, pair):
        levels = (pair[0], pair[1], sigmas[-2])
        return euler_step(velocity, latents, conditions, generate, levels, expand), None

    return jax.lax.scan(body, start, (sigmas[:-1], sigmas[1:]))[0]


def guided(
    model: Callable,
    text: tuple[Array, Array],
    null_text: tuple[Array, Array],
    guidance: float,
    **kwargs,
) -> Velocity:
    """Classifier-free guidance v = v0 + g·(v1 − v0) as one doubled batch; plain when g ≤ 1."""

    def velocity(latents, timesteps):
        if guidance <= 1.0:
            return model(latents, timesteps, *text, **kwargs)
        both = [jnp.concatenate(pair) for pair in zip(null_text, text, strict=True)]
        out = model(
            jnp.tile(latents, (2,) + (1,) * (latents.ndim - 1)),
            jnp.tile(timesteps, (2, 1)),
            *both,
            **kwargs,
        )
        without, with_text = jnp.split(out, 2)
        return without + guidance * (with_text - without)

    return velocity


def denoise(
    model: Callable,
    noise: Float[Array, "b f h w c"],
    conditions: Float[Array, "b f h w c"],
    denoise_mask: Bool[Array, "f"],
    text: Float[Array, "b l d"],
    text_mask: Bool[Array, "b l"],
    null_text: Float[Array, "b l d"],
    null_text_mask: Bool[Array, "b l"],
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
      progress: wraps the range of steps (such as tqdm); the loop is then run step by step. A
        model made by jax.jit (or a functools.partial of it) is called as it is, so later calls
        compile nothing; any other is compiled once per call.
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

    if progress is None:
        return euler(velocity, noise, conditions, generate, sigmas, expand)

    def body(latents, pair):
        levels = (*pair, sigmas[-2])
        return euler_step(velocity, latents, conditions, generate, levels, expand), None

    compiled = _is_compiled(model)
    latents = jnp.where(expand(generate), noise, conditions).astype(jnp.float32)
    for i in progress(range(num_steps)):
        if compiled:
            latents, _ = body(latents, (sigmas[i], sigmas[i + 1]))
        else:
            # A scan of one step, compiled once: what the model closes over (its weights) is an
            # operand of that program, where jax.jit would make it a constant.
            latents, _ = jax.lax.scan(body, latents, (sigmas[i : i + 1], sigmas[i + 1 : i + 2]))
        latents.block_until_ready()
    return latents


def _is_compiled(model: Callable) -> bool:
    """Whether a call of it compiles nothing new: made by jax.jit, or a partial of that."""
    while isinstance(model, functools.partial):
        model = model.func
    return isinstance(model, jax.stages.Wrapped)
