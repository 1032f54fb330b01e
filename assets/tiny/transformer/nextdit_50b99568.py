"""NextDiT, the OneDiffusion transformer, for PyTorch (needs torch and diffusers only).

Every frame of a sample (image, condition or ray map) has its own timestep, and all frames attend
to each other. Axes: b batch, f frames, c channels, t tokens, n heads, k kv heads, h head dim,
d width, l caption length. Tokens are frame-major, then rows, then columns.
"""

import functools
import importlib.util
import json
import math
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


# -------------------------------------------------------------------------------------------------
# What makes a saved model or pipeline carry the code of its class (standard library only).
# -------------------------------------------------------------------------------------------------

# The text of the exported file these classes were loaded from, set at its end; None elsewhere.
CODE: str | None = None


class OwnCode:
    """Writes the file of its class beside the configuration, as it was when the class was loaded.

    Comes before ModelMixin, ConfigMixin or DiffusionPipeline in the bases. What is uploaded by
    `push_to_hub` has the file too: the configuration is written before.
    """

    config: Any  # diffusers' record of the arguments
    # What diffusers' AutoModel is told, for the models that it shall find.
    _auto_class: ClassVar[str | None] = None
    _carries_code: ClassVar[bool] = True

    def save_config(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Writes the file of the class, where it came from one, then the configuration."""
        if CODE is not None:
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{file_stem(type(self))}.py").write_text(CODE, encoding="utf-8")
        library: Any = super()
        library.save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def to_json_string(self) -> str:
        """The configuration; AutoModel's entry is there in every version of diffusers."""
        library: Any = super()
        fields = json.loads(library.to_json_string())
        if self._auto_class:
            name = f"{file_stem(type(self))}.{type(self).__name__}"
            fields["auto_map"] = {self._auto_class: name}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """AutoModel's entry is for finding the class, not for building it: no warning about it."""
        config_dict = {key: value for key, value in config_dict.items() if key != "auto_map"}
        library: Any = super()
        return library.extract_init_dict(config_dict, **kwargs)


def file_stem(kind: type) -> str:
    """The name, without .py, of the file a class was loaded from."""
    return kind.__module__.split(".")[-1]


# -------------------------------------------------------------------------------------------------
# Soft-capped attention whose logits never reach memory: flex_attention, compiled, where it serves.
#
# It is used on CUDA, without gradients, when a small input shows that it agrees with the plain path
# and is faster; everywhere else, and inside somebody's own torch.compile, the plain path computes.
# -------------------------------------------------------------------------------------------------

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


ROPE_THETA = 10000.0
TIME_FREQUENCIES = 128
# Float32 logits held at once by the soft-capped attention (256 MiB); longer queries go in chunks.
MAX_LOGITS = 2**26


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast to the weight's dtype, then times the weight."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(self.weight.dtype) * self.weight


class TimestepEmbedder(nn.Module):
    """Timesteps (b, f) in 0..1000 → (b, f, width): sinusoids (cosines first), then an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, timesteps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        index = torch.arange(TIME_FREQUENCIES, dtype=torch.float32, device=timesteps.device)
        frequencies = torch.exp(-math.log(10000.0) * index / TIME_FREQUENCIES)
        angles = timesteps.float()[..., None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1).to(dtype))


def rope_table(grid, head_dim: int, device, theta: float = ROPE_THETA, divisor: float = 1.0):
    """Cosines, sines (t, h/2) float32 of a grid (f, rows, columns): a third of the pairs each."""
    exponents = torch.arange(0, head_dim, 6, dtype=torch.float32, device=device) / head_dim
    frequencies = theta**-exponents / divisor
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in grid]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    angles = (positions[:, :, None] * frequencies).flatten(1)
    return angles.cos(), angles.sin()


def apply_rope(x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotates adjacent pairs of x (b, t, n, h) in float32."""
    cos, sin = (table[None, :, None] for table in rope)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return turned.flatten(-2).to(x.dtype)


def capped_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cap: float):
    """Attention with logits cap·tanh(logits/cap): q (b, t, n, h), k and v (b, s, k, h) → like q.

    Query head i reads kv head i // (n/k). Logits and softmax are float32 in every dtype: the
    products of half-precision inputs are exact there (in TF32 too), as in a fused kernel.
    """
    kv_heads, repeats = k.shape[2], q.shape[2] // k.shape[2]
    scale = q.shape[-1] ** -0.5 / cap
    keys = k.permute(0, 2, 3, 1).float()  # b k h s
    values = v.transpose(1, 2)  # b k s h
    queries = q.transpose(1, 2).unflatten(1, (kv_heads, repeats))  # b k r t h
    chunk = max(1, MAX_LOGITS // (q.shape[0] * q.shape[2] * k.shape[1]))
    outputs = []
    for part in queries.split(chunk, dim=3):
        logits = cap * torch.tanh(part.flatten(2, 3).float() @ keys * scale)
        weights = logits.softmax(-1).to(v.dtype)
        outputs.append((weights @ values).unflatten(2, part.shape[2:4]))
    return torch.cat(outputs, 3).flatten(1, 2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over all tokens plus gated attention to the caption, one output projection."""

    def __init__(self, dim, num_heads, num_kv_heads, caption_dim, qk_norm, softcap):
        super().__init__()
        self.head_dim = dim // num_heads
        self.repeats = num_heads // num_kv_heads
        self.softcap = softcap
        kv_dim = self.head_dim * num_kv_heads
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, kv_dim, bias=False)
        self.wv = nn.Linear(dim, kv_dim, bias=False)
        self.wk_y = nn.Linear(caption_dim, kv_dim, bias=False)
        self.wv_y = nn.Linear(caption_dim, kv_dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Parameter(torch.zeros(num_heads))
        self.q_norm = nn.LayerNorm(dim, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(kv_dim, eps=1e-5) if qk_norm else nn.Identity()
        self.ky_norm = nn.LayerNorm(kv_dim, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x, rope, text, text_mask):
        """x (b, t, d), text (b, l, caption), text_mask (b, l) bool → (b, t, d)."""
        heads = (-1, self.head_dim)
        q = apply_rope(self.q_norm(self.wq(x)).unflatten(-1, heads), rope)
        k = apply_rope(self.k_norm(self.wk(x)).unflatten(-1, heads), rope)
        v = self.wv(x).unflatten(-1, heads)
        own = self._self_attention(q, k, v)
        k = self.ky_norm(self.wk_y(text)).unflatten(-1, heads)
        v = self.wv_y(text).unflatten(-1, heads)
        # The released weights read kv head i // repeats above and i % num_kv_heads here.
        k, v = (a.repeat(1, 1, self.repeats, 1).transpose(1, 2) for a in (k, v))
        mask = text_mask[:, None, None, :]
        told = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask)
        gate = self.gate.tanh()[:, None]
        return self.wo((own + gate * told.transpose(1, 2)).flatten(2))

    def _self_attention(self, q, k, v):
        if self.softcap is not None:
            attend = fused(q, k, capped_attention, self.softcap) or capped_attention
            return attend(q, k, v, self.softcap)
        k, v = (a.repeat_interleave(self.repeats, dim=2).transpose(1, 2) for a in (k, v))
        return F.scaled_dot_product_attention(q.transpose(1, 2), k, v).transpose(1, 2)


class FeedForward(nn.Module):
    """w2(silu(w1 x) · w3 x); the hidden width is 8/3 of the width, rounded up.

    Products of trained weights exceed 65,504, the largest number of float16. There they are made in
    float32, every token's is brought to at most 1 before w2, and the output is float32.
    """

    def __init__(self, dim: int, multiple_of: int, multiplier: float | None):
        super().__init__()
        hidden = int(2 * 4 * dim / 3)
        if multiplier is not None:
            hidden = int(multiplier * hidden)
        hidden = multiple_of * math.ceil(hidden / multiple_of)
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        nn.init.zeros_(self.w2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.w1(x), self.w3(x)
        if gate.dtype != torch.float16:
            return self.w2(F.silu(gate) * value)
        product = F.silu(gate.float()) * value.float()
        size = product.abs().amax(-1, keepdim=True).clamp(min=1.0)
        return self.w2((product / size).half()).float() * size


def per_frame(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Tokens x (b, t, d) times a factor (b, f, d) of the frame each belongs to."""
    return (x.unflatten(1, (factor.shape[1], -1)) * factor[:, :, None]).flatten(1, 2)


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each scaled before and gated after by the frame's condition."""

    def __init__(self, attention: Attention, feed_forward: FeedForward, dim, caption_dim, eps):
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward
        self.attention_norm1 = RMSNorm(dim, eps)
        self.attention_norm2 = RMSNorm(dim, eps)
        self.ffn_norm1 = RMSNorm(dim, eps)
        self.ffn_norm2 = RMSNorm(dim, eps)
        self.attention_y_norm = RMSNorm(caption_dim, eps)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(min(dim, 1024), 4 * dim))

    def forward(self, hidden_states, condition, rope, text, text_mask):
        """hidden_states (b, t, d), condition (b, f, min(d, 1024)) → (b, t, d)."""
        x = hidden_states  # the name is what diffusers' caches look for
        modulation = self.adaLN_modulation(condition).chunk(4, dim=-1)
        scale_attention, gate_attention, scale_ffn, gate_ffn = modulation
        y = per_frame(self.attention_norm1(x), 1 + scale_attention)
        y = self.attention(y, rope, self.attention_y_norm(text), text_mask)
        x = x + per_frame(self.attention_norm2(y), gate_attention.tanh())
        y = self.feed_forward(per_frame(self.ffn_norm1(x), 1 + scale_ffn))
        return x + per_frame(self.ffn_norm2(y), gate_ffn.tanh())


class FinalLayer(nn.Module):
    """LayerNorm, scale, projection to the patch values."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(dim, out_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(min(dim, 1024), dim))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.linear(per_frame(self.norm_final(x), 1 + self.adaLN_modulation(condition)))


class NextDiT(OwnCode, ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):
    """The denoiser: noisy latent frames, their timesteps and a caption → the velocity ε − x.

    The defaults are the released model. `attention_softcap` bounds the logits of self-attention
    (None: no bound); the released weights were trained with 30. `input_size`, `model_max_length`
    and the `rotary_max_length` pair are records of training; any size runs.
    """

    _auto_class = "AutoModel"
    _saving = False
    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["TransformerBlock"]
    _repeated_blocks: ClassVar = ["TransformerBlock"]

    @register_to_config
    def __init__(
        self,
        input_size: tuple[int, int, int] = (1, 96, 96),
        patch_size: tuple[int, int, int] = (1, 2, 2),
        in_channels: int = 16,
        hidden_size: int = 3840,
        depth: int = 16,
        num_heads: int = 32,
        num_kv_heads: int | None = 8,
        multiple_of: int = 256,
        ffn_dim_multiplier: float | None = None,
        norm_eps: float = 1e-5,
        norm_type: str = "rms",
        qk_norm: bool = True,
        pred_sigma: bool = False,
        caption_channels: int = 2048,
        rotary_max_length: int = 128,
        rotary_max_length_t: int | None = None,
        model_max_length: int = 512,
        attention_softcap: float | None = 30.0,
    ):
        super().__init__()
        kv_heads = num_kv_heads or num_heads
        if norm_type != "rms" or pred_sigma:
            raise ValueError(f"{norm_type=}, {pred_sigma=}: only 'rms' and False are supported")
        if patch_size[0] != 1 or patch_size[1] != patch_size[2]:
            raise ValueError(f"{patch_size=} must be (1, p, p)")
        if hidden_size % (6 * num_heads) or num_heads % kv_heads:
            raise ValueError(
                f"{hidden_size=} must be a multiple of 6·{num_heads=}, that one of {kv_heads=}"
            )
        patch_dim = patch_size[1] * patch_size[2] * in_channels
        width = min(hidden_size, 1024)
        self.gradient_checkpointing = False
        self.x_embedder = nn.Linear(patch_dim, hidden_size)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = nn.Sequential(
            nn.LayerNorm(caption_channels, eps=1e-6), nn.Linear(caption_channels, width)
        )
        heads = (num_heads, kv_heads, caption_channels, qk_norm, attention_softcap)
        self.layers = nn.ModuleList(
            TransformerBlock(
                Attention(hidden_size, *heads),
                FeedForward(hidden_size, multiple_of, ffn_dim_multiplier),
                *(hidden_size, caption_channels, norm_eps),
            )
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_dim)

    def forward(
        self,
        samples: torch.Tensor,
        timesteps: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        scale_factor: float = 1.0,
        scale_watershed: float = 1.0,
        return_dict: bool = True,
    ):
        """Velocity (b, f, c, H, W) of samples (b, f, c, H, W).

        Args:
          samples: noisy latents; H and W multiples of the patch size.
          timesteps: 0 (clean) … 1000 (noise), constant within a frame: a scalar, (b,), (b, f), or
            anything 5-D that broadcasts to `samples`.
          encoder_hidden_states: caption features (b, l, caption_channels).
          encoder_attention_mask: (b, l), nonzero = keep.
          scale_factor: stretch of the position encoding for sizes beyond those trained.
          scale_watershed: the stretch is linear below this timestep, in the base (NTK) above it.
          return_dict: False returns the tuple (velocity,).

        Raises:
          ValueError: shapes that do not fit, or timesteps that differ within a frame.
        """
        b, f, c, height, width = samples.shape
        patch = self.config.patch_size[-1]
        if c != self.config.in_channels or height % patch or width % patch:
            raise ValueError(
                f"samples {tuple(samples.shape)} must be (b, f, {self.config.in_channels}, H, W)"
                f" with H and W multiples of {patch}"
            )
        rows, columns = height // patch, width // patch
        timesteps = frame_timesteps(timesteps, samples.shape).to(samples.device)
        text = encoder_hidden_states.to(self.dtype)
        mask = encoder_attention_mask.to(samples.device) != 0
        weights = mask[..., None].float()
        pooled = (text.float() * weights).sum(1) / (weights.sum(1) + 1e-8)
        condition = self.y_embedder(pooled.to(self.dtype))[:, None]
        condition = self.t_embedder(timesteps, self.dtype) + condition
        # A caption without a single token would divide by zero in the softmax; let it see its pads.
        mask = mask | ~mask.any(-1, keepdim=True)

        x = samples.to(self.dtype).reshape(b, f, c, rows, patch, columns, patch)
        x = self.x_embedder(x.permute(0, 1, 3, 5, 4, 6, 2).flatten(4).flatten(1, 3))
        rope = self._rope((f, rows, columns), timesteps, scale_factor, scale_watershed)
        for layer in self.layers:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                checkpoint: Any = self._gradient_checkpointing_func  # set with the attribute above
                x = checkpoint(layer, x, condition, rope, text, mask)
            else:
                x = layer(x, condition, rope, text, mask)
        x = self.final_layer(x, condition).reshape(b, f, rows, columns, patch, patch, c)
        x = x.permute(0, 1, 6, 2, 4, 3, 5).reshape(samples.shape)
        return Transformer2DModelOutput(sample=x) if return_dict else (x,)

    def enable_cache(self, config):
        """As in diffusers, for FirstBlockCacheConfig and what else works on whole layers."""
        from diffusers.hooks import _helpers  # it imports all models with the first entry

        layer = _helpers.TransformerBlockMetadata(return_hidden_states_index=0)
        _helpers.TransformerBlockRegistry.register(TransformerBlock, layer)
        super().enable_cache(config)

    @functools.wraps(ModelMixin.save_pretrained, assigned=())  # pipelines look at its arguments
    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves the network's own weights, its code and config.json; see ModelMixin.

        Adapters that were loaded are left out, as `save_lora_adapter` saves those; what was fused
        is in the weights.
        """
        self._saving = True
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self._saving = False

    def state_dict(self, *args, **kwargs):
        """As of any module; while the model is saved, without adapters and under its own names."""
        tensors = super().state_dict(*args, **kwargs)
        if not self._saving:
            return tensors
        return {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in tensors.items()
            if ".lora_" not in name
        }

    def _rope(self, grid, timesteps, scale_factor: float, watershed: float):
        head_dim = self.config.hidden_size // self.config.num_heads
        stretch = {}
        if scale_factor != 1:  # only then is it worth waiting for the value of the timesteps
            linear = timesteps.max().item() < watershed
            stretch = {"divisor": scale_factor} if linear else {"theta": ROPE_THETA * scale_factor}
        return rope_table(grid, head_dim, timesteps.device, **stretch)


def frame_timesteps(timesteps, shape: torch.Size) -> torch.Tensor:
    """Timesteps of samples of this shape as (b, f) float32; they must not vary within a frame."""
    b, f = shape[:2]
    timesteps = torch.as_tensor(timesteps, dtype=torch.float32)
    if timesteps.ndim == 5:
        first = timesteps[:, :, :1, :1, :1]
        if timesteps.shape != first.shape and not torch.equal(
            timesteps, first.expand_as(timesteps)
        ):
            raise ValueError("timesteps must be constant within a frame")
        timesteps = first[:, :, 0, 0, 0]
    elif timesteps.ndim == 1:
        timesteps = timesteps[:, None]
    if timesteps.ndim not in (0, 2) or any(
        size not in (1, want) for size, want in zip(timesteps.shape, (b, f), strict=False)
    ):
        raise ValueError(
            f"timesteps {tuple(timesteps.shape)} must broadcast to {(b, f)} or samples"
        )
    return timesteps.expand(b, f)


CODE = Path(__file__).read_text(encoding="utf-8")
if __name__.startswith("diffusers_modules."):  # a second file of this name gets a module of its own
    sys.modules[__name__] = types.ModuleType(__name__)
    vars(sys.modules[__name__]).update(globals())
    Path(importlib.util.cache_from_source(__file__)).unlink(missing_ok=True)
