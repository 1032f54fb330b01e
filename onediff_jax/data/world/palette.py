"""Named colours and looks of the procedural world: what captions can say and what renders can
show.
"""

from dataclasses import dataclass

# Objects. Names never coincide with floor names, so a colour word in a caption means an object.
PALETTE = {
    "red": (219, 35, 32),
    "green": (38, 158, 52),
    "blue": (36, 76, 222),
    "yellow": (244, 211, 30),
    "purple": (142, 46, 178),
    "cyan": (40, 196, 208),
    "orange": (245, 125, 22),
    "white": (240, 240, 236),
}

SKIN = {
    "fair": (240, 200, 172),
    "tan": (208, 156, 116),
    "brown": (146, 96, 64),
    "dark": (92, 60, 42),
}

HAIR = {
    "black": (30, 26, 26),
    "brown": (92, 56, 30),
    "blond": (226, 188, 98),
    "red": (176, 74, 30),
    "gray": (170, 168, 166),
}

TROUSERS = {
    "dark": (52, 54, 66),
    "blue": (52, 84, 150),
    "brown": (112, 82, 56),
    "gray": (128, 130, 134),
    "green": (66, 104, 66),
    "red": (160, 44, 44),
    "white": (226, 224, 218),
}

# Parts of composite things that keep their colour whatever the thing's colour is.
FIXED = {
    "wood": (124, 84, 50),
    "dark": (44, 44, 50),
    "glass": (172, 208, 226),
    "cream": (236, 224, 196),
    "steel": (150, 154, 162),
    "carrot": (238, 130, 40),
}


@dataclass(frozen=True)
class Material:
    """How a surface answers light: `soft` and `sharp` highlights, `mirror` share of reflected
    surroundings.
    """

    soft: float
    sharp: float
    mirror: float


MATERIALS = {
    "matte": Material(0.0, 0.0, 0.0),
    "shiny": Material(0.10, 0.75, 0.06),
    "metal": Material(0.45, 0.50, 0.55),
}

TEXTURES = ("plain", "striped", "dotted", "checkered")


@dataclass(frozen=True)
class Floor:
    """A floor: its name in captions, its pattern, and its two colours as RGB bytes."""

    name: str
    pattern: str
    color: tuple[int, int, int]
    second: tuple[int, int, int]


FLOORS = {
    "gray": Floor("gray floor", "plain", (148, 148, 150), (136, 136, 139)),
    "dark": Floor("dark floor", "plain", (78, 80, 88), (70, 72, 80)),
    "beige": Floor("beige floor", "plain", (208, 190, 160), (198, 180, 150)),
    "brown": Floor("brown floor", "plain", (126, 94, 70), (116, 86, 64)),
    "pink": Floor("pink floor", "plain", (214, 164, 170), (206, 154, 161)),
    "wooden": Floor("wooden floor", "planks", (176, 128, 82), (138, 94, 56)),
    "tiled": Floor("tiled floor", "tiles", (196, 196, 192), (120, 120, 122)),
    "checkered": Floor("checkered floor", "checker", (202, 198, 190), (96, 98, 106)),
    "grass": Floor("grass", "speckle", (104, 140, 66), (78, 116, 50)),
    "sand": Floor("sand", "speckle", (218, 196, 146), (202, 178, 128)),
    "stone": Floor("stone floor", "flagstones", (140, 138, 134), (104, 102, 100)),
}


@dataclass(frozen=True)
class Sky:
    """A sky: gradient ends, light of the sun and of the rest, the sun's elevation in degrees.

    shadow is the share of the sun's light that a shadow takes away.
    """

    name: str
    horizon: tuple[int, int, int]
    zenith: tuple[int, int, int]
    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    elevation: float
    shadow: float


SKIES = {
    "clear": Sky(
        "clear sky",
        horizon=(206, 226, 242),
        zenith=(62, 128, 214),
        sun=(0.66, 0.65, 0.62),
        ambient=(0.47, 0.48, 0.50),
        elevation=48.0,
        shadow=0.66,
    ),
    "sunset": Sky(
        "sunset sky",
        horizon=(252, 176, 96),
        zenith=(126, 78, 140),
        sun=(0.74, 0.62, 0.50),
        ambient=(0.45, 0.42, 0.43),
        elevation=36.0,
        shadow=0.64,
    ),
    "gray": Sky(
        "cloudy sky",
        horizon=(200, 204, 208),
        zenith=(142, 148, 156),
        sun=(0.42, 0.42, 0.42),
        ambient=(0.58, 0.58, 0.59),
        elevation=54.0,
        shadow=0.42,
    ),
    "night": Sky(
        "night sky",
        horizon=(48, 54, 92),
        zenith=(10, 12, 34),
        sun=(0.52, 0.54, 0.60),
        ambient=(0.33, 0.34, 0.40),
        elevation=50.0,
        shadow=0.66,
    ),
    "dawn": Sky(
        "pink dawn sky",
        horizon=(250, 206, 196),
        zenith=(150, 160, 214),
        sun=(0.68, 0.62, 0.58),
        ambient=(0.47, 0.45, 0.47),
        elevation=40.0,
        shadow=0.60,
    ),
}
