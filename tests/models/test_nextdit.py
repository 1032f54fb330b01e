"""Next-DiT against golden outputs of the released implementation, and its properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.models.nextdit import NextDiT, NextDiTConfig, patchify, unpatchify
from onediff_jax.models.rope import cos_sin, grid_positions, rope_angles
from tests.models.golden import GOLDEN, compiled, inputs, load_case, load_model
from tests.typed import refused

CASES = ("c00_1frame", "c01_2frames", "c03_nonsquare", "c04_batch3", "c07_scale_linear")
CAPTION = 48


@functools.cache
def tiny() -> NextDiT:
    return load_model("nextdit_tiny")


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_released_implementation(case):
    arrays = load_case("nextdit_tiny/cases.npz", case)
    scaling = {
        "rope_scale": float(arrays["scale_factor"]),
        "rope_watershed": float(arrays["scale_watershed"]),
    }
    found = compiled(tiny(), **scaling)(*inputs(arrays))
    np.testing.assert_allclose(found, arrays["output"], atol=1e-4)


def test_timesteps_inside_a_frame_are_refused():
    """The released network takes one per token; ours takes one per frame, and does not guess."""
    case = load_case("nextdit_tiny/cases.npz", "c11_elementwise_t")
    timesteps, mask = case["timesteps"], case["encoder_attention_mask"]
    assert np.ptp(timesteps[0, 0]) > 0
    with refused("one per frame"):
        tiny()(case["samples"], timesteps, case["encoder_hidden_states"], mask)


@pytest.mark.parametrize("softcap, output", [(None, "output"), (30.0, "output_softcap")])
def test_soft_cap(softcap, output):
    case = load_case("nextdit_tiny_softcap/cases.npz", "c01_2frames")
    found = compiled(load_model("nextdit_tiny_softcap", softcap))(*inputs(case))
    np.testing.assert_allclose(found, case[output], atol=5e-4)
    assert np.abs(case["output"] - case["output_softcap"]).max() > 0.05  # the cap matters here


def test_intermediates():
    """Every part that can be called alone, given what the released one was given."""
    model = tiny()
    with np.load(GOLDEN / "nextdit_tiny" / "intermediates_c03.npz") as arrays:
        want = dict(arrays)
    case = load_case("nextdit_tiny/cases.npz", "c03_nonsquare")
    samples, timesteps, text, mask = inputs(case)
    check = functools.partial(np.testing.assert_allclose, atol=5e-5)
    tokens = patchify(samples, 2).reshape(2, 120, -1)
    np.testing.assert_array_equal(tokens, want["patchify_tokens"])
    check(model.x_embedder(tokens), want["x_embedder"])
    time, pooled = model.t_embedder(timesteps), model.y_embedder(text, mask)
    check(time, want["t_embedder"])
    check(pooled, want["y_embedder"])
    rope = cos_sin(rope_angles(grid_positions(2, 6, 10)[None], model.cfg.head_dim))
    check(rope[0], want["freqs_cis_real"])
    check(rope[1], want["freqs_cis_imag"])

    graphdef, params = nnx.split(model.layers)
    block = nnx.merge(graphdef, jax.tree.map(lambda a: a[0], params))
    cond = time + pooled[:, None]
    x = jnp.asarray(want["x_embedder"])
    check(block.adaLN_modulation(cond), want["layers.0.adaLN_modulation"])
    check(block.attention_norm1(x), want["layers.0.attention_norm1"])
    check(block.attention_y_norm(text), want["layers.0.attention_y_norm"])
    inner = block.attention
    ky = inner.ky_norm(inner.wk_y(block.attention_y_norm(text)))
    check(ky, want["layers.0.attention.ky_norm"])
    check(block.attention_norm2(want["layers.0.attention"]), want["layers.0.attention_norm2"])
    chunks = (2, 2, 60, -1)
    rope = tuple(a.reshape(1, 2, 60, -1) for a in rope)
    layout = RowLayout((Slot("any", 2, 60),))
    out = block(x.reshape(chunks), cond, text[:, None], rope, (None, mask[:, None]), layout)
    check(out.reshape(x.shape), want["layers.0"])
    final = model.final_layer(jnp.asarray(want["layers.2"]).reshape(chunks), cond)
    check(final.reshape(2, 120, -1), want["final_layer"])


def test_released_shape():
    model = nnx.eval_shape(lambda: NextDiT(NextDiTConfig(), rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == 2_800_389_184
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert (NextDiTConfig().head_dim, NextDiTConfig().ffn_dim) == (120, 10240)


def test_initial_output_is_zero():
    """Zero feed-forward output, text gate and last projection: training starts from v = 0."""
    cfg = NextDiTConfig(48, 2, 4, 2, 32, caption_channels=8)
    graphdef, params = jax.jit(lambda: nnx.split(NextDiT(cfg, rngs=nnx.Rngs(0))))()
    model = nnx.merge(graphdef, params)
    assert not model.layers.feed_forward.w2.kernel[...].any()
    assert not model.layers.attention.gate[...].any()
    kernels = model.layers.attention.wq.kernel[...]
    assert kernels.shape == (2, 48, 48)
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1  # layers start differently
    x = jax.random.normal(jax.random.key(0), (1, 1, 4, 4, 16))
    text, mask = jnp.ones((1, 3, 8)), jnp.ones((1, 3), bool)
    assert not compiled(model)(x, jnp.full((1, 1), 500.0), text, mask).any()


# Rows. Two i2i slots (adjacent, hence one attention call) and one of another shape, with padding:
# slot 1 holds one frame of its two, and slot 2 uses 4 tokens of 8 per frame.
LAYOUT = RowLayout((Slot("a", 2, 16), Slot("a", 2, 16), Slot("b", 3, 8)))
SHAPES = ((2, 8, 8), (1, 8, 8), (3, 4, 4))  # frames, height, width in latents


def make_row(seed: int = 0) -> tuple[dict, list]:
    """Random bundles of SHAPES in a row of LAYOUT with junk in the padding; and apart."""
    rng = np.random.default_rng(seed)
    c, t = LAYOUT.chunks, LAYOUT.chunk
    row = {
        "tokens": rng.normal(size=(1, c, t, 64)).astype(np.float32),
        "positions": rng.integers(0, 9, (1, c, t, 3)).astype(np.int32),
        "timesteps": rng.uniform(0, 1000, (1, LAYOUT.frames)).astype(np.float32),
        "text": rng.normal(size=(1, 3, 7, CAPTION)).astype(np.float32),
        "text_mask": np.arange(7) < np.array([[[7], [3], [1]]]),
        "token_mask": np.zeros((1, c, t), bool),
    }
    bundles, chunk, frame = [], 0, 0
    for slot, (f, h, w) in zip(LAYOUT.slots, SHAPES, strict=True):
        latents = rng.normal(size=(1, f, h, w, 16)).astype(np.float32)
        size = slot.frames * slot.tokens // t
        n = h * w // 4
        part = slice(chunk, chunk + size)
        view = (slot.frames, slot.tokens)
        row["tokens"][0, part].reshape(*view, 64)[:f, :n] = patchify(latents, 2)[0]
        grid = np.asarray(grid_positions(f, h // 2, w // 2)).reshape(f, n, 3)
        row["positions"][0, part].reshape(*view, 3)[:f, :n] = grid
        row["token_mask"][0, part].reshape(view)[:f, :n] = True
        index = len(bundles)
        arguments = (
            latents,
            row["timesteps"][:, frame : frame + f],
            row["text"][:, index],
            row["text_mask"][:, index],
        )
        bundles.append((part, view, arguments))
        chunk, frame = chunk + size, frame + slot.frames
    return row, bundles


def test_rows_equal_frames():
    """A bundle in a row gives what it gives alone, whatever lies in the padding and around it."""
    row, bundles = make_row()
    rows = compiled(tiny(), "rows", layout=LAYOUT)
    found = rows(**row)
    for (part, view, arguments), (f, h, w) in zip(bundles, SHAPES, strict=True):
        tokens = found[0, part].reshape(*view, 64)[:f, : h * w // 4]
        alone = compiled(tiny())(*arguments)
        np.testing.assert_allclose(unpatchify(tokens[None], h, w, 2), alone, atol=2e-5)

    # Other padding, other captions' padding: nothing valid changes.
    junk, _ = make_row(seed=1)
    other = dict(row)
    valid = row["token_mask"][..., None]
    for name in ("tokens", "positions"):
        other[name] = np.where(valid, row[name], junk[name])
    other["text"] = np.where(row["text_mask"][..., None], row["text"], junk["text"])
    np.testing.assert_allclose(rows(**other) * valid, found * valid, atol=1e-6)

    # Another bundle, timestep and caption in slot 1: slots 0 and 2 keep their bits.
    other = {k: v.copy() for k, v in row.items()}
    part = bundles[1][0]
    other["tokens"][0, part], other["timesteps"][0, 2:4] = junk["tokens"][0, part], 77.0
    other["text"][0, 1], other["text_mask"][0, 1] = junk["text"][0, 1], True
    changed = rows(**other)
    outside = np.setdiff1d(np.arange(LAYOUT.chunks), np.arange(part.start, part.stop))
    np.testing.assert_array_equal(changed[0, outside], found[0, outside])
    assert np.abs(changed[0, part] - found[0, part]).max() > 0.1


def test_frames_of_a_bundle_attend_to_each_other():
    row, bundles = make_row()
    rows = compiled(tiny(), "rows", layout=LAYOUT)
    found = rows(**row)
    first = slice(0, 2)  # chunks of frame 0 of slot 0
    row["tokens"][0, first] += 1.0
    assert np.abs(rows(**row) - found)[0, 2:4].max() > 1e-3


def test_remat_and_unroll_change_nothing():
    """Neither the loss nor the gradients, up to rounding."""
    _, bundles = make_row()
    arguments = bundles[0][2]
    want = None
    for options in ({}, {"remat": "attention", "unroll": 3}, {"remat": "mixed"}, {"remat": "full"}):
        graphdef, params = nnx.split(load_model("nextdit_tiny", **options))

        def loss(params, graphdef=graphdef):
            return jnp.square(nnx.merge(graphdef, params)(*arguments)).mean()

        value, grads = jax.jit(jax.value_and_grad(loss))(params)
        found = [value, *jax.tree.leaves(nnx.to_pure_dict(grads))]
        want = want or found
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max() + 1))


def test_bfloat16_stays_close():
    """Activations in bfloat16: relative error of a few percent of the output's deviation."""
    case = load_case("nextdit_tiny/cases.npz", "c01_2frames")
    found = compiled(load_model("nextdit_tiny", dtype=jnp.bfloat16))(*inputs(case))
    assert found.dtype == np.float32
    error = np.sqrt(np.square(found - case["output"]).mean())
    assert 1e-4 < error < 0.05 * case["output"].std()


def test_patches():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(1, 2, 4, 6, 3)
    tokens = patchify(x, 2)
    assert tokens.shape == (1, 2, 6, 12)
    # Token 4 of frame 1 is row 1, column 1: latents (2..3, 2..3), flattened (row, column, channel).
    np.testing.assert_array_equal(tokens[0, 1, 4], x[0, 1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(tokens, 4, 6, 2), x)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"latents": (1, 2, 8, 8, 15)}, "16 channels"),
        ({"latents": (1, 2, 8, 7, 16)}, "multiples of 2"),
        ({"timesteps": (1, 3)}, r"timesteps \(1, 3\) must be one per frame, \(1, 2\)"),
        ({"text": (1, 5, 47)}, "48 channels"),
    ],
)
def test_bad_shapes(change, message):
    shapes = {"latents": (1, 2, 8, 8, 16), "timesteps": (1, 2), "text": (1, 5, 48)} | change
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with refused(message):
        tiny()(*arrays.values(), np.ones((1, 5), bool))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_heads": 0}, "model.num_heads=0 must be positive"),
        ({"hidden_size": 100}, "model.hidden_size=100 must be a multiple of num_heads=32"),
        ({"num_kv_heads": 5}, "num_kv_heads=5"),
        ({"hidden_size": 3200}, "head dim 100 must be a multiple of 6"),
        ({"attention_softcap": 0.0}, "model.attention_softcap=0.0 must be positive, or None"),
        ({"patch_size": 0}, "model.patch_size=0 must be positive"),
        ({"caption_channels": -1}, "model.caption_channels=-1 must be positive"),
        ({"norm_eps": 0.0}, "model.norm_eps=0.0 must be positive"),
    ],
)
def test_bad_config(fields, message):
    with pytest.raises(ValueError, match=message):
        NextDiTConfig(**fields)


def test_unknown_remat_lists_the_choices():
    with refused("remat='some' must be one of .*'attention'"):
        load_model("nextdit_tiny", remat="some")
