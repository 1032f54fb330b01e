"""Edited twins: a scene changed in one visible way, and the instruction that says which."""

from dataclasses import replace

import numpy as np

from onediff_jax.data.world.captions import article, phrase, relation, seen, sky_seen
from onediff_jax.data.world.layout import PLAIN_KINDS, Level, moved, pick, place, random_thing
from onediff_jax.data.world.palette import FLOORS, PALETTE, SKIES
from onediff_jax.data.world.poses import POSES
from onediff_jax.data.world.scene import Scene

# An object is edited only when it covers this share of the picture, before (or, for one added,
# after) the edit.
EDITED_SHARE = 0.015


def edited(scene: Scene, rng: np.random.Generator, level: Level) -> tuple[Scene, str]:
    """A scene with the same camera and one visible change, and its instruction. Edits that do not
    apply are redrawn.
    """
    kinds = list(EDITS)
    weights = np.array([EDITS[k][1] for k in kinds])
    order = rng.choice(len(kinds), size=len(kinds), replace=False, p=weights / weights.sum())
    for i in order:
        result = EDITS[kinds[i]][0](scene, rng, level)
        if result is not None:
            return result
    return _floor(scene, rng, level)


def _target(scene: Scene, rng, things_only: bool = True):
    options = [i for i in seen(scene) if scene.visible[i] >= EDITED_SHARE]
    if things_only:
        options = [i for i in options if scene.objects[i].label != "person"]
    return pick(rng, options) if options else None


def _with(scene: Scene, index: int, thing) -> Scene:
    return replace(scene, objects=(*scene.objects[:index], thing, *scene.objects[index + 1 :]))


def name(scene: Scene, index: int) -> str:
    """The shortest unmistakable name: "the cube", or "the red cube" when there are several."""
    thing = scene.objects[index]
    if sum(other.label == thing.label for other in scene.objects) == 1 and thing.label == "person":
        return "the person"
    return f"the {thing.color_name} {thing.label}"


def _recolor(scene: Scene, rng, level):
    index = _target(scene, rng)
    if index is None:
        return None
    used = scene.colors()
    color = pick(
        rng,
        [c for c in PALETTE if c not in used]
        or [c for c in PALETTE if c != scene.objects[index].color_name],
    )
    twin = _with(scene, index, replace(scene.objects[index], color_name=color))
    verb = pick(rng, ("make {} {}", "turn {} {}", "paint {} {}", "change the color of {} to {}"))
    return twin, verb.format(name(scene, index), color)


def _remove(scene: Scene, rng, level):
    index = _target(scene, rng)
    if index is None:
        return None
    twin = replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])
    return twin, pick(rng, ("remove {}", "take away {}", "delete {}")).format(name(scene, index))


def _add(scene: Scene, rng, level):
    thing = place(
        random_thing(rng, level, scene.objects), scene.objects, rng, scene.camera, scene.floor_z
    )
    if thing is None:
        return None
    index = len(scene.things)
    twin = replace(scene, objects=(*scene.things, thing, *scene.objects[index:]))
    if twin.visible[index] < EDITED_SHARE:
        return None
    text = f"{pick(rng, ('add', 'put', 'place'))} {article(phrase(thing, rng))}"
    others = [i for i in seen(twin) if i != index]
    if others:
        return twin, f"{text} {relation(twin, index, others[0])} {name(twin, others[0])}"
    return twin, f"{text} on the floor" if text.startswith(("put", "place")) else text


def _replace(scene: Scene, rng, level):
    index = _target(scene, rng)
    if index is None:
        return None
    old = scene.objects[index]
    kind = pick(rng, [k for k in level.kinds if k != old.kind])
    thing = replace(old, kind=kind, texture="plain" if kind not in PLAIN_KINDS else old.texture)
    others = scene.objects[:index] + scene.objects[index + 1 :]
    if any(
        np.hypot(*np.subtract(thing.position, o.position)[:2]) < thing.radius + o.radius
        for o in others
    ):
        return None
    twin = _with(scene, index, thing)
    if twin.visible[index] < EDITED_SHARE:
        return None
    new = article(f"{thing.color_name} {kind}")
    verb = pick(rng, ("replace {} with {}", "swap {} for {}", "turn {} into {}"))
    return twin, verb.format(name(scene, index), new)


def _texture(scene: Scene, rng, level):
    index = _target(scene, rng)
    if index is None or scene.objects[index].kind not in PLAIN_KINDS:
        return None
    old = scene.objects[index]
    texture = pick(rng, [t for t in ("plain", *level.textures) if t != old.texture])
    twin = _with(scene, index, replace(old, texture=texture))
    return twin, pick(rng, ("make {} {}", "turn {} {}")).format(name(scene, index), texture)


def _resize(scene: Scene, rng, level):
    index = _target(scene, rng)
    if index is None:
        return None
    old = scene.objects[index]
    small, large = level.sizes[0], level.sizes[-1]
    grows = old.size < 0.5 * (small[1] + large[2])
    size_name, low, high = large if grows else small
    thing = replace(old, size=round(0.5 * (low + high), 4), size_name=size_name)
    others = scene.objects[:index] + scene.objects[index + 1 :]
    if any(
        np.hypot(*np.subtract(thing.position, o.position)[:2]) < thing.radius + o.radius
        for o in others
    ):
        return None
    twin = _with(scene, index, thing)
    if twin.visible[index] < EDITED_SHARE:
        return None
    return twin, f"make {name(scene, index)} {'larger' if grows else 'smaller'}"


def _floor(scene: Scene, rng, level):
    key = pick(rng, [f for f in level.floors if f != scene.floor_name])
    floor = FLOORS[key].name
    new = floor if floor in ("grass", "sand") else article(floor)
    verb = pick(rng, ("change the floor to {}", "replace the floor with {}", "give it {}"))
    return replace(scene, floor_name=key), verb.format(new)


def _sky(scene: Scene, rng, level):
    if not sky_seen(scene):
        return None
    key = pick(rng, [s for s in level.skies if s != scene.sky_name])
    verb = pick(rng, ("change the sky to {}", "replace the sky with {}", "give it {}"))
    return replace(scene, sky_name=key), verb.format(article(SKIES[key].name))


def _shirt(scene: Scene, rng, level):
    person = scene.figure
    if person is None:
        return None
    taken = scene.colors() | {person.identity.trousers}
    color = pick(rng, [c for c in PALETTE if c not in taken])
    twin = replace(person, identity=replace(person.identity, shirt=color))
    verb = pick(rng, ("make the shirt {}", "change the shirt to {}", "give the person {} shirt"))
    text = verb.format(article(color) if verb.endswith("{} shirt") else color)
    return _with(scene, len(scene.objects) - 1, twin), text


def _pose(scene: Scene, rng, level):
    person = scene.figure
    if person is None:
        return None
    pose = pick(rng, [p for p in level.poses if p != person.pose])
    twin = _with(scene, len(scene.objects) - 1, replace(person, pose=pose))
    return twin, pick(rng, ("show the person {}", "the person is now {}")).format(POSES[pose][0])


def _move(scene: Scene, rng, level):
    index = _target(scene, rng)
    if index is None:
        return None
    old = scene.objects[index]
    _, right, _, _ = scene.camera.frame
    side = 1.0 if float(np.dot(old.position, right)) < 0 else -1.0
    spot = np.asarray(old.position) + side * 0.3 * right
    others = scene.objects[:index] + scene.objects[index + 1 :]
    if any(np.hypot(*np.subtract(spot, o.position)[:2]) < old.radius + o.radius for o in others):
        return None
    twin = _with(scene, index, moved(old, tuple(np.round(spot, 4).tolist())))
    return twin, f"move {name(scene, index)} to the {'right' if side > 0 else 'left'}"


# edit -> (function, relative weight)
EDITS = {
    "recolor": (_recolor, 3.0),
    "remove": (_remove, 2.0),
    "add": (_add, 2.0),
    "replace": (_replace, 2.0),
    "texture": (_texture, 0.7),
    "resize": (_resize, 0.7),
    "move": (_move, 0.7),
    "floor": (_floor, 1.0),
    "sky": (_sky, 1.0),
    "shirt": (_shirt, 2.0),
    "pose": (_pose, 1.0),
}
