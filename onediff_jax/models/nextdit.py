"""Next-DiT, the transformer of OneDiffusion (arXiv 2411.16318, section 3.2).

Two entries, one network: `rows` takes packed rows of slots, as training does; calling the model
takes (b, f, h, w, c) latents, as sampling does. Every frame has its own timestep.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.models.attention.dispatch import Implementation, attention, check_implementation
from onediff_jax.models.layers import (
    AdaLN,
    FeedForward,
    Matrix,
    RMSNorm,
    TextPool,
    TimestepEmbedding,
    open_gates,
    xavier,
)
from onediff_jax.models.patches import patchify, unpatchify
from onediff_jax.models.remat import Remat, check_remat, rematerialised
from onediff_jax.models.rope import apply_rope, cos_sin, grid_positions, rope_angles


@dataclasses.dataclass(frozen=True)
class NextDiTConfig:
    """Shape of the network; the names are those of the released config.json."""

    hidden_size: int = 3840
    depth: int = 16
    num_heads: int = 32
    num_kv_heads: int = 8
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    caption_channels: int = 2048
    in_channels: int = 16
    patch_size: int = 2
    norm_eps: float = 1e-5
    attention_softcap: float | None = 30.0

    def __post_init__(self):
        optional = ("ffn_dim_multiplier", "attention_softcap")
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            if value is None and field.name in optional:
                continue
            if value is None or not value > 0:
                allowed = "positive, or None" if field.name in optional else "positive"
                raise ValueError(f"model.{field.name}={value} must be {allowed}")
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.hidden_size={self.hidden_size} must be a multiple of "
                f"num_heads={self.num_heads}, and that of num_kv_heads={self.num_kv_heads}"
            )
        if self.head_dim % 6:
            raise ValueError(f"model head dim {self.head_dim} must be a multiple of 6 (3-D RoPE)")

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.hidden_size // self.num_heads

    @property
    def token_dim(self) -> int:
        """Numbers in one patch: (pH, pW, C) flattened."""
        return self.patch_size**2 * self.in_channels

    @property
    def cond_dim(self) -> int:
        """Width of the timestep embedding and of what adaLN reads."""
        return min(self.hidden_size, 1024)

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the gated feed-forward."""
        hidden = int(2 * 4 * self.hidden_size / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return -(-hidden // self.multiple_of) * self.multiple_of


class Attention(nnx.Module):
    """Self-attention per slot, gated attention over the slot's caption, one output projection."""

    def __init__(
        self,
        cfg: NextDiTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        implementation: Implementation,
    ):
        width, kv_width = cfg.hidden_size, cfg.num_kv_heads * cfg.head_dim
        self.implementation = implementation
        self.num_heads, self.num_kv_heads = cfg.num_heads, cfg.num_kv_heads
        self.softcap = cfg.attention_softcap
        matrix = functools.partial(Matrix, rngs=rngs, dtype=dtype)
        norm = functools.partial(nnx.LayerNorm, rngs=rngs, dtype=dtype)
        self.wq = matrix(width, width)
        self.wk = matrix(width, kv_width)
        self.wv = matrix(width, kv_width)
        self.wk_y = matrix(cfg.caption_channels, kv_width)
        self.wv_y = matrix(cfg.caption_channels, kv_width)
        self.wo = matrix(width, width)
        self.q_norm = norm(width, epsilon=1e-5)
        self.k_norm = norm(kv_width, epsilon=1e-5)
        self.ky_norm = norm(kv_width, epsilon=1e-6)
        self.gate = nnx.Param(jnp.zeros((cfg.num_heads,)))

    def __call__(self, x, text, rope, masks, layout: RowLayout):
        """x (r, c, t, d), text (r, s, l, caption) → (r, c, t, d)."""
        r, c, t, _ = x.shape
        # Kept before the norms, whose gradient needs them; the rest is cheap to repeat.
        q = checkpoint_name(self.wq(x), "q")
        k, v = (checkpoint_name(w(x), "kv") for w in (self.wk, self.wv))
        q = apply_rope(self.q_norm(q).reshape(r, c, t, self.num_heads, -1), *rope)
        k = apply_rope(self.k_norm(k).reshape(r, c, t, self.num_kv_heads, -1), *rope)
        v = v.reshape(r, c, t, self.num_kv_heads, -1)
        slots, words = text.shape[1:3]
        k_text, v_text = (checkpoint_name(w(text), "text") for w in (self.wk_y, self.wv_y))
        k_text = self.ky_norm(k_text).reshape(r, slots, words, self.num_kv_heads, -1)
        v_text = v_text.reshape(r, slots, words, self.num_kv_heads, -1)
        gate = jnp.tanh(self.gate[...]).astype(x.dtype)[:, None]

        attend = functools.partial(attention, implementation=self.implementation)
        token_mask, text_mask = masks
        outputs = []
        for run in layout.runs:

            def tokens(a, run=run):  # the run's slots as a batch
                part = a[:, run.start : run.stop]
                return part.reshape(r * run.count, run.tokens, *a.shape[3:])

            def captions(a, run=run):
                part = a[:, run.slot : run.slot + run.count]
                return part.reshape(r * run.count, *a.shape[2:])

            q_run = tokens(q)
            mask = None if token_mask is None else tokens(token_mask)
            own = attend(q_run, tokens(k), tokens(v), mask=mask, softcap=self.softcap)
            cross = attend(
                q_run,
                captions(k_text),
                captions(v_text),
                mask=captions(text_mask),
                heads="tile",
                name="text_attention",
            )
            out = own + gate * cross
            outputs.append(out.reshape(r, run.stop - run.start, t, -1))
        out = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=1)
        return checkpoint_name(self.wo(out), "wo")


class Block(nnx.Module):
    """Sandwich-normed attention and feed-forward; adaLN scales and tanh gates, no shifts."""

    def __init__(
        self,
        cfg: NextDiTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        implementation: Implementation,
    ):
        norm = functools.partial(RMSNorm, eps=cfg.norm_eps)
        self.attention = Attention(cfg, rngs=rngs, dtype=dtype, implementation=implementation)
        self.feed_forward = FeedForward(cfg.hidden_size, cfg.ffn_dim, rngs=rngs, dtype=dtype)
        self.attention_norm1 = norm(cfg.hidden_size)
        self.attention_norm2 = norm(cfg.hidden_size)
        self.ffn_norm1 = norm(cfg.hidden_size)
        self.ffn_norm2 = norm(cfg.hidden_size)
        self.attention_y_norm = norm(cfg.caption_channels)
        self.adaLN_modulation = AdaLN(
            cfg.cond_dim, 4 * cfg.hidden_size, rngs=rngs, dtype=dtype, bias_init=open_gates
        )

    def __call__(self, x, cond, text, rope, masks, layout: RowLayout):
        """x (r, c, t, d), cond (r, c, cond_dim) → (r, c, t, d)."""
        # Small, and kept: its weights are then gathered once in the backward pass.
        modulation = checkpoint_name(self.adaLN_modulation(cond), "adaln")[:, :, None]
        scale_msa, gate_msa, scale_mlp, gate_mlp = jnp.split(modulation, 4, axis=-1)
        y = self.attention(
            self.attention_norm1(x) * (1 + scale_msa),
            self.attention_y_norm(text),
            rope,
            masks,
            layout,
        )
        x = x + jnp.tanh(gate_msa) * self.attention_norm2(y)
        y = checkpoint_name(self.feed_forward(self.ffn_norm1(x) * (1 + scale_mlp)), "w2")
        return x + jnp.tanh(gate_mlp) * self.ffn_norm2(y)


class FinalLayer(nnx.Module):
    """LayerNorm without affine, adaLN scale, projection back to a patch."""

    def __init__(self, cfg: NextDiTConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.adaLN_modulation = AdaLN(cfg.cond_dim, cfg.hidden_size, rngs=rngs, dtype=dtype)
        self.norm = nnx.LayerNorm(
            cfg.hidden_size, epsilon=1e-6, use_bias=False, use_scale=False, rngs=rngs, dtype=dtype
        )
        self.linear = nnx.Linear(
            cfg.hidden_size,
            cfg.token_dim,
            kernel_init=nnx.initializers.zeros,
            rngs=rngs,
            dtype=dtype,
        )

    def __call__(self, x, cond):
        """x (r, c, t, d) → (r, c, t, token_dim)."""
        return self.linear(self.norm(x) * (1 + self.adaLN_modulation(cond)[:, :, None]))


class NextDiT(nnx.Module):
    """The network. Layers are stacked on a leading axis and scanned.

    Args:
      cfg: its shape.
      rngs: source of the initial values.
      dtype: compute dtype of matmuls and activations; parameters are float32.
      attention: implementation of attention (models/attention.py), or "auto".
      remat: what the backward pass recomputes (models/remat.py).
      unroll: layers unrolled per scan iteration; `depth` compiles longer and runs faster on CPU.
    """

    def __init__(
        self,
        cfg: NextDiTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        attention: Implementation = "auto",
        remat: Remat = "none",
        unroll: int = 1,
    ):
        check_implementation(attention, softcap=cfg.attention_softcap)
        check_remat(remat)
        self.cfg, self.dtype, self.remat, self.unroll = cfg, dtype, remat, unroll
        self.x_embedder = nnx.Linear(
            cfg.token_dim, cfg.hidden_size, kernel_init=xavier, rngs=rngs, dtype=dtype
        )
        self.t_embedder = TimestepEmbedding(cfg.cond_dim, rngs=rngs)
        self.y_embedder = TextPool(cfg.caption_channels, cfg.cond_dim, rngs=rngs)

        @nnx.split_rngs(splits=cfg.depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs):
            return Block(cfg, rngs=rngs, dtype=dtype, implementation=attention)

        self.layers = stack(rngs)
        self.final_layer = FinalLayer(cfg, rngs=rngs, dtype=dtype)

    def rows(
        self,
        tokens: Float[Array, "r c t p"],
        positions: Int[Array, "#r c t 3"],
        timesteps: Float[Array, "r f"],
        text: Float[Array, "r s l d"],
        text_mask: Bool[Array, "r s l"],
        *,
        layout: RowLayout,
        token_mask: Bool[Array, "r c t"] | None = None,
        rope_scale: float = 1.0,
        rope_watershed: float | Float[Array, ""] = 1.0,
    ) -> Float[Array, "r c t p"]:
        """Velocity ε − x of packed rows.

        Args:
          tokens: noisy patches, chunked by `layout`.
          positions: (frame, row, column) of every token within its bundle; one row serves all.
          timesteps: of every frame of the row, 0 (data) … 1000 (noise).
          text, text_mask: one caption per slot.
          token_mask: False marks padding, which nothing attends to; None means no padding.
        """
        angles = rope_angles(
            positions,
            self.cfg.head_dim,
            scale=rope_scale,
            watershed=rope_watershed,
            max_timestep=timesteps.max(),
        )
        rope = cos_sin(angles)
        cond = self.t_embedder(timesteps)[:, layout.chunk_frame]
        cond = cond + self.y_embedder(text, text_mask)[:, layout.chunk_slot]
        cond = cond.astype(self.dtype)
        text = text.astype(self.dtype)
        x = self.x_embedder(tokens.astype(self.dtype))
        graphdef, params = nnx.split(self.layers)

        def body(x, layer):
            block = nnx.merge(graphdef, layer)
            return block(x, cond, text, rope, (token_mask, text_mask), layout), None

        body = rematerialised(body, self.remat)
        x, _ = jax.lax.scan(body, x, params, unroll=self.unroll)
        return self.final_layer(x, cond).astype(jnp.float32)

    def __call__(
        self,
        latents: Float[Array, "b f h w c"],
        timesteps: Float[Array, "b f"],
        text: Float[Array, "b l d"],
        text_mask: Shaped[Array, "b l"],
        *,
        rope_scale: float = 1.0,
        rope_watershed: float | Float[Array, ""] = 1.0,
    ) -> Float[Array, "b f h w c"]:
        """Velocity ε − x of every frame; timesteps in 0 (data) … 1000 (noise), one per frame.

        Words count where `text_mask` is not 0. Raises ValueError when a shape does not fit.
        """
        b, f, h, w, c = latents.shape
        p = self.cfg.patch_size
        if c != self.cfg.in_channels or h % p or w % p:
            raise ValueError(
                f"latents {latents.shape} need {self.cfg.in_channels} channels and sides that are "
                f"multiples of {p}"
            )
        if timesteps.shape != (b, f):
            raise ValueError(f"timesteps {timesteps.shape} must be one per frame, {(b, f)}")
        if text.shape[-1] != self.cfg.caption_channels:
            raise ValueError(f"text {text.shape} must have {self.cfg.caption_channels} channels")
        layout = RowLayout((Slot("any", f, (h // p) * (w // p)),))
        positions = grid_positions(f, h // p, w // p).reshape(1, f, -1, 3)
        out = self.rows(
            patchify(latents, p),
            positions,
            timesteps,
            text[:, None],
            text_mask[:, None].astype(bool),
            layout=layout,
            rope_scale=rope_scale,
            rope_watershed=rope_watershed,
        )
        return unpatchify(out, h, w, p)
