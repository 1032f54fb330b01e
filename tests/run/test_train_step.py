"""The train step: what carries loss, what is skipped, what accumulation and EMA do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.rows import TASK_NAMES
from onediff_jax.experiment.build import make_experiment
from onediff_jax.flow.times import sample_sigmas
from onediff_jax.run import train_step
from onediff_jax.run.optimizer import at_step, make_optimizer
from onediff_jax.run.state import new_state
from onediff_jax.run.train_step import (
    flow_loss,
    make_eval_step,
    make_train_step,
    product_operands,
    ray_frames,
    token_weights,
)
from tests.experiments import batches, experiment, random_params, shrunken

KEY = jax.random.key(3)


@functools.cache
def evaluate():
    return jax.jit(make_eval_step(experiment()))


def parts(found=None):
    found = found or experiment()
    tx, schedule = make_optimizer(found.config.optim, found.config.train.steps)
    return tx, jax.jit(make_train_step(found, tx, schedule))


def of_frame() -> np.ndarray:
    return np.where(ray_frames(experiment().layout), experiment().config.flow.ray_weight, 1.0)


def frames_of(row: dict, layout) -> np.ndarray:
    """Valid tokens of every frame (r, f)."""
    found = np.zeros(row["generate"].shape, int)
    for chunk, frame in enumerate(layout.chunk_frame):
        found[:, frame] += row["token_mask"][:, chunk].sum(-1)
    return found


def test_ray_frames():
    layout = RowLayout((Slot("i2i", 2, 4), Slot("multiview", 4, 4), Slot("multiview", 2, 4)))
    np.testing.assert_array_equal(ray_frames(layout), [0, 0, 0, 1, 0, 1, 0, 1])


def test_given_frames_carry_no_loss():
    """Weights that count: valid tokens', without the given frames of clean bundles; per task."""
    layout = experiment().layout
    row = dict(batches()[0])
    row["clean"] = np.ones_like(row["clean"])
    row["clean"][:, 2] = False
    found = evaluate()(random_params(), row, KEY)
    counted = row["generate"] | ~row["clean"][:, layout.frame_slot]
    tokens = frames_of(row, layout) * counted * of_frame()
    want = np.zeros(len(TASK_NAMES))
    np.add.at(want, row["task"][:, layout.frame_slot], tokens)
    np.testing.assert_allclose(found["task_tokens"], want, rtol=1e-6)
    assert 0 < want.sum() < found["valid_tokens"] == row["token_mask"].sum()
    assert found["all_tokens"] == row["token_mask"].size


def test_loss_of_the_zero_network():
    """At the start v = 0: the loss is the mean square of ε − x over the tokens that count."""
    layout = experiment().layout
    row = batches()[0]
    params = jax.jit(experiment().init_params)()
    loss, sums = jax.jit(lambda *args: flow_loss(*args, experiment()))(params, row, KEY)
    noise_key = jax.random.split(KEY, 3)[0]
    target = np.asarray(jax.random.normal(noise_key, row["tokens"].shape)) - row["tokens"]
    given = ~row["generate"] & row["clean"][:, layout.frame_slot]
    weight = row["token_mask"] & ~given[:, layout.chunk_frame][..., None]
    weight = weight * of_frame()[layout.chunk_frame][:, None]
    want = (np.square(target).mean(-1) * weight).sum() / weight.sum()
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(sums["task_loss"].sum() / sums["task_tokens"].sum(), loss, rtol=1e-5)


def test_what_the_network_sees():
    """Noise levels: one per frame; given frames clean and told a small σ."""
    layout = experiment().layout
    row = dict(batches()[0])
    row["clean"] = np.ones_like(row["clean"])
    seen = {}

    class Spy:
        def rows(self, x, positions, timesteps, *args, **kwargs):
            seen.update(x=x, timesteps=timesteps)
            return jnp.zeros_like(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onediff_jax.run.train_step.nnx.merge", lambda *args: Spy())
        flow_loss({}, row, KEY, experiment())
    sigma = np.asarray(seen["timesteps"]) / 1000
    generated = row["generate"]
    assert sigma[~generated].max() <= experiment().config.flow.condition_sigma
    _, time_key, _ = jax.random.split(KEY, 3)
    want = sample_sigmas(time_key, sigma.shape, experiment().times, ray_frames(layout))
    np.testing.assert_allclose(sigma[generated], want[generated], rtol=1e-5)
    clean = ~generated[:, layout.chunk_frame]
    np.testing.assert_array_equal(seen["x"][clean], row["tokens"][clean])
    assert np.abs(np.asarray(seen["x"]) - row["tokens"])[~clean].min(axis=(1, 2)).max() > 0


def test_padding_is_ignored():
    row = dict(next(row for row in batches(8) if not row["token_mask"].all()))
    want = evaluate()(random_params(), row, KEY)
    rng = np.random.default_rng(0)
    padding = ~row["token_mask"][..., None]
    row["tokens"] = np.where(padding, rng.normal(size=row["tokens"].shape), row["tokens"])
    row["tokens"] = row["tokens"].astype(np.float32)
    row["positions"] = np.where(padding, 5, row["positions"])
    words = ~row["text_mask"][..., None]
    row["text"] = np.where(words, 3.0, row["text"]).astype(np.float32)
    found = evaluate()(random_params(), row, KEY)
    for name in want:
        np.testing.assert_allclose(found[name], want[name], rtol=1e-5, err_msg=name)


def counts(opt_state) -> list:
    """Where the schedules of an optimizer's state are."""
    states = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, optax.ScaleByScheduleState))
    return [s.count for s in states if isinstance(s, optax.ScaleByScheduleState)]


def test_steps():
    """A good step, a bad one, a good one."""
    tx, step = parts()
    schedule = make_optimizer(experiment().config.optim, experiment().config.train.steps)[1]
    good = batches()[0]
    bad = {**good, "tokens": np.where(np.arange(64) == 5, np.inf, good["tokens"])}
    start = new_state(random_params(), tx)

    first, metrics = step(start, good)
    assert (int(first.step), int(metrics["skipped"])) == (1, 0)
    assert metrics["learning_rate"] == pytest.approx(1e-3)  # the first of two steps of warm-up
    assert metrics["grad_norm"] > 0
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), first.params, start.params)
    assert min(jax.tree.leaves(moved)) > 0  # everything is trained
    for average, value in zip(
        jax.tree.leaves(first.ema), jax.tree.leaves(first.params), strict=True
    ):
        np.testing.assert_allclose(average, value, rtol=1e-6)  # its decay starts at 0

    second, metrics = step(first, bad)
    assert not np.isfinite(metrics["grad_norm"])
    assert [int(v) for v in (second.step, second.skipped, second.skipped_in_a_row)] == [2, 1, 1]
    for name in ("params", "ema", "opt_state"):
        pairs = zip(
            jax.tree.leaves(at_step(getattr(second, name), 0)),
            jax.tree.leaves(at_step(getattr(first, name), 0)),
            strict=True,
        )
        for new, old in pairs:
            np.testing.assert_array_equal(new, old)

    # The step that was left out counts: state.step alone drives the schedule.
    assert [int(n) for n in counts(second.opt_state)] == [2]
    third, metrics = step(second, good)
    assert metrics["learning_rate"] == pytest.approx(float(schedule(2)))
    assert [int(n) for n in counts(third.opt_state)] == [3]
    assert [int(v) for v in (third.step, third.skipped, third.skipped_in_a_row)] == [3, 1, 0]
    assert metrics["ema_decay"] == pytest.approx(1 - 3 ** (-2 / 3))
    old, new = second.ema["x_embedder"]["kernel"], third.params["x_embedder"]["kernel"]
    want = old + 3 ** (-2 / 3) * (new - old)
    np.testing.assert_allclose(third.ema["x_embedder"]["kernel"], want, atol=1e-7)

    # The same state and batch give the same step; another step number gives other noise.
    again, _ = step(start, good)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(a, b)
    later = step(start._replace(step=jnp.int32(1)), good)[1]
    assert float(later["loss"]) != float(step(start, good)[1]["loss"])


def test_limits_leave_a_step_out():
    """Of one task, of those that have tokens: above its limit nothing changes but the counters."""
    tx, step = parts()
    start = new_state(random_params(), tx)
    row = batches()[0]
    limits = np.full(len(TASK_NAMES), np.inf, np.float32)
    state, metrics = step(start, row, None, limits)
    assert int(metrics["skipped"]) == 0
    task = int(np.argmax(metrics["task_tokens"]))
    limits[task] = 0.99 * metrics["task_loss"][task] / metrics["task_tokens"][task]
    state, metrics = step(start, row, None, limits)
    assert (int(metrics["skipped"]), int(state.step)) == (1, 1)
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(start.params), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("quick", [True, False])
def test_what_operands_are_rounded_to(monkeypatch, quick):
    """By name, or by what the processor does quickly: never while sampling or measuring."""
    monkeypatch.setattr(train_step, "multiplies_bfloat16", lambda: quick)
    found = {
        choice: product_operands(shrunken(train__products=choice))
        for choice in ("auto", "dtype", "bfloat16")
    }
    want = jnp.bfloat16
    assert found == {"auto": want if quick else None, "dtype": None, "bfloat16": want}


def test_rounded_operands_train_alike():
    """A step of other numbers than in float32, and close to them."""
    found = {}
    for choice in ("dtype", "bfloat16"):
        made = make_experiment(shrunken(train__products=choice))
        tx, step = parts(made)
        found[choice] = step(new_state(random_params(), tx), batches()[0])[1]
    for name in ("loss", "grad_norm"):
        exact, rounded = (float(found[choice][name]) for choice in ("dtype", "bfloat16"))
        assert rounded != exact and rounded == pytest.approx(exact, rel=0.03), name


def test_accumulation_is_one_mean_over_all_tokens():
    """4 rows in 2 parts, of which one has far fewer tokens: what the whole batch would give."""
    changes = {f"data__tasks__{name}": 0.0 for name in ("depth2image", "image_inpainting")}
    rows = (("t2i", 1, 1, 4), ("identity", 1, 3, 4))
    changes |= {"rows": rows, "model__depth": 1, "data__tasks__multiview": 0.0}
    made = make_experiment(shrunken(**changes, train__accumulate=2))
    stream = made.batches()
    row = next(stream)
    stream.close()
    assert row["tokens"].shape[0] == 4
    row["token_mask"][1::2, 1:] = False  # part 1 keeps the first picture of its rows alone
    tx, step = parts(made)
    params = jax.tree.map(lambda a: a + 0.05, jax.jit(made.init_params)())
    metrics = step(new_state(params, tx), row)[1]

    key = jax.random.fold_in(jax.random.key(made.config.seed), 0)
    grad = jax.jit(jax.value_and_grad(lambda *args: flow_loss(*args, made), has_aux=True))
    found = []
    for part in (0, 1):
        half = {k: v[part::2] for k, v in row.items()}
        found.append(grad(params, half, jax.random.fold_in(key, part)))
    ((one, sums_one), grads_one), ((two, sums_two), grads_two) = found
    tokens = [float(sums["task_tokens"].sum()) for sums in (sums_one, sums_two)]
    assert tokens[0] >= 2 * tokens[1] > 0
    share = [n / sum(tokens) for n in tokens]
    np.testing.assert_allclose(metrics["loss"], share[0] * one + share[1] * two, rtol=1e-5)
    mean = jax.tree.map(lambda a, b: share[0] * a + share[1] * b, grads_one, grads_two)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(mean), rtol=1e-4)
    for name in ("task_loss", "task_tokens", "valid_tokens", "all_tokens"):
        np.testing.assert_allclose(metrics[name], sums_one[name] + sums_two[name], rtol=1e-5)
    for name in ("slot_loss", "slot_tokens"):  # of every row, in the order of the rows
        np.testing.assert_allclose(metrics[name][0::2], sums_one[name], rtol=1e-5)
        np.testing.assert_allclose(metrics[name][1::2], sums_two[name], rtol=1e-5)


def test_sums_per_slot():
    """They add up to those per task, each slot's under the task of its bundle."""
    found, row = evaluate()(random_params(), batches()[0], KEY), batches()[0]
    for of_slot, of_task in (("slot_loss", "task_loss"), ("slot_tokens", "task_tokens")):
        want = np.zeros(len(TASK_NAMES))
        np.add.at(want, row["task"], found[of_slot])
        np.testing.assert_allclose(found[of_task], want, rtol=1e-5)


def test_tokens_count_in_the_loss_what_their_weights_say():
    batch = batches()[0]
    plain = token_weights(batch, experiment())
    half = jnp.where(jnp.arange(plain.shape[-1]) % 2 == 0, 0.5, 0.0)
    weighted = {**batch, "weights": jnp.broadcast_to(half, plain.shape)}
    np.testing.assert_array_equal(token_weights(weighted, experiment()), plain * half)
