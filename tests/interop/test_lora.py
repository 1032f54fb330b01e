"""LoRA fine-tuning: from a released folder to adapters that peft and diffusers read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from onediff_jax.experiment.build import make_experiment
from onediff_jax.interop import save_pretrained
from onediff_jax.interop.lora import write_adapter
from onediff_jax.interop.model import PretrainedModel
from onediff_jax.models.lora import LoRA, join
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.state import new_state
from onediff_jax.run.train_step import make_eval_step, make_train_step
from tests.experiments import batches, experiment, random_params
from tests.runs import lora_config

KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_pretrained(PretrainedModel(experiment().model_config, random_params()), folder)
    return make_experiment(lora_config(folder, optim__learning_rate=2e-2))


@pytest.fixture(scope="module")
def trained(adapted):
    """(state before, state after 40 steps on one batch, the frozen weights after)."""
    tx, schedule = make_optimizer(adapted.config.optim, 40)
    step = jax.jit(make_train_step(adapted, tx, schedule))
    state = first = new_state(jax.jit(adapted.init_params)(), tx)
    frozen = jax.tree.map(jnp.copy, random_params())
    for _ in range(40):
        state, metrics = step(state, batches()[0], frozen)
        assert metrics["skipped"] == 0
    return first, state, frozen


def test_only_adapters_are_trained(adapted, trained):
    first, last, frozen = trained
    leaves = jax.tree_util.tree_leaves_with_path(last.params)
    assert {path[-1].key for path, _ in leaves} == {"lora_a", "lora_b"}
    assert len(leaves) == 8
    jax.tree.map(np.testing.assert_array_equal, frozen, random_params())
    assert jax.tree.map(jnp.shape, frozen) == jax.tree.map(
        lambda leaf: leaf.shape, adapted.frozen_shapes
    )
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), first.params, last.params)
    assert min(jax.tree.leaves(moved)) > 0


def test_the_loss_of_its_batch_goes_down(adapted, trained):
    first, last, frozen = trained
    evaluate = jax.jit(make_eval_step(adapted))
    losses = [
        float(evaluate(join(state.params, frozen), batches()[0], KEY)["task_loss"].sum())
        for state in (first, last)
    ]
    assert losses[1] < 0.95 * losses[0]


def test_a_step_that_accumulates_keeps_the_shapes(adapted):
    tx, schedule = make_optimizer(adapted.config.optim, 12)
    config = adapted.config.copy_and_resolve_references()
    config.train.batch_rows, config.train.accumulate = 1, 2
    step = make_train_step(make_experiment(config), tx, schedule)
    state = jax.eval_shape(lambda: new_state(adapted.init_params(), tx))
    after, _ = jax.eval_shape(step, state, batches()[0], adapted.frozen_shapes)
    assert after == state


def test_frozen_weights_may_be_bfloat16(adapted):
    config = adapted.config.copy_and_resolve_references()
    config.lora.frozen_dtype = "bfloat16"
    found = make_experiment(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.frozen_shapes)} == {jnp.dtype("bfloat16")}
    trained = jax.tree.leaves(jax.eval_shape(found.init_params))
    assert {leaf.dtype for leaf in trained} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"init_from": ""}, "init_from must name them"),
        ({"lora.frozen_dtype": "int8"}, "lora.frozen_dtype='int8' must be one of"),
        ({"lora.targets": ("wz",)}, "choose from"),
    ],
)
def test_bad_configs(adapted, change, message):
    config = adapted.config.copy_and_resolve_references()
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        make_experiment(config)


def test_adapter_file(tmp_path):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 6, 3), (2, 3, 4)))
    adapters = {"layers": {"feed_forward": {"w1": {"lora_a": a, "lora_b": b}}}}
    file = write_adapter(tmp_path, adapters, LoRA(3, 6.0, ("w1",)), dtype="float32")
    assert file == tmp_path / "pytorch_lora_weights.safetensors"
    found = load_file(file)
    assert sorted(found) == [
        f"transformer.layers.{i}.feed_forward.w1.lora_{x}.weight" for i in range(2) for x in "AB"
    ]
    for i in range(2):
        of_a, of_b = (
            found[f"transformer.layers.{i}.feed_forward.w1.lora_{x}.weight"] for x in "AB"
        )
        np.testing.assert_array_equal(of_a, a[i].T)
        np.testing.assert_allclose((of_b @ of_a).T, 2.0 * a[i] @ b[i], rtol=1e-5)
