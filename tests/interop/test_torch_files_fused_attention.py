"""The kernel without logits: where it agrees and is faster it computes, elsewhere it says why not.

Here it runs uncompiled, on the CPU: what a GPU adds is the compiler.
"""

import pytest

torch = pytest.importorskip("torch")

from onediff_jax.interop.torch_files import fused_attention as fused_module
from onediff_jax.interop.torch_files.nextdit import capped_attention

CAP = 5.0


@pytest.fixture
def served(monkeypatch):
    """The CPU as a device that is served; how long a function takes is what the test says."""
    seconds = {}
    monkeypatch.setattr(fused_module, "_serves", lambda q: True)
    monkeypatch.setattr(fused_module, "TRIAL", 32)
    monkeypatch.setattr(fused_module, "_seconds", lambda attend, *_: seconds.get(attend, 1.0))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    fused_module._checked.cache_clear()
    yield seconds
    fused_module._checked.cache_clear()


def inputs(tokens=40, heads=4, kv_heads=2, head_dim=24):
    random = torch.Generator().manual_seed(1)
    shapes = ((2, tokens, count, head_dim) for count in (heads, kv_heads, kv_heads))
    return [4 * torch.randn(shape, generator=random) for shape in shapes]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_it_equals_the_plain_path_with_cap_and_groups(served):
    q, k, v = inputs()
    served[capped_attention] = 2.0
    attend = fused_module.fused(q, k, capped_attention, CAP)
    want = capped_attention(q, k, v, CAP)
    torch.testing.assert_close(attend(q, k, v, CAP), want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(capped_attention(q, k, v, 50.0), want, atol=1e-2)  # the cap shows
    assert fused_module.fused(q[:, :7], k, capped_attention, CAP) is attend  # checked once


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_slower_is_left_alone(served):
    served[capped_attention] = 0.5
    assert fused_module.fused(*inputs()[:2], capped_attention, CAP) is None


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda *_: lambda q, k, v, cap: 1.1 * capped_attention(q, k, v, cap), "off by 0.1 of"),
        (lambda *_: 1 / 0, "division by zero"),
    ],
)
def test_wrong_or_missing_is_left_alone_and_says_why(served, monkeypatch, broken, message):
    monkeypatch.setattr(fused_module, "_flex", broken)
    with pytest.warns(UserWarning, match=f"left alone, the plain path computes .*{message}"):
        assert fused_module.fused(*inputs()[:2], capped_attention, CAP) is None
    assert fused_module.fused(*inputs()[:2], capped_attention, CAP) is None  # told once


def test_the_cpu_and_gradients_take_the_plain_path():
    q, k, _ = inputs()
    assert fused_module.fused(q, k, capped_attention, CAP) is None
    assert not fused_module._serves(q.requires_grad_())
