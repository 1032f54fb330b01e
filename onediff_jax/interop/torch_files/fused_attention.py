"""Soft-capped attention whose logits never reach memory: flex_attention, compiled, where it serves.

It is used on CUDA, without gradients, when a small input shows that it agrees with the plain path
and is faster; everywhere else, and inside somebody's own torch.compile, the plain path computes.
"""

import functools
import warnings
from collections.abc import Callable

import torch

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
# Of the largest value: what rounding of weights and outputs may differ by.
TOLERANCE = {torch.float32: 2e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}
TRIAL = 1024  # tokens of the small input: where the plain path is at its best


def fused(q: torch.Tensor, k: torch.Tensor, plain: Attend, cap: float) -> Attend | None:
    """What computes `plain` without logits in memory, for inputs like q and k; None: nothing."""
    if not _serves(q) or torch.compiler.is_compiling():
        return None
    return _checked(q.device, q.dtype, q.shape[2], k.shape[2], q.shape[3], plain, cap)


def _serves(q: torch.Tensor) -> bool:
    gradients = torch.is_grad_enabled() and q.requires_grad
    return q.is_cuda and not gradients and q.dtype in TOLERANCE


@functools.cache
def _checked(device, dtype, heads, kv_heads, head_dim, plain: Attend, cap) -> Attend | None:
    """The compiled kernel, once per process and kind of input, or None and why it is left alone."""
    try:
        attend = _flex(cap)
        random = torch.Generator(device).manual_seed(0)  # the caller's random numbers stay
        shapes = ((1, TRIAL, count, head_dim) for count in (heads, kv_heads, kv_heads))
        q, k, v = (torch.randn(s, generator=random, device=device, dtype=dtype) for s in shapes)
        q *= 4  # so that the cap shows
        with torch.no_grad():
            found, want = (f(q, k, v, cap).float() for f in (attend, plain))
            error = float((found - want).abs().max() / want.abs().max())
            if not error <= TOLERANCE[dtype]:
                raise ArithmeticError(f"off by {error:.1g} of the largest value")
            faster = _seconds(attend, q, k, v, cap) < _seconds(plain, q, k, v, cap)
            return attend if faster else None
    except Exception as error:  # of a compiler, a driver, a version without it
        told = (str(error).splitlines() or [""])[0][:200]
        warnings.warn(
            f"flex_attention is left alone, the plain path computes ({told})", stacklevel=2
        )
        return None


def _flex(cap: float) -> Attend:
    from torch.nn.attention.flex_attention import flex_attention

    def capped(score, *_):
        return cap * torch.tanh(score / cap)

    # dynamic=True would make a tensor of the cap, which no compiler takes; left alone, it compiles
    # for the first number of tokens and then once for all others.
    compiled = torch.compile(flex_attention)

    def attend(q, k, v, cap):
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        return compiled(*heads_first, score_mod=capped, enable_gqa=True).transpose(1, 2)

    return attend


def _seconds(attend: Attend, q, k, v, cap: float) -> float:
    """The fastest of five runs on the device."""
    times = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        attend(q, k, v, cap)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times) / 1000
