"""A network with its weights, ready to be called; what load_pretrained returns."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from onediff_jax.models.loading import compute_dtype, matmul_precision
from onediff_jax.models.nextdit import NextDiT, NextDiTConfig

Arrays = jax.Array | np.ndarray


class PretrainedModel:
    """NextDiT with parameters. The call is compiled once per set of shapes.

    Args:
      config: shape of the network.
      params: nested dict of arrays, as `param_shapes` describes them.
      dtype: of the computation, "float32" or "bfloat16"; norms and softmax are float32 always.
      released: fields of the config.json it came from; `save_pretrained` keeps them.

    Attributes:
      config, params, dtype, released: as given.
      graphdef: nnx.merge(graphdef, params) is the module.
    """

    def __init__(
        self,
        config: NextDiTConfig,
        params: dict[str, Any],
        *,
        dtype=jnp.float32,
        released: dict[str, Any] | None = None,
    ):
        self.config, self.params, self.dtype = config, params, compute_dtype(dtype)
        self.released = dict(released or {})
        self.graphdef = _split(config, self.dtype)[0]
        self._apply = jax.jit(self.apply, static_argnames="rope_scale")

    def apply(
        self, params, latents, timesteps, text, text_mask, *, rope_scale=1.0, rope_watershed=1.0
    ) -> jax.Array:
        """The pure function of the call, for callers that compile it into something larger."""
        # Accelerators would round the products of float32 to fewer bits.
        with jax.default_matmul_precision(_precision(self.dtype)):
            return nnx.merge(self.graphdef, params)(
                latents,
                timesteps,
                text,
                text_mask,
                rope_scale=rope_scale,
                rope_watershed=rope_watershed,
            )

    def __call__(
        self,
        latents: Float[Arrays, "b f h w c"],
        timesteps: Float[Arrays, "b f"],
        text: Float[Arrays, "b l d"],
        text_mask: Bool[Arrays, "b l"],
        *,
        rope_scale: float = 1.0,
        rope_watershed: float = 1.0,
    ) -> Float[Array, "b f h w c"]:
        """Velocity ε − x, float32; timesteps in 0 (data) … 1000 (noise), one per frame.

        rope_scale stretches positions for pictures larger than those trained on: linearly below
        the timestep rope_watershed, in the base above it. Raises ValueError when shapes do not fit.
        """
        arrays = map(jnp.asarray, (latents, timesteps, text, text_mask))
        return self._apply(
            self.params, *arrays, rope_scale=float(rope_scale), rope_watershed=rope_watershed
        )


def param_shapes(config: NextDiTConfig, dtype=jnp.float32) -> dict[str, Any]:
    """The nested dict of jax.ShapeDtypeStruct that parameters of `dtype` fill."""
    shapes = _split(config, jnp.dtype(dtype))[1]
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), shapes)


@functools.lru_cache(maxsize=8)
def _split(config: NextDiTConfig, dtype: DTypeLike) -> tuple[nnx.GraphDef, dict[str, Any]]:
    module = nnx.eval_shape(lambda: NextDiT(config, rngs=nnx.Rngs(0), dtype=dtype))
    graphdef, state = nnx.split(module)
    return graphdef, nnx.to_pure_dict(state)


def _precision(dtype: DTypeLike) -> str:
    return "highest" if matmul_precision(dtype) is not None else "default"
