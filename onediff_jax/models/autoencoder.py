"""The KL autoencoder of latent diffusion (Rombach et al. 2022), as Stable Diffusion 3 ships it.

Reads diffusers' AutoencoderKL folders and computes what diffusers computes, channels last.
Attributes carry diffusers' names, so that a parameter's path is its name in the file.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jaxtyping import Array, Float

from onediff_jax.models import autoencoder_blocks as blocks
from onediff_jax.models import loading
from onediff_jax.models.tiling import blend_tiles

Grid = Float[Array, "b _ _ _"]  # images or latents, channels last
_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # torch's (out, in, y, x) and (out, in) to ours
# Names of the attention's projections in files written before diffusers 0.18.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The fields of an AutoencoderKL config.json that matter, with diffusers' defaults."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None

    # These change nothing in encode and decode: image sizes, statistics kept for pipelines, and
    # a float16 remedy (neither float32 nor bfloat16 overflows here).
    UNUSED = ("sample_size", "latents_mean", "latents_std", "force_upcast")

    @property
    def factor(self) -> int:
        """Pixels per latent position along each image axis."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_json(cls, config: dict) -> "AutoencoderConfig":
        """From a config.json. ValueError names an unknown field or a value we cannot compute."""
        levels = len(config.get("block_out_channels", cls.block_out_channels))
        required = {
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
        for key, only in required.items():
            if config.get(key, only) != only:
                raise ValueError(f"{key}={config[key]!r} is not supported; it must be {only!r}")
        fields = [field.name for field in dataclasses.fields(cls)]
        known = {*fields, *required, *cls.UNUSED}
        unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
        if unknown:
            raise ValueError(f"unknown config fields {unknown}; known are {sorted(known)}")
        values = {key: config[key] for key in fields if key in config}
        values["block_out_channels"] = tuple(values.get("block_out_channels", (64,)))
        result = cls(**values)
        if bad := [c for c in result.block_out_channels if c % result.norm_num_groups]:
            groups = result.norm_num_groups
            raise ValueError(
                f"block_out_channels {bad} must be multiples of norm_num_groups={groups}"
            )
        return result


class Network(nnx.Module):
    """Encoder and decoder with their 1×1 convolutions. Compute dtype `dtype`, norms float32."""

    def __init__(self, config: AutoencoderConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        kw: dict[str, Any] = dict(attention=config.mid_block_add_attention, dtype=dtype, rngs=rngs)
        channels, groups, c = (
            config.block_out_channels,
            config.norm_num_groups,
            config.latent_channels,
        )
        layers = config.layers_per_block
        self.encoder = blocks.Coder(
            config.in_channels, 2 * c, channels, layers, groups, up=False, **kw
        )
        self.decoder = blocks.Coder(
            c, config.out_channels, channels[::-1], layers + 1, groups, up=True, **kw
        )

        def mix(c: int, wanted: bool) -> blocks.Conv | None:
            return blocks.Conv(c, c, 1, dtype=dtype, rngs=rngs) if wanted else None

        self.quant_conv = mix(2 * c, config.use_quant_conv)
        self.post_quant_conv = mix(c, config.use_post_quant_conv)

    def encode(self, images: Grid) -> tuple[Grid, Grid]:
        moments = self.encoder(images)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, logvar.clip(-30.0, 20.0)

    def decode(self, latents: Grid) -> Grid:
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents).astype(jnp.float32)


class Autoencoder:
    """An autoencoder and its weights.

    params: nested dict of arrays. scaling_factor: the flow's latents are scaling_factor · z, and
    shift_factor (which may be None) is not applied. channels: of z. factor: pixels per position.
    Images are (B, H, W, 3) float in −1..1 with H and W multiples of `factor`; latents are
    (B, H/factor, W/factor, channels). Results are float32, not clipped to −1..1.
    """

    def __init__(self, config: AutoencoderConfig, graphdef: nnx.GraphDef, params: dict):
        self.config, self.params, self._graphdef = config, params, graphdef
        self.scaling_factor, self.shift_factor = config.scaling_factor, config.shift_factor
        self.channels, self.factor = config.latent_channels, config.factor
        self._encode, self._decode = jax.jit(self.apply_encode), jax.jit(self.apply_decode)

    def apply_encode(self, params: dict, images: Grid) -> tuple[Grid, Grid]:
        """The pure function of encode, for callers that jit it with sharded parameters."""
        _check(images, "images", self.config.in_channels, self.factor)
        return nnx.merge(self._graphdef, params).encode(images)

    def apply_decode(self, params: dict, latents: Grid) -> Grid:
        """The pure function of decode, for callers that jit it with sharded parameters."""
        _check(latents, "latents", self.channels, 1)
        return nnx.merge(self._graphdef, params).decode(latents)

    def encode(self, images: Grid) -> tuple[Grid, Grid]:
        """Mean and log-variance of the posterior of z; the log-variance is within −30..20."""
        return self._encode(self.params, images)

    def decode(self, latents: Grid) -> Grid:
        """Images from z, which is the flow's latents / scaling_factor."""
        return self._decode(self.params, latents)

    def encode_tiled(self, images: Grid, *, tile: int = 512, overlap: int = 128):
        """encode, a square tile at a time; tile and overlap in pixels, multiples of `factor`.

        Close to encode but not equal: norms and attention see one tile. The memory is that of one
        tile. ValueError for a tile that is not larger than its overlap.
        """
        _check(images, "images", self.config.in_channels, self.factor)
        return blend_tiles(self.encode, images, tile, overlap, unit=self.factor)

    def decode_tiled(self, latents: Grid, *, tile: int = 64, overlap: int = 16) -> Grid:
        """decode, a square tile at a time; tile and overlap in positions. See encode_tiled."""
        _check(latents, "latents", self.channels, 1)
        return blend_tiles(self.decode, latents, tile, overlap)


def _check(x: Array, name: str, channels: int, multiple: int) -> None:
    if x.ndim != 4 or x.shape[-1] != channels or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must be (B, H, W, {channels}) float, not {x.shape} {x.dtype}")
    if x.shape[1] % multiple or x.shape[2] % multiple or 0 in x.shape:
        raise ValueError(f"{name} height and width {x.shape[1:3]} must be multiples of {multiple}")


def _source(path: tuple, shape: tuple[int, ...]) -> loading.Source:
    """A parameter's name, shape and layout in the file, from its path here."""
    *scope, leaf = path
    axes = _AXES[len(shape)]
    torch_shape = tuple(shape[axes.index(i)] for i in range(len(shape)))
    return loading.Source((".".join(map(str, [*scope, _LEAF[leaf]])),), torch_shape, axes)


def _current_name(name: str) -> str:
    scope, dot, leaf = name.rpartition(".")
    head, _, last = scope.rpartition(".")
    return f"{head}.{_OLD_NAMES[last]}{dot}{leaf}" if last in _OLD_NAMES else name


def layout(config: AutoencoderConfig, dtype) -> tuple[nnx.GraphDef, dict, dict]:
    """Graph, parameter shapes (nested dict), and where in a file each parameter is (by path)."""
    network = nnx.eval_shape(lambda: Network(config, dtype=dtype, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(network)
    shapes = nnx.to_pure_dict(state)
    flat: dict[Any, Any] = traverse_util.flatten_dict(shapes)
    return graphdef, shapes, {path: _source(path, leaf.shape) for path, leaf in flat.items()}


def load_autoencoder(folder, *, dtype=jnp.float32) -> Autoencoder:
    """The autoencoder of a diffusers AutoencoderKL folder (config.json and safetensors).

    dtype: of the computation, "float32" or "bfloat16"; norms and softmax are float32 always.
    ValueError: an unsupported config, a pickle, or tensors that do not fit, all of them listed.
    """
    dtype = loading.compute_dtype(dtype)
    config = AutoencoderConfig.from_json(loading.read_config(folder))
    tensors = loading.read_tensors(folder, "diffusion_pytorch_model")
    tensors = {_current_name(name): tensor for name, tensor in tensors.items()}
    graphdef, shapes, sources = layout(config, dtype)
    return Autoencoder(config, graphdef, loading.load_params(shapes, sources, tensors, folder))
