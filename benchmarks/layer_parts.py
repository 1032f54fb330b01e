"""Parts of a transformer layer by themselves, at the shapes of a preset's batch, with gradients."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from onediff_jax.experiment.build import DTYPES, Experiment
from onediff_jax.models.attention.dispatch import attention
from onediff_jax.models.layers import operands
from onediff_jax.models.remat import rematerialised
from onediff_jax.models.rope import cos_sin, rope_angles
from onediff_jax.parallel.xla_flags import compiler_options
from onediff_jax.run.train_step import product_operands

# Part → the parameters of a layer that it owns; self-attention has none, its projections are apart.
PARTS: dict[str, tuple[str, ...]] = {
    "attention layer": ("attention/",),
    "self-attention": (),
    "text attention": ("attention/wk_y/", "attention/wv_y/", "attention/ky_norm/"),
    "feed-forward": ("feed_forward/",),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Row:
    """What a layer reads beside its input, in the dtype of the model."""

    text: jax.Array
    rope: tuple[jax.Array, jax.Array]
    token_mask: jax.Array
    text_mask: jax.Array


def stacks(experiment: Experiment, params: Any, batch: dict) -> dict[str, Callable[[], Any]]:
    """Each part as a stack of `depth` layers of nothing else: x + part(x), forward and backward.

    Unrolling, recomputation and what products are rounded to are the training's. A call runs it and
    waits for its gradients.
    """
    config, dtype = experiment.config.model, DTYPES[experiment.config.model.dtype]
    rope = cos_sin(rope_angles(batch["positions"], experiment.model_config.head_dim))
    row = Row(batch["text"].astype(dtype), rope, batch["token_mask"], batch["text_mask"])
    graphdef, layers = nnx.split(nnx.merge(experiment.graphdef, params).layers)
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(layers), sep="/")
    shape = (*batch["tokens"].shape[:3], config.hidden_size)
    x = jax.random.normal(jax.random.key(0), shape, dtype)

    def stack(name):
        own = {path: leaf for path, leaf in flat.items() if path.startswith(PARTS[name] or "none")}
        rest = {path: leaf for path, leaf in flat.items() if path not in own}

        def forward(own, rest, row, x):
            def body(x, layer):
                block = nnx.merge(graphdef, traverse_util.unflatten_dict(layer, sep="/"))
                return x + _part(name, block, x, row, experiment.layout), None

            body = rematerialised(body, config.remat)
            with operands(product_operands(experiment.config)):
                return jax.lax.scan(body, x, own | rest, unroll=config.unroll or config.depth)[0]

        @functools.partial(jax.jit, compiler_options=compiler_options(jax.default_backend()))
        def both(own, rest, row, x):
            y, backward = jax.vjp(lambda own, x: forward(own, rest, row, x), own, x)
            return backward(y)

        return lambda: jax.block_until_ready(both(own, rest, row, x))

    return {name: stack(name) for name in PARTS}


def _part(name: str, block: Any, x: jax.Array, row: Row, layout: Any) -> jax.Array:
    """x (r, c, t, d) → the same shape; without projections, queries (keys, values) are x itself."""
    if name == "feed-forward":
        return block.feed_forward(x)
    part = block.attention
    if name == "attention layer":
        return part(x, row.text, row.rope, (row.token_mask, row.text_mask), layout)
    rows, slots, words = row.text.shape[:3]
    heads, kv_heads = part.num_heads, part.num_kv_heads
    if name == "text attention":
        k_text = part.ky_norm(part.wk_y(row.text)).reshape(rows, slots, words, kv_heads, -1)
        v_text = part.wv_y(row.text).reshape(rows, slots, words, kv_heads, -1)
    outputs = []
    for run in layout.runs:
        batch, chunks = rows * run.count, slice(run.start, run.stop)
        q = x[:, chunks].reshape(batch, run.tokens, heads, -1)
        if name == "self-attention":
            mask = row.token_mask[:, chunks].reshape(batch, run.tokens)
            keys, values = q[:, :, :kv_heads], q[:, :, -kv_heads:]
            out = attention(q, keys, values, mask=mask, softcap=part.softcap)
        else:
            k, v, mask = (
                a[:, run.slot : run.slot + run.count].reshape(batch, *a.shape[2:])
                for a in (k_text, v_text, row.text_mask)
            )
            out = attention(q, k, v, mask=mask, heads="tile")
        outputs.append(out.reshape(rows, run.stop - run.start, *x.shape[2:]))
    return jnp.concatenate(outputs, axis=1)
