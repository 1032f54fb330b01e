"""Every implementation of attention that runs here agrees with plain XLA, gradients included."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onediff_jax.models.attention import dispatch as entry
from onediff_jax.models.attention import gpu as attention_gpu
from onediff_jax.models.attention.chunked import chunked
from onediff_jax.models.attention.dispatch import attention, choose
from onediff_jax.models.attention.plain import reference
from onediff_jax.models.remat import rematerialised

ROOT = Path(__file__).parents[3]
B, T, S, N, K, H = 2, 200, 150, 4, 2, 24  # neither length is a multiple of a kernel's blocks
TOLERANCE = 5e-6  # of the largest number, in float32: another order of summation


def arrays(dtype=jnp.float32) -> tuple:
    rng = np.random.default_rng(0)
    shapes = ((B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H))
    q, k, v, weights = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    return 3 * q, k, v, weights


def outputs(attend) -> list[jax.Array]:
    """The result and the gradients of a weighted sum of it."""
    q, k, v, weights = arrays()

    def loss(q, k, v):
        out = attend(q, k, v)
        return (out * weights).sum(), out

    grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return [out, *grads]


def same(found: list, want: list) -> None:
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE * float(jnp.abs(b).max()))


def masks(name: str) -> jax.Array | None:
    """Which keys there are: "some" leaves holes, "none" has a sequence without any."""
    if name == "all":
        return None
    mask = np.random.default_rng(1).random((B, S)) < 0.7
    mask[0] &= name != "none"
    return jnp.asarray(mask)


@pytest.mark.parametrize(
    "heads, softcap, mask",
    [("repeat", 2.0, "some"), ("tile", None, "none"), ("repeat", None, "all")],
)
def test_splash_equals_the_reference(heads, softcap, mask):
    """The TPU kernel, interpreted."""
    fields = {"heads": heads, "softcap": softcap, "mask": masks(mask)}
    found = outputs(lambda *x: attention(*x, implementation="splash", **fields))
    same(found, outputs(lambda *x: attention(*x, implementation="reference", **fields)))


@pytest.mark.parametrize(
    "heads, softcap, mask",
    [("repeat", 2.0, "some"), ("tile", None, "none"), ("repeat", 30.0, "all")],
)
def test_triton_equals_the_reference(heads, softcap, mask):
    """The GPU kernel, interpreted; queries and keys that are no whole tiles."""
    fields = {"heads": heads, "softcap": softcap, "mask": masks(mask)}
    found = outputs(lambda *x: attention(*x, implementation="triton", **fields))
    same(found, outputs(lambda *x: attention(*x, implementation="reference", **fields)))


def test_triton_is_kept_by_name(monkeypatch):
    """What remat keeps of it: the forward kernel runs once. Lowered for a GPU, which needs none."""
    monkeypatch.setattr(entry, "_platform", lambda: "gpu")
    q, k, v, _ = arrays(jnp.bfloat16)

    def loss(q):
        attend = functools.partial(attention, k=k, v=v, softcap=30.0, implementation="triton")
        layer = rematerialised(lambda q: attend(jnp.sin(q)), "attention")
        return layer(q).astype(jnp.float32).sum()

    text = jax.jit(jax.grad(loss)).trace(q).lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r'(%\d+)(?::2)? = .*name = "attention_(\w+)"', text)
    # What nothing reads, XLA leaves out.
    used = [name for result, name in calls if len(re.findall(rf"{result}\b", text)) > 1]
    assert sorted(used) == ["backward_queries", "forward"]  # of q alone


@pytest.mark.parametrize("softcap, mask", [(2.0, "some"), (None, "none")])
def test_chunks_equal_the_whole(softcap, mask):
    found = outputs(lambda *x: chunked(*x, masks(mask), softcap=softcap, chunk=64))
    same(found, outputs(lambda *x: reference(*x, masks(mask), softcap=softcap)))


def test_chunks_by_name():
    found = outputs(lambda *x: attention(*x, implementation="chunked", heads="tile"))
    same(found, outputs(lambda *x: attention(*x, implementation="reference", heads="tile")))


def test_without_a_key_the_mean_of_all():
    q, k, v, _ = arrays()
    out = attention(q, k, v, mask=jnp.zeros((B, S), bool), implementation="splash")
    want = np.repeat(np.asarray(v).mean(1), N // K, axis=1)
    np.testing.assert_allclose(out, np.broadcast_to(want[:, None], out.shape), atol=1e-6)


@pytest.mark.parametrize("remat, forwards", [("kernels", 1), ("attention", 1)])
def test_what_is_kept_is_not_computed_again(monkeypatch, remat, forwards):
    """Lowered for a TPU, which needs none."""
    monkeypatch.setattr(entry, "_platform", lambda: "tpu")
    q, k, v, _ = arrays(jnp.bfloat16)

    def loss(q):
        layer = rematerialised(lambda q: attention(q, k, v), remat)
        return layer(jnp.sin(q)).astype(jnp.float32).sum()

    lowered = jax.jit(jax.grad(loss)).trace(q).lower(lowering_platforms=("tpu",))
    kernels = re.findall(r'kernel_name = "splash_mha_(fwd|dkv)', lowered.as_text())
    assert sorted(kernels) == ["dkv"] + ["fwd"] * forwards


@pytest.mark.parametrize(
    "platform, tokens, keys, want",
    [
        ("cpu", 1024, 1024, "reference"),
        ("cpu", 8192, 8192, "chunked"),
        ("cpu", 8192, 300, "reference"),
        ("tpu", 1024, 1024, "splash"),
        ("tpu", 256, 300, "splash"),
        ("tpu", 64, 64, "reference"),
    ],
)
def test_auto(platform, tokens, keys, want):
    assert choose(tokens, keys, jnp.bfloat16, softcap=30.0, platform=platform) == want


@pytest.mark.parametrize(
    "dtype, softcap, installed, capability, want",
    [
        (jnp.bfloat16, None, False, "8.0", "cudnn"),
        (jnp.float32, None, True, "9.0", None),
        (jnp.bfloat16, 30.0, False, "9.0", "triton"),
        (jnp.bfloat16, 30.0, True, "8.0", "triton"),
        (jnp.bfloat16, 30.0, True, "8.9", "triton"),
        (jnp.bfloat16, 30.0, True, "7.5", None),
        (jnp.bfloat16, 30.0, True, "9.0", "tokamax"),
        (jnp.bfloat16, 30.0, True, "10.0", "triton"),
        (jnp.bfloat16, 30.0, True, "12.0", "triton"),
    ],
)
def test_auto_on_a_gpu_keeps_the_soft_cap(monkeypatch, dtype, softcap, installed, capability, want):
    class Device:
        compute_capability = capability

    monkeypatch.setattr(attention_gpu, "get_default_device", Device)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    assert attention_gpu.best(jnp.dtype(dtype), softcap=softcap) == want
    chosen = choose(1024, 1024, jnp.dtype(dtype), softcap=softcap, platform="gpu")
    assert chosen == (want or "reference")


def test_what_cannot_be_is_refused(monkeypatch):
    q, k, v, _ = arrays()
    with pytest.raises(ValueError, match=r"model.attention='flash' must be one of .*'splash'"):
        attention(q, k, v, implementation="flash")
    with pytest.raises(
        ValueError, match=r"'cudnn' has no soft cap, and model.attention_softcap=30"
    ):
        attention(q, k, v, softcap=30.0, implementation="cudnn")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tokamax"):
        attention(q, k, v, implementation="tokamax")


CODE = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from onediff_jax.models.attention.dispatch import attention
from onediff_jax.parallel.mesh import make_mesh
from onediff_jax.parallel.sharding import on_mesh

rng = np.random.default_rng(0)
q, k, v = (jnp.asarray(rng.normal(size=s), jnp.float32)
           for s in ((4, 256, 4, 8), (4, 256, 2, 8), (4, 256, 2, 8)))
mask = jnp.asarray(rng.random((4, 256)) < 0.8)

def loss(implementation):
    def weighted(q, k, v):
        out = attention(q, k, v, mask=mask, softcap=5.0, implementation=implementation)
        return (out * jnp.cos(q)).sum()
    return jax.value_and_grad(weighted, (0, 1, 2))

want = jax.jit(loss("reference"))(q, k, v)
for sizes in ((2, 2, 2, 1), (2, 1, 1, 4)):
    mesh = make_mesh(ConfigDict(dict(zip(("replica", "fsdp", "tensor", "sequence"), sizes))))
    rows = NamedSharding(mesh, jax.P(("replica", "fsdp")))
    found = jax.jit(on_mesh(loss("splash"), mesh), in_shardings=rows)(q, k, v)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))
"""


@pytest.mark.slow
def test_kernels_on_eight_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=environment, check=True)
