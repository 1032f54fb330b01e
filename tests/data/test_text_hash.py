"""The hashed text encoder: the same bits everywhere, order shows, padding is masked."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from onediff_jax.data.text_hash import HashedTextEncoder, split_words, word_vector

PROMPTS = ["A red cube, on #00FFFF floor!", ""]
SHA = "10749cc37572fb80"


def test_words():
    prompt = "[[Depth2Image]] A red cube, on <#00FFFF cyan mask: sheep>!"
    want = "[[depth2image]] a red cube , on < #00ffff cyan mask : sheep > !"
    assert split_words(prompt) == want.split()
    assert split_words("") == []
    assert split_words("[[img0]] one [[img1]] two")[2:] == ["[[img1]]", "two"]


def test_values_never_change():
    """Weights are trained on these vectors."""
    want = [0.725713849, 1.279929876, -0.430554807, -0.793742061, 0.621742189, -1.266662598]
    np.testing.assert_allclose(word_vector("cube", 6), want, atol=1e-7)
    # Past the first 64-byte digest, and in a task token.
    want = [0.983343720, 1.452458382, -0.445037901, -1.054067731]
    np.testing.assert_allclose(word_vector("[[depth2image]]", 40)[[0, 31, 32, 39]], want, atol=1e-7)
    embeddings, _ = HashedTextEncoder(16, 6)(PROMPTS)
    want = [-0.648886085, 0.510541916, 0.304396033, -0.147709519]
    np.testing.assert_allclose(embeddings[0, 1, :4], want, atol=1e-7)
    assert hashlib.sha256(embeddings.tobytes()).hexdigest()[:16] == SHA


def test_same_bits_in_another_process():
    """Python's own hash() is salted per process; this must not be."""
    code = (
        "import hashlib; from onediff_jax.data.text_hash import HashedTextEncoder as E;"
        f"print(hashlib.sha256(E(16, 6)({PROMPTS!r})[0].tobytes()).hexdigest()[:16])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert found.stdout.strip() == SHA


def test_unit_variance_and_distinct_words():
    vectors = np.stack([word_vector(f"word{i}", 64) for i in range(500)])
    assert abs(vectors.mean()) < 0.02 and abs(vectors.std() - 1) < 0.01
    alike = vectors @ vectors.T / 64 - np.eye(500) * (vectors**2).mean(1)
    assert np.abs(alike).max() < 0.75
    # A narrower encoder reads the first part of the same vector.
    np.testing.assert_array_equal(word_vector("cube", 8), word_vector("cube", 64)[:8])


def test_order_shows():
    encoder = HashedTextEncoder(32, 8)
    one, other = encoder.embed("red cube blue ball"), encoder.embed("blue cube red ball")
    assert np.abs(one[1] - other[1]).max() > 0.5  # the same word between other words
    mixed = word_vector("red", 32) + 0.5 * np.roll(word_vector("cube", 32), -1)
    np.testing.assert_allclose(one[0], mixed / np.sqrt(1.5), atol=1e-6)


def test_padding_and_cutting():
    encoder = HashedTextEncoder(8, 3)
    embeddings, mask = encoder(["one", "one two three four", ""])
    assert embeddings.shape == (3, 3, 8) and embeddings.dtype == np.float32
    np.testing.assert_array_equal(mask, [[1, 0, 0], [1, 1, 1], [1, 0, 0]])
    assert not embeddings[~mask].any() and not embeddings[2].any()
    np.testing.assert_array_equal(embeddings[1], encoder.embed("one two three")[:3])


@pytest.mark.parametrize("dim, length", [(0, 4), (4, -1)])
def test_bad_sizes(dim, length):
    with pytest.raises(ValueError, match=f"dim={dim} and max_length={length} must be positive"):
        HashedTextEncoder(dim, length)
