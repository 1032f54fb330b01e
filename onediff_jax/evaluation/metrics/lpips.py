"""The learned perceptual distance LPIPS 0.1, of a trunk and linear weights that are given.

The arithmetic of the lpips package; the trunks are torchvision's AlexNet, SqueezeNet 1.1 and
VGG-16, with the tensors' names as in torchvision's files.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
# Layers of torchvision's `features`, by number: (kind, stride, padding); a tap after those of TAPS.
_CONV, _POOL, _FIRE = "conv", "pool", "fire"
_LAYERS: dict[str, dict[int, tuple[str, int, int]]] = {
    "alex": {
        0: (_CONV, 4, 2),
        2: (_POOL, 3, 0),
        3: (_CONV, 1, 2),
        5: (_POOL, 3, 0),
        **dict.fromkeys((6, 8, 10), (_CONV, 1, 1)),
    },
    "squeeze": {
        0: (_CONV, 2, 0),
        **dict.fromkeys((2, 5, 8), (_POOL, 3, 0)),
        **dict.fromkeys((3, 4, 6, 7, 9, 10, 11, 12), (_FIRE, 1, 0)),
    },
    "vgg": {
        **dict.fromkeys((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (_CONV, 1, 1)),
        **dict.fromkeys((4, 9, 16, 23), (_POOL, 2, 0)),
    },
}
_TAPS = {
    "alex": (0, 3, 6, 8, 10),
    "squeeze": (0, 4, 7, 9, 10, 11, 12),
    "vgg": (2, 7, 14, 21, 28),
}


def lpips_distance(network: Any, first: np.ndarray, second: np.ndarray) -> float:
    """The distance of two pictures; 0 for equal ones.

    Args:
      network: {"trunk": …, "linear": …}, or a pair of the two. The trunk is a mapping of
        torchvision's tensors ("0.weight" or "features.0.weight", OIHW), or a function from
        float32 (1, H, W, 3), already scaled, to a list of features (1, h, w, C). The linear
        weights are one array of C values per tap, or a mapping "lin0…" of them.
      first, second: uint8 (H, W, 3).

    Raises ValueError for pictures of other types or sizes, or weights that fit no trunk.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype != np.uint8 or second.dtype != np.uint8 or first.shape != second.shape:
        raise ValueError(
            f"{first.dtype} {first.shape} and {second.dtype} {second.shape}: "
            "both must be uint8 (H, W, 3) of one size"
        )
    trunk, linear = (
        (network["trunk"], network["linear"]) if isinstance(network, Mapping) else network
    )
    features: Any = trunk if callable(trunk) else functools.partial(_features, trunk)
    taps = [features(_scaled(picture)) for picture in (first, second)]
    weights = _linear(linear)
    if not len(weights) == len(taps[0]) == len(taps[1]):
        raise ValueError(f"{len(weights)} linear weights for {len(taps[0])} taps of the trunk")
    return float(sum(_layer(a, b, w) for a, b, w in zip(*taps, weights, strict=True)))


def _scaled(picture: np.ndarray) -> np.ndarray:
    return ((picture.astype(np.float32) / 127.5 - 1 - _SHIFT) / _SCALE)[None]


def _linear(linear) -> list[np.ndarray]:
    if isinstance(
        linear, Mapping
    ):  # "lin0", "lin1", … or the lpips package's "lin0.model.1.weight"
        linear = [linear[name] for name in sorted(linear)]
    return [np.asarray(weight, np.float32).reshape(-1) for weight in linear]


def _layer(first, second, weight: np.ndarray) -> float:
    """The spatial mean of the weighted squared difference of features of unit length."""

    def unit(features):
        features = np.asarray(features, np.float32)
        return features / (np.sqrt(np.square(features).sum(-1, keepdims=True)) + 1e-10)

    return float((np.square(unit(first) - unit(second)) * weight).sum(-1).mean())


def _features(tensors: Mapping[str, np.ndarray], picture: np.ndarray) -> Sequence[np.ndarray]:
    """The taps of a trunk, from its tensors."""
    import jax
    import jax.numpy as jnp

    tensors = {name.removeprefix("features."): np.asarray(t) for name, t in tensors.items()}
    kind = _kind(tensors)

    def convolve(x, name, stride=1, padding=0):
        weight, bias = jnp.asarray(tensors[f"{name}.weight"]), tensors[f"{name}.bias"]
        pads = [(padding, padding)] * 2
        out = jax.lax.conv_general_dilated(
            x,
            weight,
            (stride, stride),
            pads,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            precision="highest",
        )
        return jax.nn.relu(out + bias)

    def pool(x, size):
        # SqueezeNet rounds sizes up; with the others' sizes that would add a row.
        over = [(-(n - size) % 2 if kind == "squeeze" else 0) for n in x.shape[1:3]]
        pads = ((0, 0), (0, over[0]), (0, over[1]), (0, 0))
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 2, 2, 1), pads
        )

    x, taps = jnp.asarray(picture, jnp.float32), []
    for number, (what, stride, padding) in sorted(_LAYERS[kind].items()):
        if what == _CONV:
            x = convolve(x, number, stride, padding)
        elif what == _POOL:
            x = pool(x, stride)
        else:
            squeezed = convolve(x, f"{number}.squeeze")
            wide = convolve(squeezed, f"{number}.expand3x3", padding=1)
            x = jnp.concatenate([convolve(squeezed, f"{number}.expand1x1"), wide], -1)
        if number in _TAPS[kind]:
            taps.append(np.asarray(x))
    return taps


def _kind(tensors: Mapping[str, np.ndarray]) -> str:
    for kind, last in (
        ("squeeze", "12.squeeze.weight"),
        ("vgg", "28.weight"),
        ("alex", "10.weight"),
    ):
        if last in tensors:
            return kind
    raise ValueError(
        f"the trunk's tensors {sorted(tensors)[:4]}… are not those of torchvision's alexnet, "
        "squeezenet1_1 or vgg16"
    )
