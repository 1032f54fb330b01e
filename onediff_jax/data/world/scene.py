"""What a scene is: things on a floor under a sky, seen by an orbit camera. Pure descriptions, no
pixels.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onediff_jax.data.world.figure import Figure
from onediff_jax.data.world.geometry import Geometry
from onediff_jax.data.world.palette import FIXED, FLOORS, PALETTE, SKIES, Floor, Sky
from onediff_jax.data.world.raycast import coverage
from onediff_jax.data.world.shapes import KINDS, Shape, unit_shape

# Index of a class = its value in View.classes.
CLASSES = ("sky", "floor", "person", *KINDS)


@dataclass(frozen=True)
class OrbitCamera:
    """A camera on an orbit about the origin, looking at it, z up.

    Angles in degrees, distance in world units, focal in units of the shorter image side: a point
    at camera coordinates (X right, Y up, Z ahead) appears focal * side * X / Z pixels right of
    the centre. Position and axes equal those of `onediff_jax.tasks.cameras.orbit_cameras`.
    """

    azimuth_deg: float
    elevation_deg: float
    distance: float = 1.7
    focal: float = 1.3887

    @cached_property
    def frame(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """position, right, up, ahead: each (3,) float64."""
        az, el = np.radians(self.azimuth_deg), np.radians(self.elevation_deg)
        ca, sa, ce, se = np.cos(az), np.sin(az), np.cos(el), np.sin(el)
        back = np.array([ce * ca, ce * sa, se])
        right = np.array([-sa, ca, 0.0])
        up = np.array([-se * ca, -se * sa, ce])
        return self.distance * back, right, up, -back

    @property
    def c2w(self) -> np.ndarray:
        """Camera to world (4,4), NeRF/OpenGL axes: x right, y up, z back."""
        position, right, up, ahead = self.frame
        out = np.eye(4)
        out[:3, 0], out[:3, 1], out[:3, 2], out[:3, 3] = right, up, -ahead, position
        return out

    def project(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """World points (N,3) -> (N,3): x, y in pixels (pixel j covers [j, j + 1)), z-depth in
        world units.
        """
        position, right, up, ahead = self.frame
        local = (np.asarray(points, float) - position) @ np.stack([right, up, ahead], 1)
        scale = self.focal * min(height, width) / local[:, 2]
        return np.stack(
            [width / 2 + scale * local[:, 0], height / 2 - scale * local[:, 1], local[:, 2]], 1
        )


@dataclass(frozen=True)
class Thing:
    """An object standing on the floor. size: world units per unit of its shape; yaw in degrees
    about z.
    """

    kind: str
    color_name: str
    material: str
    texture: str
    size: float
    size_name: str
    position: tuple[float, float, float]
    yaw: float

    @property
    def label(self) -> str:
        return self.kind

    @property
    def radius(self) -> float:
        """Radius of the footprint in world units."""
        return KINDS[self.kind][1] * self.size

    @property
    def height(self) -> float:
        return KINDS[self.kind][2] * self.size

    @cached_property
    def affine(self) -> np.ndarray:
        """Unit shape to world (4,4)."""
        c, s = np.cos(np.radians(self.yaw)), np.sin(np.radians(self.yaw))
        out = np.eye(4)
        out[:3, :3] = self.size * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        out[:3, 3] = self.position
        return out

    @cached_property
    def shape(self) -> Shape:
        return unit_shape(self.kind).moved(self.affine)

    def colors(self) -> dict:
        """Slot of a part -> RGB bytes."""
        main = PALETTE[self.color_name]
        return {**FIXED, "main": main, "shade": tuple(int(0.7 * c) for c in main)}


@dataclass(frozen=True)
class Scene:
    """Things (the figure, if any, is the last of `objects`), floor, sky, sun, and the scene's own
    camera.

    floor_name and sky_name are keys of FLOORS and SKIES; floor_z is the floor's height;
    sun_azimuth in degrees.
    """

    objects: tuple
    floor_name: str
    sky_name: str
    floor_z: float
    sun_azimuth: float
    camera: OrbitCamera

    @property
    def figure(self) -> Figure | None:
        last = self.objects[-1] if self.objects else None
        return last if isinstance(last, Figure) else None

    @property
    def things(self) -> tuple:
        """The objects without the figure."""
        return self.objects[:-1] if self.figure else self.objects

    @property
    def floor(self) -> Floor:
        return FLOORS[self.floor_name]

    @property
    def sky(self) -> Sky:
        return SKIES[self.sky_name]

    @property
    def sun(self) -> np.ndarray:
        """Unit vector towards the sun (3,)."""
        az, el = np.radians(self.sun_azimuth), np.radians(self.sky.elevation)
        return np.array([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)])

    def colors(self) -> set[str]:
        """Names of the colours of the objects, the figure's shirt included."""
        return {thing.color_name for thing in self.objects}

    @property
    def named_colors(self) -> set[str]:
        return self.colors()

    @cached_property
    def geometry(self) -> Geometry:
        """The scene as arrays for the renderer, made once."""
        return Geometry.of(self)

    @cached_property
    def visible(self) -> tuple[float, ...]:
        """Share of the picture that each object covers in the scene's own camera."""
        return self.shares[2:]

    @property
    def sky_share(self) -> float:
        """Share of the picture that shows sky, in the scene's own camera."""
        return self.shares[0]

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Shares of the picture that show sky, floor and each object, in the scene's own camera,
        from a 32 x 32 depth pass.
        """
        return coverage(self.geometry, self.camera, self.floor_z, len(self.objects), 32)

    def knowing(self, shares: tuple[float, ...]) -> "Scene":
        """The scene itself, whose `shares` were found before: it does not look for them again."""
        self.__dict__["shares"] = shares
        return self
