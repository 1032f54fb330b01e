"""Class lists, labels and the colours they get in a condition picture and its prompt."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import BadData, check_text, decode_text, rng_for
from onediff_jax.tasks import colors
from onediff_jax.tasks.regions import paint_boxes

VOID = (255, 65535, -1)  # "ignore" in the class maps of nearly every set


@dataclasses.dataclass(frozen=True)
class ClassList:
    """What the numbers of a class map mean.

    Attributes:
      names: index -> label; None = not painted and not in the prompt (void, background).
      rgb: index -> (red, green, blue), for maps stored in colour; empty without them.
    """

    names: Mapping[int, str | None]
    rgb: Mapping[int, tuple[int, int, int]] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: str) -> "ClassList":
        """Reads a .txt (one label per line, index 0 first) or .json file.

        The JSON is a list of labels, {"index": label}, or a list of {"id", "name", "color"}, the
        colour (optional) as "#RRGGBB" or [r, g, b]. An empty line, "" or null is not painted.

        Raises:
          ValueError: no such file, or something else in it.
        """
        try:
            text = decode_text(files.read_bytes(path))
            values = text.splitlines() if path.endswith(".txt") else json.loads(text)
            return cls.build(values)
        except (BadData, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"class list {path!r}: {error}") from None

    @classmethod
    def build(cls, values: Any) -> "ClassList":
        """A class list from the forms that `load` reads."""
        if isinstance(values, Mapping):
            values = [{"id": int(index), "name": name} for index, name in values.items()]
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ValueError("classes must be a list or {index: label}, not empty")
        names: dict[int, str | None] = {}
        rgb: dict[int, tuple[int, int, int]] = {}
        for position, value in enumerate(values):
            entry = value if isinstance(value, Mapping) else {"id": position, "name": value}
            index, name = int(entry["id"]), entry.get("name")
            if index in names:
                raise ValueError(f"class {index} is listed twice")
            names[index] = None if name is None or name == "" else check_label(name)
            if entry.get("color") is not None:
                rgb[index] = _parse_color(entry["color"])
        return cls(names, rgb)

    def indices(self, image: np.ndarray) -> np.ndarray:
        """(H, W) class indices of a map stored in this list's colours (H, W, 3).

        Raises:
          BadData: the list has no colours, or the map has another colour.
        """
        if not self.rgb:
            raise BadData("bad_labels", "the map is in colour, the class list has no colours")
        codes = image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
        table = {(r << 16) + (g << 8) + b: index for index, (r, g, b) in self.rgb.items()}
        present, inverse = np.unique(codes, return_inverse=True)
        unknown = [code for code in present.tolist() if code not in table]
        if unknown:
            raise BadData("bad_labels", f"colour #{unknown[0]:06X} is not in the class list")
        found = np.array([table[code] for code in present.tolist()])
        return found[inverse].reshape(codes.shape)

    def labels(self, classes: np.ndarray) -> dict[str, list[int]]:
        """Label -> the indices painted for it, of a class map (H, W), the largest area first.

        The numbers of VOID that the list does not have are what their sets leave open: not painted.

        Raises:
          BadData: an index that the list does not have, or nothing to paint.
        """
        present, counts = np.unique(classes, return_counts=True)
        areas: dict[str, int] = {}
        members: dict[str, list[int]] = {}
        for index, count in zip(present.tolist(), counts.tolist(), strict=True):
            if index not in self.names and index in VOID:
                continue
            if index not in self.names:
                raise BadData("bad_labels", f"class {index} is not in the class list")
            name = self.names[index]
            if name is not None:
                areas[name] = areas.get(name, 0) + count
                members.setdefault(name, []).append(int(index))
        if not areas:
            raise BadData("bad_labels", "no pixel has a label")
        return {label: members[label] for label in sorted(areas, key=lambda x: (-areas[x], x))}


def choose_colors(labels: Sequence[str], key: str) -> tuple[dict[str, str], list[str]]:
    """Distinct allowed colours for labels, by the record's key, and the labels left without.

    There are 20 colours: the first 20 labels get one, so give the most important ones first.
    """
    labels = list(dict.fromkeys(labels))
    shown, left_out = labels[: len(colors.COLORS)], labels[len(colors.COLORS) :]
    return colors.assign(shown, rng_for("colours", key)), left_out


def draw_boxes(
    key: str, shape: tuple[int, ...], boxes: Sequence[np.ndarray], labels: Sequence[str]
) -> tuple[np.ndarray, tuple[tuple[str, str], ...], dict[str, Any]]:
    """The picture of labelled boxes, its regions, and extras of the record.

    Args:
      key: of the record; its colours depend on it.
      shape: (height, width, …) of the picture.
      boxes: (4,) x0, y0, x1, y1 in pixels; parts outside are cut.
      labels: of each. Those that cover most get a colour first.

    Raises BadData where no box holds a pixel.
    """
    height, width = shape[:2]
    areas: dict[str, float] = {}
    kept, empty = [], []
    for box, label in zip(boxes, labels, strict=True):
        cut = np.clip(box, 0, [width, height, width, height])
        if not (np.rint(cut[2:]) > np.rint(cut[:2])).all():
            empty.append([round(float(value), 2) for value in box])
            continue
        kept.append((cut, label))
        areas[label] = areas.get(label, 0.0) + float(np.prod(cut[2:] - cut[:2]))
    if not kept:
        raise BadData("bad_labels", f"boxes {empty[:3]} hold no pixel")
    chosen, left_out = choose_colors(sorted(areas, key=lambda x: (-areas[x], x)), key)
    shown = [(box, chosen[name]) for box, name in kept if name in chosen]
    picture = paint_boxes(height, width, [box for box, _ in shown], [name for _, name in shown])
    extras: dict[str, Any] = {"labels_left_out": left_out} if left_out else {}
    extras |= {"boxes_left_out": empty} if empty else {}
    return picture, tuple((color, label) for label, color in chosen.items()), extras


def check_label(label: Any) -> str:
    """A label as a prompt can hold it; a number is its digits.

    Raises:
      BadData: empty, not text, or with < or >.
    """
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    label = check_text(label, "label")
    if not label or set("<>") & set(label):
        raise BadData("bad_labels", f"label {label!r} must not be empty nor hold '<' or '>'")
    return label


def check_regions(value: Any) -> tuple[tuple[str, str], ...]:
    """(colour name, label) pairs from a list of pairs, or of {"color": …, "label": …}.

    Raises:
      BadData: "bad_labels" for anything else, or a colour that is not allowed.
    """
    if value is not None and not isinstance(value, list | tuple):
        raise BadData("bad_labels", f"regions must be a list, got {type(value).__name__}")
    pairs = []
    for entry in value or ():
        pair = (entry.get("color"), entry.get("label")) if isinstance(entry, dict) else entry
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadData("bad_labels", f"region {entry!r} is no (colour, label) pair")
        color, label = check_text(pair[0], "colour"), check_label(pair[1])
        if color not in colors.COLORS:
            raise BadData("bad_labels", f"unknown colour {color!r}; one of {list(colors.COLORS)}")
        pairs.append((color, label))
    return tuple(pairs)


def _parse_color(value: Any) -> tuple[int, int, int]:
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        value = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
    if isinstance(value, str) or len(value) != 3 or not all(0 <= int(v) <= 255 for v in value):
        raise ValueError(f"color {value!r} must be '#RRGGBB' or [r, g, b] in 0..255")
    return int(value[0]), int(value[1]), int(value[2])
