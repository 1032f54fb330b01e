"""The T5 encoder (Raffel et al. 2020; v1.1 with gated GELU) that embeds captions.

Reads transformers' T5EncoderModel folders and computes what transformers computes. The layers are
stacked and scanned: compiling takes the time of one. b batch, l (and s, as keys) caption tokens,
d width, n heads, h head dim, f feed-forward width.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from onediff_jax.models import loading

_FEED_FORWARDS = ("gated-gelu", "relu")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The fields of a T5 config.json that the encoder reads, with transformers' defaults."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"

    @classmethod
    def from_json(cls, config: dict) -> "T5Config":
        """From a config.json, which also holds many fields of no meaning to an encoder: ignored."""
        if (kind := config.get("model_type")) != "t5":
            raise ValueError(f"model_type={kind!r} is not supported; it must be 't5'")
        names = [field.name for field in dataclasses.fields(cls)]
        result = cls(**{name: config[name] for name in names if name in config})
        if result.feed_forward_proj not in _FEED_FORWARDS:
            raise ValueError(
                f"feed_forward_proj={result.feed_forward_proj!r} is not supported; "
                f"choose one of {_FEED_FORWARDS}"
            )
        return result


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each (query, key) pair, (length, length) int32, both directions.

    Half of the buckets are for keys after the query; of each half, half are exact distances and
    half are logarithmic up to max_distance (mesh-tensorflow's relative attention).
    """
    side = buckets // 2
    exact = side // 2
    distance = np.arange(length)
    # float32 in the original's order: another rounding moves distances that are on a boundary.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    steps = ratio / np.float32(math.log(max_distance / exact)) * np.float32(side - exact)
    far = np.minimum(exact + steps.astype(np.int32), side - 1)
    table = np.where(distance < exact, distance, far)
    relative = distance[None] - distance[:, None]  # key minus query
    return (table[np.abs(relative)] + side * (relative > 0)).astype(np.int32)


class RMSNorm(nnx.Module):
    """x / rms(x) · scale, in float32."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps) * self.scale[...]


class Layer(nnx.Module):
    """Self-attention, then feed-forward, each x + f(norm(x)): (b, l, d) float32 → the same.

    The residual stream stays float32: T5's grows to values whose bfloat16 steps would be coarse.
    T5 does not scale the logits by 1/√h.
    """

    def __init__(
        self, d: int, n: int, h: int, f: int, *, gated: bool, eps: float, dtype, rngs: nnx.Rngs
    ):
        def weight(*shape: int) -> nnx.Param:
            return nnx.Param(rngs.params.normal(shape, dtype) * jnp.asarray(d**-0.5, dtype))

        self.attention_norm = RMSNorm(d, eps)
        self.q, self.k, self.v = weight(d, n, h), weight(d, n, h), weight(d, n, h)
        self.o = weight(n, h, d)
        self.mlp_norm = RMSNorm(d, eps)
        if gated:
            self.wi_0, self.wi_1 = weight(d, f), weight(d, f)
        else:
            self.wi = weight(d, f)
        self.wo = weight(f, d)
        self.gated, self.dtype = gated, dtype
        self.precision = loading.matmul_precision(dtype)

    def einsum(self, letters: str, *operands: jax.Array, out=None) -> jax.Array:
        cast = [jnp.asarray(operand, self.dtype) for operand in operands]
        return jnp.einsum(
            letters, *cast, precision=self.precision, preferred_element_type=out or self.dtype
        )

    def attention(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        q, k, v = (self.einsum("bld,dnh->blnh", x, w[...]) for w in (self.q, self.k, self.v))
        logits = self.einsum("blnh,bsnh->bnls", q, k, out=jnp.float32) + bias
        mixed = self.einsum("bnls,bsnh->blnh", jax.nn.softmax(logits, axis=-1), v)
        return self.einsum("blnh,nhd->bld", mixed, self.o[...], out=jnp.float32)

    def mlp(self, x: jax.Array) -> jax.Array:
        if self.gated:
            hidden = nnx.gelu(self.einsum("bld,df->blf", x, self.wi_0[...]), approximate=True)
            hidden = hidden * self.einsum("bld,df->blf", x, self.wi_1[...])
        else:
            hidden = nnx.relu(self.einsum("bld,df->blf", x, self.wi[...]))
        return self.einsum("blf,fd->bld", hidden, self.wo[...], out=jnp.float32)

    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.mlp(self.mlp_norm(x))


class Network(nnx.Module):
    """ids (b, l), mask (b, l) → (b, l, d) float32. The layers' parameters have a leading axis."""

    def __init__(self, config: T5Config, *, dtype=jnp.float32, rngs: nnx.Rngs):
        c = config
        self.embedding = nnx.Param(rngs.params.normal((c.vocab_size, c.d_model), dtype))
        buckets = c.relative_attention_num_buckets
        self.relative_bias = nnx.Param(rngs.params.normal((buckets, c.num_heads)))
        self.max_distance = c.relative_attention_max_distance

        @nnx.split_rngs(splits=c.num_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Layer:
            sizes = (c.d_model, c.num_heads, c.d_kv, c.d_ff)
            gated, eps = c.feed_forward_proj == "gated-gelu", c.layer_norm_epsilon
            return Layer(*sizes, gated=gated, eps=eps, dtype=dtype, rngs=rngs)

        self.layers = stack(rngs)
        self.final_norm = RMSNorm(c.d_model, c.layer_norm_epsilon)

    def __call__(self, ids: Int[Array, "b l"], mask: Shaped[Array, "b l"]) -> Float[Array, "b l d"]:
        # Ids outside the vocabulary give NaN, not the nearest row.
        x = jnp.take(self.embedding[...], ids, axis=0, mode="fill").astype(jnp.float32)
        relative_bias = self.relative_bias[...]
        buckets = relative_buckets(ids.shape[1], len(relative_bias), self.max_distance)
        bias = relative_bias[buckets].transpose(2, 0, 1)  # (n, l, s)
        # Finite, so that a caption with nothing kept averages over all of it instead of NaN.
        bias = jnp.where(mask[:, None, None, :] != 0, bias, jnp.finfo(jnp.float32).min)

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def step(x: jax.Array, layer: Layer) -> jax.Array:
            return layer(x, bias)

        return self.final_norm(step(x, self.layers))


class TextEncoder:
    """A T5 encoder and its weights. params: nested dict of arrays. width: d of its output."""

    def __init__(self, config: T5Config, graphdef: nnx.GraphDef, params: dict):
        self.config, self.params, self._graphdef = config, params, graphdef
        self.width = config.d_model
        self._call = jax.jit(self.apply)

    def apply(
        self, params: dict, ids: Int[Array, "b l"], mask: Shaped[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        """The pure function of __call__, for callers that jit it with sharded parameters."""
        if ids.ndim != 2 or ids.shape != mask.shape or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(
                f"ids and mask must be (B, L), ids integers, not {ids.shape} {ids.dtype} "
                f"and {mask.shape}"
            )
        return nnx.merge(self._graphdef, params)(ids, mask)

    def __call__(self, ids: Int[Array, "b l"], mask: Shaped[Array, "b l"]) -> Float[Array, "b l d"]:
        """Embeddings (B, L, width) float32 of ids (B, L) where mask (B, L; nonzero = keep).

        Positions that the mask drops get values too, of no meaning. An id outside the vocabulary
        is a ValueError for numpy ids, and NaN for ids that are on a device already.
        """
        size = self.config.vocab_size
        if not isinstance(ids, jax.Array):
            ids = np.asarray(ids)
            if ids.size and not 0 <= ids.min() <= ids.max() < size:
                raise ValueError(f"ids {ids.min()} to {ids.max()} exceed the vocabulary of {size}")
        return self._call(self.params, ids, jnp.asarray(mask))


def _sources(config: T5Config) -> dict[tuple, loading.Source]:
    """For each parameter, its name, shape and layout in the file."""
    c = config
    inner = c.num_heads * c.d_kv
    rows = {
        ("attention_norm", "scale"): ("layer.0.layer_norm", (c.d_model,)),
        **{(x,): (f"layer.0.SelfAttention.{x}", (inner, c.d_model)) for x in "qkv"},
        ("o",): ("layer.0.SelfAttention.o", (c.d_model, inner)),
        ("mlp_norm", "scale"): ("layer.1.layer_norm", (c.d_model,)),
        ("wo",): ("layer.1.DenseReluDense.wo", (c.d_model, c.d_ff)),
    }
    for wi in ("wi_0", "wi_1") if c.feed_forward_proj == "gated-gelu" else ("wi",):
        rows[(wi,)] = (f"layer.1.DenseReluDense.{wi}", (c.d_ff, c.d_model))
    sources = {}
    for path, (name, shape) in rows.items():
        names = tuple(f"encoder.block.{i}.{name}.weight" for i in range(c.num_layers))
        axes = tuple(reversed(range(len(shape))))
        sources["layers", *path] = loading.Source(names, shape, axes, stacked=True)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    bias_shape = (c.relative_attention_num_buckets, c.num_heads)
    sources["relative_bias",] = loading.Source((bias,), bias_shape, (0, 1))
    sources["embedding",] = loading.Source(("shared.weight",), (c.vocab_size, c.d_model), (0, 1))
    sources["final_norm", "scale"] = loading.Source(
        ("encoder.final_layer_norm.weight",), (c.d_model,), (0,)
    )
    return sources


def layout(config: T5Config, dtype) -> tuple[nnx.GraphDef, dict, dict]:
    """Graph, parameter shapes (nested dict), and where in a file each parameter is (by path)."""
    network = nnx.eval_shape(lambda: Network(config, dtype=dtype, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(network)
    return graphdef, nnx.to_pure_dict(state), _sources(config)


def load_text_encoder(folder, *, dtype=jnp.float32) -> TextEncoder:
    """The encoder of a transformers T5EncoderModel folder (config.json and safetensors).

    dtype: of the products, "float32" or "bfloat16"; norms, softmax and sums are float32 always.
    ValueError: an unsupported config, a pickle, or tensors that do not fit, all of them listed.
    """
    dtype = loading.compute_dtype(dtype)
    config = T5Config.from_json(loading.read_config(folder))
    tensors = loading.read_tensors(folder, "model")
    # The embedding has two names and files hold either or both.
    alias = tensors.pop("encoder.embed_tokens.weight", None)
    if alias is not None and not np.array_equal(tensors.setdefault("shared.weight", alias), alias):
        raise ValueError(f"{str(folder)!r}: shared and encoder.embed_tokens weights must be equal")
    graphdef, shapes, sources = layout(config, dtype)
    return TextEncoder(config, graphdef, loading.load_params(shapes, sources, tensors, folder))


class Tokenizer:
    """Captions to the ids and mask of a text encoder."""

    def __init__(self, tokenizer, max_length: int):
        self._tokenizer, self.max_length = tokenizer, max_length

    def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """ids and mask (1 = keep), each (B, max_length) int32; longer captions are cut."""
        if isinstance(captions, str):
            raise ValueError(f"captions must be a list of strings, not the string {captions!r}")
        result = self._tokenizer(
            list(captions), max_length=self.max_length, padding="max_length", truncation=True
        )
        ids, mask = result["input_ids"], result["attention_mask"]
        return np.asarray(ids, np.int32), np.asarray(mask, np.int32)


def load_tokenizer(folder, *, max_length: int = 300) -> Tokenizer:
    """The tokenizer of a folder that transformers saved, padding to max_length.

    ImportError without transformers; ValueError when the folder has no tokenizer.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "tokenizing for T5 needs transformers: pip install transformers sentencepiece"
        ) from error
    names = ("tokenizer.json", "spiece.model")
    if not any((pathlib.Path(folder) / name).is_file() for name in names):
        raise ValueError(f"{str(folder)!r} has none of {names}: it is not a tokenizer's folder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Tokenizer(tokenizer, max_length)
