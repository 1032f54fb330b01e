"""A number per array that changes when any of its bits does, made where the array lies.

It is a sum, modulo 2³², over the elements of a mix of their bits and their position. Sums of
integers do not depend on the order, so neither the mesh nor the number of processes matters. One
changed element always changes it; of other damage it misses one in 2³².
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def checksums(tree: Any) -> dict[str, jax.Array]:
    """The sum of every array of a pytree, by its path such as params/layers/kernel.

    Scalars uint32 on the devices, not waited for. All come from one program: those of several would
    run side by side on CPUs, where two processes may then wait for each other in another order, for
    ever. What lies in host memory is brought to its devices first, one array after the other.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {path_name(path): jnp.asarray(leaf) for path, leaf in leaves}
    away = {name: place for name, a in arrays.items() if (place := _device_memory(a)) is not None}
    near = [array for name, array in arrays.items() if name not in away]
    sums = dict(zip([name for name in arrays if name not in away], _sums(near), strict=True))
    for name, place in away.items():
        sums[name] = jax.block_until_ready(_sums([jax.device_put(arrays[name], place)])[0])
    return {name: sums[name] for name in arrays}


def as_text(sums: dict[str, jax.Array]) -> dict[str, str]:
    """The same as 8 hexadecimal digits each, for JSON; waits for them."""
    return {name: f"{int(value):08x}" for name, value in jax.device_get(sums).items()}


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf: its keys, fields and places, joined by slashes."""
    keys = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    return "/".join(keys)


def _device_memory(array: jax.Array) -> jax.sharding.Sharding | None:
    """Where an array of the host's memory lies on its devices; None for one that is there."""
    sharding, device = array.sharding, next(iter(array.sharding.device_set))
    kind = device.default_memory().kind
    return None if sharding.memory_kind in (None, kind) else sharding.with_memory_kind(kind)


def _sums(arrays: list[jax.Array]) -> list[jax.Array]:
    shardings = (array.sharding for array in arrays)
    meshes = (s.mesh for s in shardings if isinstance(s, jax.sharding.NamedSharding))
    return _compiled(next(meshes, None))(arrays)


@functools.cache
def _compiled(mesh: jax.sharding.Mesh | None):
    whole = None if mesh is None else jax.sharding.NamedSharding(mesh, jax.P())
    return jax.jit(lambda arrays: [_sum(array) for array in arrays], out_shardings=whole)


@jax.jit  # arrays of one shape are traced once
def _sum(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(array, _BITS[array.dtype.itemsize]).astype(jnp.uint32)
    index, stride = jnp.uint32(0), 1
    for axis in reversed(range(array.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        index = index + along * np.uint32(stride % 2**32)
        stride *= array.shape[axis]
    # The mix at the end of MurmurHash3: a bijection in which every bit moves every other.
    mixed = bits ^ (index * np.uint32(0x9E3779B9) + np.uint32(1))
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
