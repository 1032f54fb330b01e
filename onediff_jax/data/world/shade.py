"""Colours of a depth pass: floor with shadows, sky gradient, lit and textured surfaces.

Colours are planes (3,h,w), float32 in 0..1. Arrays are small and many: operations work in place
where they can.
"""

import numpy as np

from onediff_jax.data.world.geometry import CONTACT, rectangles
from onediff_jax.data.world.raycast import SKY, Rays, shadows
from onediff_jax.data.world.textures import floor_pattern, thing_pattern

# A floor point is fully in the shade when this much solid (world units) lies towards the sun:
# shadows get soft rims.
SHADE_LENGTH = 0.07

f = np.float32


def shade(scene, rays: Rays, inverse: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """RGB (3,h,w) of the hits `inverse`, `surface` (h,w) that `raycast.cast` found."""
    image = np.empty((3, *inverse.shape), np.float32)
    floor = rays.floor(scene.floor_z)
    first_row = int(np.count_nonzero(floor[0] + floor[2] * rays.vs <= SKY))
    if first_row:
        _sky(scene, rays, image[:, :first_row])
    if first_row < len(rays.vs):
        _floor(scene, rays, first_row, image[:, first_row:])
    hits = np.flatnonzero(surface.ravel() >= 0)
    if len(hits):
        colors = _surfaces(scene, rays, hits, inverse, surface)
        for plane, color in zip(image, colors, strict=True):
            plane.reshape(-1)[hits] = color
    return image


def _rgb(color) -> np.ndarray:
    return np.array(color, np.float32) / f(255)


def _dot(a, b) -> np.ndarray:
    """Dot products of vectors in components (3,N)."""
    out = a[0] * b[0]
    out += a[1] * b[1]
    out += a[2] * b[2]
    return out


def _normalize(a: np.ndarray) -> np.ndarray:
    length = _dot(a, a)
    np.sqrt(length, out=length)
    a /= length
    return a


def _sky(scene, rays: Rays, out: np.ndarray) -> None:
    """Fills out (3, rows, w) with a gradient over the sine of the elevation."""
    vs = rays.vs[: out.shape[1], None]
    length = (1 + vs * vs).astype(f) + (rays.us * rays.us).astype(f)
    np.sqrt(length, out=length)
    rise = (2.6 * (rays.ahead[2] + rays.up[2] * vs)).astype(f) / length
    np.minimum(rise, f(1), out=rise)
    horizon, zenith = _rgb(scene.sky.horizon), _rgb(scene.sky.zenith)
    for c in range(3):
        np.multiply(rise, zenith[c] - horizon[c], out=out[c])
        out[c] += horizon[c]


def _floor(scene, rays: Rays, first_row: int, out: np.ndarray) -> None:
    """Fills out (3, h - first_row, w) with the floor: in the sun or not, darker beside things,
    fading far away.
    """
    geometry, sun, sky, floor = scene.geometry, scene.sun, scene.sky, scene.floor
    vs, us = rays.vs[first_row:], rays.us.astype(f)
    level = rays.floor(scene.floor_z)
    depth = 1.0 / (level[0] + level[2] * vs)
    x, y = (
        (rays.position[i] + (rays.ahead[i] + rays.up[i] * vs) * depth).astype(f)[:, None]
        + (rays.right[i] * depth).astype(f)[:, None] * us
        for i in (0, 1)
    )
    light = np.append(sun, 0.0)
    drop = np.eye(4) - np.outer(light, [0, 0, 1, -scene.floor_z]) / sun[2]
    boxes = rectangles(geometry.duals, geometry.dual_starts, rays.view @ drop, rays.us, vs)
    count = len(geometry.parts)
    lit = shadows(geometry, rays, scene.floor_z, light, vs, boxes[:count])
    lit *= f(-sky.shadow / SHADE_LENGTH)
    np.maximum(lit, f(-sky.shadow), out=lit)
    lit += f(1)
    around = _contact(scene, boxes[count:], x, y)
    keep = x * x
    keep += y * y
    keep *= f(0.05)
    keep += f(1)
    np.divide(f(0.6), keep, out=keep)
    keep += f(0.4)
    lit *= keep
    around *= keep
    share = None
    if floor.pattern != "plain":
        share = floor_pattern(floor.pattern, x, y)
        share *= keep
    keep -= f(1)
    first, second, horizon = _rgb(floor.color), _rgb(floor.second), _rgb(sky.horizon)
    for c in range(3):
        np.multiply(around, f(sky.ambient[c]) * first[c], out=out[c])
        out[c] += lit * (f(sky.sun[c] * sun[2]) * first[c])
        if share is not None:
            out[c] *= 1 + (second[c] / first[c] - 1) * share
        out[c] -= keep * horizon[c]


def _contact(scene, boxes: list, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the sky a floor point sees (h,w): less beside and under things."""
    out = np.ones(x.shape, f)
    for thing, (r0, r1, c0, c1) in zip(scene.objects, boxes, strict=True):
        if r0 < r1 and c0 < c1:
            box = (slice(r0, r1), slice(c0, c1))
            dx, dy = x[box] - f(thing.position[0]), y[box] - f(thing.position[1])
            dx *= dx
            dy *= dy
            dx += dy
            dx *= f(-1 / (CONTACT * thing.radius) ** 2)
            dx += f(1)
            np.maximum(dx, 0, out=dx)
            dx *= dx
            dx *= f(-0.5)
            dx += f(1)
            out[box] *= dx
    return out


def _surfaces(scene, rays: Rays, hits: np.ndarray, inverse, surface) -> np.ndarray:
    """(3,N): colours of the samples `hits` (flat indices) on things."""
    geometry, sky, sun = scene.geometry, scene.sky, scene.sun.astype(f)
    ids = surface.ravel()[hits].astype(np.intp)
    rows, columns = np.divmod(hits, inverse.shape[1])
    depth = 1 / inverse.ravel()[hits]
    ray, point = np.empty((2, 3, len(hits)), f)
    for i in range(3):
        down = (rays.ahead[i] + rays.up[i] * rays.vs).astype(f)
        np.add(down[rows], (rays.right[i] * rays.us).astype(f)[columns], out=ray[i])
        np.multiply(ray[i], depth, out=point[i])
        point[i] += f(rays.position[i])
    normal = _normals(geometry.gradient.take(ids, axis=1), point)
    base = geometry.look[:3].take(ids, axis=1)
    _paint(scene, ids, point, normal, base)
    facing = _dot(normal, sun)
    np.maximum(facing, 0, out=facing)
    around = point[2]
    around -= f(scene.floor_z)
    around *= f(5)
    np.minimum(around, f(1), out=around)
    around *= f(0.26)
    around += f(0.74)
    around *= f(0.8) + f(0.2) * normal[2]
    color = np.empty_like(base)
    for c in range(3):
        np.multiply(around, f(sky.ambient[c]), out=color[c])
        color[c] += facing * f(sky.sun[c])
    color *= base
    if geometry.mirrors:
        _gloss(scene, geometry.look[3:].take(ids, axis=1), base, ray, normal, color, sun)
    return color


def _normals(g: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Unit normals (3,N) at points (3,N) from gradient entries (9,N)."""
    normal = g[6:]
    for i, row in enumerate(((0, 1, 2), (1, 3, 4), (2, 4, 5))):
        for j in range(3):
            normal[i] += g[row[j]] * point[j]
    return _normalize(normal)


def _paint(scene, ids, point, normal, base) -> None:
    """Puts the second colour of textured things into base (3,N)."""
    geometry = scene.geometry
    for instance, thing in enumerate(scene.objects):
        if thing.texture == "plain":
            continue
        mine = np.flatnonzero((geometry.owner[ids] == instance) & geometry.textured[ids])
        if len(mine):
            turn = np.linalg.inv(thing.affine).astype(f)
            local = turn[:3, :3] @ point[:, mine] + turn[:3, 3:]
            across = (turn[:3, :3] * f(thing.size)) @ normal[:, mine]
            second = mine[thing_pattern(thing.texture, local, across)]
            if thing.color_name in ("white", "yellow"):
                base[:, second] *= f(0.3)
            else:
                base[:, second] = base[:, second] * f(0.25) + f(0.7)


def _gloss(scene, answer, base, ray, normal, color, sun) -> None:
    """Adds highlights and reflected surroundings to color (3,N), in place.

    answer (3,N) holds Material's soft, sharp and mirror.
    """
    view = _normalize(-ray)
    half = view + sun[:, None]
    shine = np.maximum(_dot(normal, _normalize(half)), 0)
    for _ in range(3):
        shine *= shine
    soft = shine * answer[0]
    for _ in range(3):
        shine *= shine
    shine *= answer[1]
    shine += soft
    mirror = answer[2]
    rise = _dot(normal, view)
    rise *= normal[2]
    rise *= f(2)
    rise -= view[2]
    up, down = np.clip(rise * f(1.6), 0, 1), np.clip(rise * f(-5.0), 0, 1)
    horizon, zenith, floor = (
        _rgb(c) for c in (scene.sky.horizon, scene.sky.zenith, scene.floor.color)
    )
    # A mirror shows the surroundings tinted by its own colour, the brightest at the horizon.
    for c in range(3):
        seen = up * (zenith[c] - horizon[c])
        seen += horizon[c]
        seen += (f(0.55) * floor[c] - seen) * down
        seen *= f(1.25)
        seen += f(0.1)
        seen *= base[c]
        seen -= color[c]
        seen *= mirror
        color[c] += seen
        color[c] += shine * f(scene.sky.sun[c])
