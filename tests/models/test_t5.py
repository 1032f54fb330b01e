"""The text encoder against transformers' T5EncoderModel with random weights."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from onediff_jax.models import load_text_encoder
from onediff_jax.models.t5 import T5Config, layout, load_tokenizer, relative_buckets
from tests.typed import refused

SMALL = dict(vocab_size=200, d_model=32, d_kv=12, d_ff=56, num_layers=3, num_heads=4)


def save_torch(folder, seed=0, feed_forward_proj="gated-gelu"):
    """A transformers encoder, saved; norms away from one, attention far from uniform."""
    torch.manual_seed(seed)
    config = transformers.T5Config(**SMALL, feed_forward_proj=feed_forward_proj)
    model = transformers.T5EncoderModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
            elif "relative" in name:
                parameter.copy_(torch.randn_like(parameter))
            elif ".q." in name:
                parameter.mul_(4)
    model.save_pretrained(folder)
    return model


def captions(batch, length, seed=0):
    """ids and a mask of other lengths: a full one, a short one, the rest random."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, SMALL["vocab_size"], (batch, length)).astype(np.int32)
    lengths = np.concatenate([[length, 1], rng.integers(1, length + 1, batch - 2)])
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    return ids * mask, mask


def torch_call(model, ids, mask):
    with torch.no_grad():
        ids, mask = torch.from_numpy(ids).long(), torch.from_numpy(mask)
        return model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    return save_torch(folder), folder


@pytest.fixture(scope="module")
def ours(t5):
    return load_text_encoder(t5[1])


@pytest.mark.parametrize("length", [1, 17, 300])
def test_float32_equals_torch(t5, ours, length):
    ids, mask = captions(3, length)
    result = ours(ids, mask)
    assert result.shape == (3, length, ours.width) and result.dtype == jnp.float32
    np.testing.assert_allclose(result, torch_call(t5[0], ids, mask), atol=1e-4, rtol=0)


def test_plain_relu_equals_torch(tmp_path):
    model = save_torch(tmp_path, feed_forward_proj="relu")
    ids, mask = captions(3, 24)
    result = load_text_encoder(tmp_path)(ids, mask)
    np.testing.assert_allclose(result, torch_call(model, ids, mask), atol=1e-4, rtol=0)


def test_bfloat16_is_close_to_torch(t5):
    encoder = load_text_encoder(t5[1], dtype="bfloat16")
    ids, mask = captions(4, 64)
    result, theirs = np.asarray(encoder(ids, mask)), torch_call(t5[0], ids, mask)
    assert result.dtype == np.float32 and encoder.params["embedding"].dtype == jnp.bfloat16
    assert np.linalg.norm(result - theirs) / np.linalg.norm(theirs) < 2e-2


def test_padding_changes_nothing(ours):
    ids, mask = captions(3, 17)
    wide_ids, wide_mask = (np.pad(a, ((0, 0), (0, 283))) for a in (ids, mask))
    short, wide = np.asarray(ours(ids, mask)), np.asarray(ours(wide_ids, wide_mask))
    keep = mask.astype(bool)
    np.testing.assert_allclose(wide[:, :17][keep], short[keep], atol=1e-4)
    assert np.isfinite(np.asarray(ours(ids, np.zeros_like(mask)))).all()


@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (32, 100), (16, 64), (64, 1000)])
def test_relative_buckets(buckets, max_distance):
    position = torch.arange(1200)
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket(
        position[None] - position[:, None], True, buckets, max_distance
    )
    np.testing.assert_array_equal(relative_buckets(1200, buckets, max_distance), theirs.numpy())


def test_full_size_names_and_shapes():
    """T5 v1.1 XL's encoder, without its weights."""
    xl = dict(d_model=2048, d_ff=5120, num_layers=24, num_heads=32, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        model = transformers.T5EncoderModel(transformers.T5Config(**xl))
    theirs = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    _, shapes, sources = layout(T5Config(**xl), jnp.bfloat16)
    assert {name: s.shape for s in sources.values() for name in s.names} == theirs
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 1_223_527_424


def test_apply_takes_other_params(ours):
    ids, mask = captions(3, 17)
    apply = jax.jit(ours.apply)
    np.testing.assert_allclose(apply(ours.params, ids, mask), ours(ids, mask), atol=1e-6)
    assert not np.any(apply(jax.tree.map(jnp.zeros_like, ours.params), ids, mask))
    assert ours.params["layers"]["q"].shape == (3, 32, 4, 12)


def test_wrong_inputs(ours):
    ids, mask = captions(3, 17)
    with pytest.raises(ValueError, match="vocabulary of 200"):
        ours(ids + 200, mask)
    with refused(r"\(B, L\)"):
        ours(ids, mask[:, :4])
    with refused("integers"):
        ours(ids.astype(np.float32), mask)
    assert np.isnan(np.asarray(ours(jnp.asarray(ids).at[0, 0].set(999), mask))[0, 0]).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "umt5"}, "umt5"),
        ({"feed_forward_proj": "gated-silu"}, "gated-silu.*gated-gelu"),
        ({"num_heads": 5}, "q.weight has shape"),
    ],
)
def test_unsupported_config(tmp_path, t5, change, message):
    config = json.loads((t5[1] / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((t5[1] / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=message):
        load_text_encoder(tmp_path)


def test_both_names_of_the_embedding(tmp_path, t5, ours):
    from safetensors.torch import save_file

    model, folder = t5
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    for names in (["shared.weight"], ["encoder.embed_tokens.weight"], []):
        kept = {name: tensor for name, tensor in tensors.items() if name not in names}
        save_file(kept, tmp_path / "model.safetensors")
        params = load_text_encoder(tmp_path).params
        np.testing.assert_array_equal(params["embedding"], ours.params["embedding"])
    tensors["shared.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="must be equal"):
        load_text_encoder(tmp_path)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [("▁", -2.0), ("▁a", -1.0), ("▁red", -1.5), ("▁ball", -1.5), ("s", -3.0)]
    transformers.T5Tokenizer(vocab=special + words, extra_ids=0).save_pretrained(folder)
    return folder


def test_tokenizer_pads_and_cuts(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder, max_length=6)
    ids, mask = tokenizer(["a red ball", "", "a a a a a a a a a"])
    assert ids.dtype == mask.dtype == np.int32
    assert ids.tolist() == [[4, 5, 6, 1, 0, 0], [1, 0, 0, 0, 0, 0], [4, 4, 4, 4, 4, 1]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1] * 6]
    assert load_tokenizer(tokenizer_folder)(["a"])[0].shape == (1, 300)
    with pytest.raises(ValueError, match="list of strings"):
        tokenizer("a red ball")


def test_tokenizer_errors(tmp_path, tokenizer_folder, monkeypatch):
    with pytest.raises(ValueError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        load_tokenizer(tokenizer_folder)
