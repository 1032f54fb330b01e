"""Grouped-query attention against loops over heads."""

import jax.numpy as jnp
import numpy as np
import pytest

from onediff_jax.models.attention.dispatch import attention
from tests.typed import refused

B, T, S, N, K, H = 2, 5, 7, 6, 2, 4


def arrays(scale: float = 1.0) -> tuple:
    rng = np.random.default_rng(0)
    shapes = ((B, T, N, H), (B, S, K, H), (B, S, K, H))
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return scale * q, k, v


def naive(q, k, v, key_head, mask=None, softcap=None):
    out = np.zeros_like(q)
    for b in range(B):
        for n in range(N):
            key = key_head(n)
            logits = q[b, :, n].astype(np.float64) @ k[b, :, key].T / np.sqrt(H)
            if softcap is not None:
                logits = softcap * np.tanh(logits / softcap)
            if mask is not None:
                logits[:, ~mask[b]] = -np.inf
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v[b, :, key]
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    "heads, key_head", [("repeat", lambda n: n // (N // K)), ("tile", lambda n: n % K)]
)
def test_equals_loops(heads, key_head, softcap, masked):
    q, k, v = arrays(scale=3.0)
    mask = np.arange(S) < np.array([[3], [6]]) if masked else None
    found = attention(q, k, v, mask=mask, softcap=softcap, heads=heads)
    want = naive(q, k, v, key_head, mask, softcap)
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_head_orders_differ():
    q, k, v = arrays()
    assert np.abs(attention(q, k, v) - attention(q, k, v, heads="tile")).max() > 0.1


def test_masked_keys_do_not_matter():
    q, k, v = arrays()
    mask = jnp.arange(S)[None].repeat(B, 0) < 4
    found = attention(q, k, v, mask=mask)
    k[:, 4:], v[:, 4:] = 1e4, -1e4
    np.testing.assert_array_equal(attention(q, k, v, mask=mask), found)


def test_no_key_at_all_stays_finite():
    q, k, v = arrays()
    assert np.isfinite(attention(q, k, v, mask=np.zeros((B, S), bool))).all()


def test_softmax_is_float32_in_bfloat16():
    """Equal logits over many keys: weights of 1/1000 sum to one within bfloat16's rounding."""
    q = jnp.zeros((1, 1, 1, H), jnp.bfloat16)
    k = jnp.ones((1, 1000, 1, H), jnp.bfloat16)
    out = attention(q, k, k)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 1.0, atol=0.01)


def test_errors():
    q, k, v = arrays()
    with pytest.raises(ValueError, match="5 query heads must be a multiple of 2 key heads"):
        attention(q[:, :, :5], k, v)
    with refused("heads='first' must be 'repeat' or 'tile'"):
        attention(q, k, v, heads="first")
