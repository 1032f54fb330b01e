"""The pure train step: (state, batch) → (state, metrics)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from onediff_jax.data.layout import RowLayout
from onediff_jax.experiment.build import Experiment
from onediff_jax.flow.path import add_noise, velocity
from onediff_jax.flow.times import sample_sigmas
from onediff_jax.models.layers import operands
from onediff_jax.models.lora import join
from onediff_jax.parallel.cpu import multiplies_bfloat16
from onediff_jax.parallel.mesh import row_shardings
from onediff_jax.parallel.sharding import on_mesh, state_shardings
from onediff_jax.run.optimizer import at_step, ema_decay
from onediff_jax.run.state import TrainState, new_state

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]


def flow_loss(
    params: Any,
    batch: Batch,
    key: jax.Array,
    experiment: Experiment,
    tokens: jax.Array | None = None,
    levels: jax.Array | None = None,
) -> tuple[jax.Array, Sums]:
    """Flow-matching loss of packed rows with a noise level per frame (paper, section 3.1).

    Frames of a bundle marked `clean` that its direction does not generate are given as data; the
    network is told a small σ, as in sampling, and they carry no loss. All other frames have
    independent σ. Pictures weigh the same, ray maps flow.ray_weight.

    Args:
      tokens: the weighted tokens that the sum is divided by, where these rows are a part of a
        larger batch; None: those of these rows.
      levels: σ of every frame (rows, frames) in place of drawn ones; NaN where it is drawn.

    Returns:
      The squared error of the velocity, its sum over the weighted tokens divided by `tokens`, and
      sums: task_loss and task_tokens per task (tasks,), slot_loss and slot_tokens per slot of every
      row (rows, slots), and the numbers of valid and of all tokens; with `levels` also frame_loss
      and frame_tokens (rows, frames).
    """
    layout = experiment.layout
    rows = batch["tokens"].shape[0]
    noise_key, time_key, given_key = jax.random.split(key, 3)
    noise = jax.random.normal(noise_key, batch["tokens"].shape)
    sigma = sample_sigmas(time_key, (rows, layout.frames), experiment.times, ray_frames(layout))
    if levels is not None:
        sigma = jnp.where(jnp.isnan(levels), sigma, levels)
    given = given_frames(batch, layout)
    small = jax.random.uniform(
        given_key, sigma.shape, maxval=experiment.config.flow.condition_sigma
    )
    told = jnp.where(given, 0.0, sigma)[:, layout.chunk_frame][..., None, None]
    x = add_noise(batch["tokens"], noise, told)
    model = nnx.merge(experiment.graphdef, params)
    predicted = model.rows(
        x,
        batch["positions"],
        1000.0 * jnp.where(given, small, sigma),
        batch["text"],
        batch["text_mask"],
        layout=layout,
        token_mask=batch["token_mask"],
    )
    error = jnp.square(predicted - velocity(batch["tokens"], noise)).mean(-1)  # (r, c, t)
    weight = token_weights(batch, experiment)
    tokens = weight.sum() if tokens is None else tokens
    loss = (error * weight).sum() / jnp.where(tokens > 0, tokens, 1.0)
    sums = _sums(error * weight, weight, batch, experiment)
    if levels is not None:
        of_frame = jax.nn.one_hot(layout.chunk_frame, layout.frames)  # (c, f)
        sums["frame_loss"] = (error * weight).sum(-1) @ of_frame
        sums["frame_tokens"] = weight.sum(-1) @ of_frame
    return loss, sums


def _sums(error: jax.Array, weight: jax.Array, batch: Batch, experiment: Experiment) -> Sums:
    """What `flow_loss` sums, of weighted errors and weights (r, c, t)."""
    layout = experiment.layout
    of_slot = jax.nn.one_hot(layout.chunk_slot, len(layout.slots))  # (c, s)
    slot_loss, slot_tokens = error.sum(-1) @ of_slot, weight.sum(-1) @ of_slot
    of_task = jax.nn.one_hot(batch["task"], len(experiment.tasks.names))
    return {
        "task_loss": jnp.einsum("rs,rsk->k", slot_loss, of_task),
        "task_tokens": jnp.einsum("rs,rsk->k", slot_tokens, of_task),
        "slot_loss": slot_loss,
        "slot_tokens": slot_tokens,
        "valid_tokens": batch["token_mask"].sum().astype(jnp.float32),
        "all_tokens": jnp.float32(batch["token_mask"].size),
    }


def given_frames(batch: Batch, layout: RowLayout) -> jax.Array:
    """Which frames are given clean, (r, f) bool."""
    return ~batch["generate"] & batch["clean"][:, layout.frame_slot]


def token_weights(batch: Batch, experiment: Experiment) -> jax.Array:
    """What every token counts in the loss, (r, c, t) float32; 0 for padding and given frames."""
    layout = experiment.layout
    given = given_frames(batch, layout)[:, layout.chunk_frame][..., None]
    ray_weight = np.float32(experiment.config.flow.ray_weight)
    of_frame = np.where(ray_frames(layout), ray_weight, np.float32(1))
    carries = (batch["token_mask"] & ~given).astype(jnp.float32)
    carries *= of_frame[layout.chunk_frame][:, None]
    return carries * batch["weights"] if "weights" in batch else carries


def ray_frames(layout: RowLayout) -> np.ndarray:
    """Which frames of a row are ray maps, (frames,) bool.

    They have a weight and noise levels of their own: they vary three times as much as the light
    codec's pictures and are learned first; at full weight they hold up everything else.
    """
    found = []
    for slot in layout.slots:
        rays = slot.group == "multiview"  # whose every other frame is one
        found += [rays and frame % 2 == 1 for frame in range(slot.frames)]
    return np.array(found)


def product_operands(config: ConfigDict) -> DTypeLike | None:
    """What train.products rounds the operands of products with weights to; None: nothing."""
    choice = config.train.products
    if choice == "auto":
        quick = jax.default_backend() == "cpu" and multiplies_bfloat16()
        choice = "bfloat16" if quick else "dtype"
    return jnp.bfloat16 if choice == "bfloat16" else None


def operands_name(config: ConfigDict) -> str:
    """The name of what `product_operands` says, "nothing" for None."""
    found = product_operands(config)
    return "nothing" if found is None else jnp.dtype(found).name


def make_train_step(
    experiment: Experiment, tx: optax.GradientTransformation, schedule: optax.Schedule
) -> Callable[..., tuple[TrainState, Sums]]:
    """The step as a pure function of (state, batch, frozen=None, limits=None).

    Its randomness is fold_in(config.seed, step).
    `frozen` are parameters that are not trained, beside state.params; None when all are. With
    `train.accumulate` = n the batch goes through in n parts: the gradient is that of the mean over
    the weighted tokens of all of them. A step whose gradient is not finite changes nothing but the
    counters; nor does one with the mean loss of a task above its limit, where `limits` (tasks,) are
    given. state.step alone drives the schedule.
    """
    config: ConfigDict = experiment.config
    parts = config.train.accumulate

    rounded_to = product_operands(config)

    def loss_fn(params, frozen, batch, key, tokens):
        with operands(rounded_to):
            return flow_loss(join(params, frozen), batch, key, experiment, tokens)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def gradients(params, frozen, batch, key):
        if parts == 1:
            (loss, sums), grads = grad_fn(params, frozen, batch, key, None)
            return loss, sums, grads
        tokens = token_weights(batch, experiment).sum()

        def of_part(number, rows):
            (loss, sums), grads = grad_fn(
                params, frozen, rows, jax.random.fold_in(key, number), tokens
            )
            per_slot = {name: sums.pop(name) for name in ("slot_loss", "slot_tokens")}
            return (loss, sums, grads), per_slot

        def one(carry, part):
            added, per_slot = of_part(*part)
            return jax.tree.map(jnp.add, carry, added), per_slot

        # Every device's rows are dealt out to all parts: no part moves between devices.
        split = jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), batch)
        numbered = (jnp.arange(parts), split)
        shapes, _ = jax.eval_shape(of_part, *jax.tree.map(lambda a: a[0], numbered))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (loss, sums, grads), per_slot = jax.lax.scan(one, zeros, numbered)
        whole = {k: v.swapaxes(0, 1).reshape(-1, v.shape[-1]) for k, v in per_slot.items()}
        return loss, sums | whole, grads

    def step(
        state: TrainState, batch: Batch, frozen: Any = None, limits: jax.Array | None = None
    ) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        loss, sums, grads = gradients(state.params, frozen, batch, key)
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(norm) & jnp.isfinite(loss)
        if limits is not None:
            loss_of, tokens_of = sums["task_loss"], sums["task_tokens"]
            good &= jnp.where(tokens_of > 0, loss_of <= limits * tokens_of, True).all()
        updates, opt_state = tx.update(grads, at_step(state.opt_state, state.step), state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, config.ema.max_decay, config.ema.power)
        ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, params)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

        new = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            ema=keep(ema, state.ema),
            opt_state=at_step(keep(opt_state, state.opt_state), state.step + 1),
            skipped=state.skipped + ~good,
            skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + 1),
        )
        metrics = {
            **sums,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": schedule(state.step),
            "ema_decay": decay,
            "skipped": new.skipped,
            "skipped_in_a_row": new.skipped_in_a_row,
        }
        return new, metrics

    return step


def sharded_train_step(
    experiment: Experiment,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
) -> tuple[Callable[..., tuple[TrainState, Sums]], TrainState, Any]:
    """The jitted step of (state, batch, frozen), and how its state and frozen weights lie.

    With train.on_spike="skip" it takes the limits of `make_train_step` too.

    The state is donated. With `ema.offload` the average lies in the memory of the host and visits
    the devices for its update.
    """
    shapes = jax.eval_shape(lambda params: new_state(params, tx), experiment.shapes)
    shardings = state_shardings(shapes, mesh)
    frozen = state_shardings(experiment.frozen_shapes, mesh)
    step = make_train_step(experiment, tx, schedule)
    whole: Callable[..., tuple[TrainState, Sums]] = step
    if experiment.config.ema.offload:
        ema = jax.tree.map(lambda s: s.with_memory_kind("pinned_host"), shardings.ema)
        shardings = shardings._replace(ema=ema)

        def offloaded(state: TrainState, batch: Batch, frozen: Any = None, *limits: jax.Array):
            ema = jax.device_put(state.ema, on_device(shardings.ema))
            return step(state._replace(ema=ema), batch, frozen, *limits)

        whole = offloaded

    whole_array = jax.sharding.NamedSharding(mesh, jax.P())
    limits = (whole_array,) if experiment.config.train.on_spike == "skip" else ()
    jitted = jax.jit(
        on_mesh(whole, mesh),
        in_shardings=(
            shardings,
            row_shardings(mesh, weighted=experiment.packer.weighted),
            frozen,
            *limits,
        ),
        out_shardings=(shardings, whole_array),
        donate_argnums=0,
    )
    return jitted, shardings, frozen


def on_device(shardings: Any) -> Any:
    """The same shardings, those in the memory of the host in that of the devices."""

    def one(sharding):
        on_host = sharding.memory_kind == "pinned_host"
        return sharding.with_memory_kind("device") if on_host else sharding

    return jax.tree.map(one, shardings)


def make_eval_step(experiment: Experiment) -> Callable[..., Sums]:
    """Loss sums of a batch at fixed noise, for held-out bundles; `levels` as in `flow_loss`."""

    def step(params: Any, batch: Batch, key: jax.Array, levels: jax.Array | None = None) -> Sums:
        return flow_loss(params, batch, key, experiment, levels=levels)[1]

    return step
