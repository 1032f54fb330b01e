"""What a role is: everything that is true of one kind of frame, in one place.

A frame's role says what its pixels mean: "image" is a picture, "depth" a depth map. Whoever makes
frames (the embedded world, prepare, sample --from_image), shows them, reads them or measures them
asks the role; roles.py lists them all.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is exactly known of one picture, by whatever made it.

    Attributes:
      image: (H, W, 3) uint8.
      depth: (H, W) distances along the optical axis; infinite = sky.
      depth_range: (near, far), the depths that grey covers.
      classes: (H, W) integers.
      colors: label → name of its allowed colour, of everything that may be painted.
      labels: class → label.
      boxes: per thing its label and x0, y0, x1, y1 in pixels (x1, y1 exclusive).
      keypoints: (17, 3) x, y in pixels (pixel j covers j to j + 1) and visibility, in COCO's order.
    """

    image: np.ndarray
    depth: np.ndarray | None = None
    depth_range: tuple[float, float] | None = None
    classes: np.ndarray | None = None
    colors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[int, str] = dataclasses.field(default_factory=dict)
    boxes: tuple[tuple[str, tuple[float, float, float, float]], ...] = ()
    keypoints: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Made:
    """A frame made from truth.

    Attributes:
      picture: (H, W, 3) uint8.
      regions: (colour name, label) pairs that the prompt must carry.
      known: what reading and measuring it needs, by name: depth_norm, mask, ….
    """

    picture: np.ndarray
    regions: tuple[tuple[str, str], ...] = ()
    known: dict[str, Any] = dataclasses.field(default_factory=dict)


class Role:
    """One kind of frame. A subclass per role says what differs from a plain picture.

    Attributes:
      name: how tasks, files and manifests call it.
      title: what it is, in words for people.
      nearest: its colours stand for something: resizing takes the nearest pixel, as mixing two
        colours would make a third.
      grey: its three channels say the same.
      derived: whether `derive` makes it from an ordinary picture.
      mirrors: whether it stays true when mirrored from left to right.
      needs_mask: whether deriving it for one's own picture needs a mask.
      annotation: the kind of model that finds it in a picture (see data/annotate.py), or None.
      region_word: what follows the colour in the prompt's regions, or None where it has none.
      instructs: whether the prompt of a task that has it is an instruction.
      measure: how a generated frame of it is compared with the truth, see evaluation/scores.
      given_measures: how a picture that was generated from it is compared.
    """

    name: str
    title: str
    nearest: ClassVar[bool] = False
    grey: ClassVar[bool] = False
    derived: ClassVar[bool] = False
    mirrors: ClassVar[bool] = True
    needs_mask: ClassVar[bool] = False
    annotation: ClassVar[str | None] = None
    region_word: ClassVar[str | None] = None
    instructs: ClassVar[bool] = False
    measure: ClassVar[str] = "picture"
    given_measures: ClassVar[tuple[str, ...]] = ("picture",)

    @property
    def rendered(self) -> bool:
        """Whether `render` makes it where the truth is known."""
        return self.derived or type(self).render is not Role.render

    def derive(
        self,
        image: np.ndarray,
        rng: np.random.Generator | None = None,
        *,
        mask: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """This role's frame of an ordinary picture; None where it cannot be made from one.

        The one definition for training and use: lengths are fractions of the smaller side, so
        that a condition is as strong at every size. Ask for it at the size that is wanted:
        resizing afterwards would blur sharp lines.

        Args:
          image: (H, W, 3) uint8.
          rng: draws the strength from the role's range; None takes the middle of the range.
          mask: (H, W) bool, True where the picture is to be hidden; of role "masked" alone.

        Returns:
          (H, W, 3) uint8.
        """
        return None

    def render(self, truth: Truth, rng: np.random.Generator) -> Made | None:
        """This role's frame where the truth is known; None where the truth does not tell it."""
        picture = self.derive(truth.image, rng)
        return None if picture is None else Made(picture)

    def show(self, frame: np.ndarray) -> np.ndarray:
        """A frame as a picture to look at, uint8 (H, W, 3); frames are pictures but for rays."""
        if not self.grey:
            return frame
        mean = np.rint(frame.mean(-1)).astype(np.uint8)
        return np.repeat(mean[..., None], 3, -1)

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> Any:
        """What a frame says, as numbers.

        Args:
          frame: (H, W, 3), uint8 or float in 0..255; ray maps (h, w, 16).
          known: what was told with it, by name: regions, depth_norm, intrinsics.

        Returns:
          The picture itself where there is nothing to read; else as the role's class says.

        Raises:
          ValueError: something that must be known is missing.
        """
        return frame

    def need(self, known: Mapping[str, Any], name: str) -> Any:
        """known[name]; raises ValueError where it is missing."""
        if known.get(name) is None:
            raise ValueError(f"a {self.title} is read with {name}, which is not known")
        return known[name]
