"""One entry for attention. Everything that attends goes through `attention`.

    reference   plain XLA, everywhere: what the others must agree with
    chunked     the same, some queries at a time: memory grows with the keys only
    splash      Pallas kernel for TPUs
    tokamax     Pallas kernel for NVIDIA's Hopper GPUs, of the package tokamax
    triton      Pallas kernel of ours for NVIDIA GPUs from Ampere on
    cudnn       cuDNN's kernel for NVIDIA GPUs; it has no soft cap

Kernels run on each device by themselves, under the mesh that is set while the caller is traced
(parallel/sharding.py: `on_mesh`); without one they run on a single device.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Literal

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from onediff_jax.models.attention.plain import reference

Implementation = Literal["auto", "reference", "chunked", "splash", "tokamax", "triton", "cudnn"]
IMPLEMENTATIONS = ("auto", "reference", "chunked", "splash", "tokamax", "triton", "cudnn")
_LANES = 128  # of a TPU: fewer queries than this are not worth a kernel
_LONG = 2**22  # queries × keys of one head beyond which logits are not kept whole


def attention(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    *,
    mask: Bool[Array, "b s"] | None = None,
    softcap: float | None = None,
    heads: Literal["repeat", "tile"] = "repeat",
    implementation: Implementation | str = "auto",
    name: str = "attention",
) -> Float[Array, "b t n h"]:
    """Grouped-query attention, softmax in float32.

    Args:
      q, k, v: projections; n query heads share k key heads.
      mask: which keys may be attended; None means all. Where a sequence has no such key, the
        result is the mean of all its values.
      softcap: logits become cap·tanh(logits/cap).
      heads: "repeat": query head i reads key head i // (n/k); "tile": it reads i % k. The released
        weights use the first for self-attention and the second for text.
      implementation: one of IMPLEMENTATIONS; "auto" is `choose`'s.
      name: of what models/remat.py may keep of it for the backward pass.

    Raises ValueError when k does not divide n, and as `check_implementation`.
    """
    n, kv_heads = q.shape[2], k.shape[2]
    if n % kv_heads:
        raise ValueError(f"{n} query heads must be a multiple of {kv_heads} key heads")
    if heads not in ("repeat", "tile"):
        raise ValueError(f"{heads=} must be 'repeat' or 'tile'")
    check_implementation(implementation, softcap=softcap)
    if implementation == "auto":
        implementation = choose(q.shape[1], k.shape[1], q.dtype, softcap=softcap)
    if implementation == "reference":
        return checkpoint_name(reference(q, k, v, mask, softcap=softcap, heads=heads), name)
    if heads == "tile":
        q = _swap_heads(q, n // kv_heads)
    if implementation == "chunked":
        from onediff_jax.models.attention.chunked import chunked

        out = checkpoint_name(chunked(q, k, v, mask, softcap=softcap), name)
    else:
        out = _on_each_device(_kernel(implementation, softcap, name), q, k, v, mask)
    return _swap_heads(out, kv_heads) if heads == "tile" else out


def check_implementation(name: str, *, softcap: float | None) -> None:
    """Raises ValueError for an unknown name, one that has no soft cap, or a missing package."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"model.attention={name!r} must be one of {IMPLEMENTATIONS}")
    if name == "cudnn" and softcap is not None:
        raise ValueError(
            f"model.attention='cudnn' has no soft cap, and model.attention_softcap={softcap}; "
            "choose 'tokamax', 'triton', 'chunked' or 'auto'"
        )
    if name == "tokamax" and importlib.util.find_spec("tokamax") is None:
        raise ValueError("model.attention='tokamax' needs that package: pip install tokamax")


def choose(
    tokens: int,
    keys: int,
    dtype: DTypeLike,
    *,
    softcap: float | None,
    platform: str | None = None,
) -> str:
    """What "auto" means for so many queries and keys of a sequence.

    `platform` is jax's ("cpu", "gpu", "tpu"); None: of the mesh that is set, or the default one.
    """
    platform = platform or _platform()
    if platform == "tpu" and tokens >= _LANES:
        return "splash"
    if platform in ("gpu", "cuda"):
        from onediff_jax.models.attention.gpu import best

        if kernel := best(dtype, softcap=softcap):
            return kernel
    return "chunked" if tokens * keys > _LONG else "reference"


def _swap_heads(x: Array, inner: int) -> Array:
    """Heads (outer, inner) → (inner, outer): "tile" to "repeat" order with n/k, back with k."""
    b, t, n, h = x.shape
    return x.reshape(b, t, inner, n // inner, h).swapaxes(2, 3).reshape(b, t, n, h)


def _kernel(implementation: str, softcap: float | None, name: str) -> Callable:
    """A function of (q, k, v, mask) on one device, heads in "repeat" order."""
    if implementation == "splash":
        from onediff_jax.models.attention.splash import splash

        interpret = _platform() != "tpu"
        return functools.partial(splash, softcap=softcap, name=name, interpret=interpret)
    if implementation == "triton":
        from onediff_jax.models.attention.triton import triton

        interpret = _platform() not in ("gpu", "cuda")
        return functools.partial(triton, softcap=softcap, name=name, interpret=interpret)
    from onediff_jax.models.attention.gpu import cudnn, tokamax

    if implementation == "cudnn":
        return functools.partial(cudnn, name=name)
    return functools.partial(tokamax, softcap=softcap, name=name)


def _platform() -> str:
    """Where the computation will run: not here, when it is compiled for other machines."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def _on_each_device(kernel: Callable, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """Sequences over the batch axes of the mesh, heads over `tensor`, queries over `sequence`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(q, k, v, mask)
    rows = tuple(axis for axis in ("replica", "fsdp") if axis in mesh.axis_names)
    heads = "tensor" if k.shape[2] % mesh.shape.get("tensor", 1) == 0 else None
    tokens = "sequence" if q.shape[1] % mesh.shape.get("sequence", 1) == 0 else None
    keys = P(rows, None, heads, None)
    return jax.shard_map(
        kernel,
        in_specs=(P(rows, tokens, heads, None), keys, keys, None if mask is None else P(rows)),
        out_specs=P(rows, tokens, heads, None),
        check_vma=False,  # kernels do not say over which axes their results vary
    )(q, k, v, mask)
