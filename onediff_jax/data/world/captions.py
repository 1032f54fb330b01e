"""Sentences that say what a scene's own camera sees, in varied words, and never what it does not
see.
"""

import numpy as np

from onediff_jax.data.world.layout import pick
from onediff_jax.data.world.scene import Scene

# An object is named when it covers at least this share of the picture, the sky when it covers
# SKY_SHARE.
NAMED_SHARE, SKY_SHARE = 0.006, 0.05
MOST_WORDS = 24

_FINISH = {
    "matte": ("", "", "matte"),
    "shiny": ("shiny", "glossy", ""),
    "metal": ("metal", "metallic", ""),
}
_PERSON = ("person", "person", "figure")


def seen(scene: Scene) -> list[int]:
    """Indices of the objects that can be named, most visible first."""
    order = [i for i, share in enumerate(scene.visible) if share >= NAMED_SHARE]
    return sorted(order, key=lambda i: -scene.visible[i])


def sky_seen(scene: Scene) -> bool:
    """Whether enough sky shows: above the horizon, not behind things."""
    return scene.sky_share >= SKY_SHARE


def phrase(thing, rng: np.random.Generator, details: bool = True) -> str:
    """ "large shiny red cube" or "person in a blue shirt", without article."""
    if thing.label == "person":
        return f"{pick(rng, _PERSON)} in {article(thing.color_name)} shirt"
    words = []
    if details:
        a, b = rng.random(2)
        if thing.size_name and a < 0.6:
            words.append({"large": "large", "small": "small"}[thing.size_name])
        if b < 0.6:
            words.append(pick(rng, _FINISH[thing.material]))
    if thing.texture != "plain":
        words.append(thing.texture)
    return " ".join([w for w in words if w] + [thing.color_name, thing.label])


def article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def relation(scene: Scene, first: int, second: int) -> str:
    """Where the first object stands relative to the second, as the scene's camera sees it."""
    _, right, _, ahead = scene.camera.frame
    offset = np.subtract(scene.objects[first].position, scene.objects[second].position)
    sideways, away = float(offset @ right), float(offset[:2] @ ahead[:2] / np.hypot(*ahead[:2]))
    if abs(sideways) >= 0.6 * abs(away):
        return "to the left of" if sideways < 0 else "to the right of"
    return "behind" if away > 0 else "in front of"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """At most 24 words: the things seen, how they stand to each other, the floor, and the sky if
    it shows.
    """
    names = seen(scene)
    if names and rng.random() < 0.35:
        names = list(rng.permutation(names))
    body = _things(scene, names, rng)
    floor, sky = _surroundings(scene, rng)
    for tail in (floor + sky, floor, ""):
        text = body + tail
        if len(text.split()) <= MOST_WORDS:
            break
    if rng.random() < 0.12 and len(text.split()) <= MOST_WORDS - 3:
        text = pick(rng, ("a picture of ", "a rendering of ", "a view of ")) + text
    return text


def _things(scene: Scene, names: list[int], rng) -> str:
    objects = scene.objects
    if not names:
        return "an empty place"
    details = len(names) < 4
    first = article(phrase(objects[names[0]], rng, details)) + _action(objects[names[0]], rng)
    if len(names) == 1:
        return first
    second = article(phrase(objects[names[1]], rng, details)) + _action(objects[names[1]], rng)
    related = rng.random() < 0.7
    if len(names) == 2:
        return (
            f"{first} {relation(scene, names[0], names[1])} {second}"
            if related
            else f"{first} and {second}"
        )
    rest = [article(phrase(objects[i], rng, False)) for i in names[2:4]]
    if related and len(names) == 3:
        link = relation(scene, names[0], names[1])
        return f"{first} {link} {second}, {pick(rng, ('and', 'with'))} {rest[0]}"
    return ", ".join([first, second, *rest[:-1]]) + f" and {rest[-1]}"


def _action(thing, rng) -> str:
    if thing.label != "person" or rng.random() < 0.2:
        return ""
    return f" {thing.action}"


def _surroundings(scene: Scene, rng) -> tuple[str, str]:
    a, b = rng.random(2)
    floor = f" on {_the(scene.floor.name)}" if a < 0.85 else ""
    sky = f" under {_the(scene.sky.name)}" if sky_seen(scene) and b < 0.75 else ""
    return floor, sky


def _the(name: str) -> str:
    return name if name in ("grass", "sand") else article(name)


def figure_caption(scene: Scene, rng: np.random.Generator) -> str:
    """What the figure does and where; who it is comes from pictures: clothes stay unnamed."""
    figure = scene.figure
    assert figure is not None
    who = pick(rng, _PERSON)
    where = f" on {_the(scene.floor.name)}"
    others = [i for i in seen(scene) if scene.objects[i].label != "person"]
    text = f"{article(who)} {figure.action}{where}"
    if others and rng.random() < 0.7:
        text += f" near {article(phrase(scene.objects[others[0]], rng, False))}"
    if sky_seen(scene) and rng.random() < 0.6:
        text += f" under {_the(scene.sky.name)}"
    return text
