"""The train step of a config in PyTorch, with the network that exported folders carry."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from onediff_jax.interop.torch_files import nextdit


def torch_step(
    config: Any, batch: dict[str, Any], *, device: str = "cpu", compile: bool = False
) -> Callable[[], None]:
    """A function that makes one step: noise, loss, gradient, clipping, AdamW, moving average.

    The bundles are those of the first slot of each row; `batch` gives their shape and captions.
    Parameters are float32, products bfloat16 where the config says so, as in onediff_jax. It can
    neither leave padding out nor skip a step that is not finite.

    Args:
      compile: the network goes through torch.compile, its attention through flex_attention.
    """
    model, optim, flow = config.model, config.optim, config.flow
    group, count, frames, tokens = config.rows[0]
    if len(config.rows) != 1 or count != 1:
        raise ValueError(f"rows={config.rows} must be one slot")
    if compile:
        nextdit.capped_attention = _flex
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    names = ("hidden_size", "depth", "num_heads", "num_kv_heads", "multiple_of")
    network = nextdit.NextDiT(
        **{name: model[name] for name in names},
        caption_channels=model.caption_channels,
        attention_softcap=model.attention_softcap,
    ).to(device)
    if model.remat != "none":
        network.enable_gradient_checkpointing()
    parameters = list(network.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=optim.learning_rate,
        betas=(optim.b1, optim.b2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=device == "cuda",
    )
    side = 2 * round(tokens**0.5)
    rows = config.train.batch_rows
    data = torch.randn(rows, frames, model.in_channels, side, side, device=device)
    text, mask = (
        torch.tensor(np.asarray(batch[name])[:rows, 0], device=device)
        for name in ("text", "text_mask")
    )
    forward = torch.compile(network) if compile else network
    half = torch.autocast(device, torch.bfloat16, enabled=model.dtype == "bfloat16")

    def step() -> None:
        noise = torch.randn_like(data)
        sigma = torch.sigmoid(flow.mean + flow.std * torch.randn(rows, frames, device=device))
        sigma = flow.shift * sigma / (1 + (flow.shift - 1) * sigma)
        wide = sigma[:, :, None, None, None]
        with half:
            noisy = (1 - wide) * data + wide * noise
            predicted = forward(noisy, 1000 * sigma, text, mask).sample
        loss = (predicted.float() - (noise - data)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 0.01)
        loss.item()

    return step


def _flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cap: float) -> torch.Tensor:
    """`nextdit.capped_attention` with no logits in memory."""
    from torch.nn.attention.flex_attention import flex_attention

    def capped(score, *_):
        return cap * torch.tanh(score / cap)

    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return flex_attention(*heads_first, score_mod=capped, enable_gqa=True).transpose(1, 2)
