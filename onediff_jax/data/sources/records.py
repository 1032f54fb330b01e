"""Rows of named fields as training examples: what tables, Parquet, WebDataset and TFDS share."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from onediff_jax.data.sources import journal
from onediff_jax.data.sources.base import BadData, RawExample, check_captions, check_text
from onediff_jax.data.sources.condition_files import ConditionReader
from onediff_jax.data.sources.images import ImageReader, is_picture_name
from onediff_jax.data.sources.labels import check_label, check_regions
from onediff_jax.tasks.definitions import BUILT_IN, Task, TaskSet
from onediff_jax.tasks.own import definitions_of
from onediff_jax.tasks.roles import get_role

_CONTROLS = tuple(f"control_path_{number}" for number in range(8))  # of one row, in order
# Role of a condition -> the columns that hold it where a row has several.
_CONDITIONS: dict[str, tuple[str, ...]] = {
    "depth": ("annotation_depth", "depth"),
    "canny": ("annotation_canny", "canny"),
    "hed": ("annotation_hed", "annotation_edge", "annotation_softedge", "hed"),
    "pose": ("annotation_openpose", "annotation_pose", "openpose", "pose"),
    "semanticmap": ("annotation_segmentation", "segmentation"),
}
# Role -> the names it goes by, in the order they are tried.
NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        *("image", "file_name", "target", "edited_image", "output_image", "image_path"),
        *("path", "file"),
    ),
    "caption": ("caption", "captions", "instruction", "edit_prompt", "prompt", "text"),
    "source": (
        *("source", "sources", "original_image", "conditioning_image", "condition"),
        *("input_images", "input_image", "control_path", *_CONTROLS),
    ),
    "source_caption": ("source_caption", "source_captions"),
    "item": ("item", "subject"),
    "regions": ("regions",),
    "group": ("group",),
    "mask_path": ("mask_path",),
    "repeats": ("repeats", "num_repeats"),
    "is_reg": ("is_reg",),
}
_INSTRUCTIONS = ("instruction", "edit_prompt", "edit_instruction", "editing_instruction")
_MOST_REPEATS = 10_000
_WHITE = 128  # a mask without such a value has another scale


@dataclasses.dataclass(frozen=True)
class RecordReader:
    """Makes examples of one task out of rows.

    Attributes:
      task: name in tasks.TASKS, all but multiview.
      image, caption, source, source_caption, item, group: the field that holds it; None: the first
        of NAMES[role] that the row has, which are those of musubi-tuner, OmniGen2 and Jodi too.
        `source` is the other picture of a pair, or a list of them; `group` the text or number that
        RawExample.group becomes.
      require_caption: without one a row is bad; otherwise it is an unlabelled picture.
      keep: further fields that go into the example's extras.
      images: how pictures are decoded.
      conditions: how condition pictures (depth, class maps) are read.
      tasks: where the task is looked up. In a task of one's own every role but the image has the
        field of its name.
      annotated: roles that a model finds in the picture later; like those that can be derived
        from it, a row of one's own task may lack them.

    Raises:
      ValueError: an unknown task, or multiview, whose cameras no row holds.
    """

    task: str = "text2image"
    image: str | None = None
    caption: str | None = None
    source: str | None = None
    source_caption: str | None = None
    item: str | None = None
    group: str | None = None
    require_caption: bool = False
    keep: tuple[str, ...] = ()
    images: ImageReader = dataclasses.field(default_factory=ImageReader)
    conditions: ConditionReader = dataclasses.field(default_factory=ConditionReader)
    tasks: TaskSet = BUILT_IN
    annotated: tuple[str, ...] = ()

    def __post_init__(self):
        if self.definition.rays:
            choices = [name for name, task in self.tasks.items() if not task.rays]
            raise ValueError(f"rows hold no cameras for {self.task}; choose from {choices}")
        object.__setattr__(self, "keep", tuple(self.keep))

    def describe(self) -> dict[str, Any]:
        """The options, as JSON values."""
        values = dataclasses.asdict(self)
        own = definitions_of(values.pop("tasks")).get(self.task)
        return values | ({"own_task": own} if own else {})

    @property
    def definition(self) -> Task:
        """The task of the rows."""
        return self.tasks.task(self.task)

    @property
    def own(self) -> Task | None:
        """The task of the rows, where it is one of one's own."""
        return self.definition if self.definition in self.tasks.own else None

    def check_fields(self, present: Iterable[str], where: str) -> None:
        """Raises ValueError where a role was given a field that no row has."""
        present = list(dict.fromkeys(present))
        for role in NAMES:
            chosen = getattr(self, role, None)
            if chosen is not None and chosen not in present:
                raise ValueError(f"{role}={chosen!r} is no field of {where}; there are {present}")

    def roles(self) -> tuple[str, ...]:
        """Every role that a row may have a field for."""
        own = self.definition.frames if self.own else ()
        return tuple(dict.fromkeys((*NAMES, *own)))

    def names(self, role: str) -> tuple[str, ...]:
        """The fields that may hold a role."""
        if role not in NAMES:
            return (role,)
        chosen = getattr(self, role, None)
        if chosen is not None:
            return (chosen,)
        frames = self.definition.frames
        special = _CONDITIONS.get(frames[1], ()) if role == "source" and len(frames) > 1 else ()
        if role == "caption" and self.definition.instructs:  # a caption tells of a picture
            special = _INSTRUCTIONS
        return (*special, *NAMES[role])

    def get(self, row: Mapping[str, Any], role: str) -> Any:
        """The value of a role; None where the row has none.

        Of several fields that could hold a picture, one that looks like a picture goes first:
        `source` may say where a row comes from, `target` may be a number.
        """
        if role == "source" and self.source is None and row.get(_CONTROLS[0]) is not None:
            row = {**row, _CONTROLS[0]: [row[n] for n in _CONTROLS if row.get(n) is not None]}
        values = [row[name] for name in self.names(role) if row.get(name) is not None]
        if role in ("image", "source") and len(values) > 1:
            values = [v for v in values if _looks_like_picture(v)] or values
        return values[0] if values else None

    def all_but_caption(self, row: Mapping[str, Any]) -> list | None:
        """The values of every role but the caption: rows in which they agree are of one picture.
        None for a row without a caption or a picture, which stands alone."""
        try:
            has_caption = bool(check_captions(self.get(row, "caption")))
        except BadData:
            return None
        if not has_caption or self.get(row, "image") is None:
            return None
        return [self.get(row, role) for role in self.roles() if role != "caption"]

    def needed(self) -> tuple[str, ...]:
        """The roles a row must have."""
        task = self.definition
        if self.own:
            roles = tuple(role for role in task.frames if not self._may_lack(role))
        else:
            roles = ("image",) if task.group == "t2i" else ("image", "source")
        if task.item:
            roles += ("item",)
        return (*roles, "caption") if self.require_caption or self._instructs else roles

    @property
    def _instructs(self) -> bool:
        return self.definition.instructs

    def _may_lack(self, role: str) -> bool:
        return role in self.annotated or get_role(role).derived

    def example(self, key: str, row: Mapping[str, Any], load: Callable[[Any], bytes]) -> RawExample:
        """The example of one row.

        Args:
          load: turns the value of an image field into the bytes of a picture file.

        Raises:
          BadData: with the reason.
        """
        for role in self.needed():
            value = self.get(row, role)
            if value is None or (isinstance(value, str | list | tuple) and not len(value)):
                raise BadData("missing_field", f"{role}: none of {self.names(role)} in the row")
        captions = check_captions(self.get(row, "caption"))
        if not captions and "caption" in self.needed():
            raise BadData("missing_field", "the caption is empty")
        parts: dict[str, Any] = {"extras": self._kept(row), "group": self._group(row)}
        target = self._picture(load, self.get(row, "image"), "image")
        parts |= self._loss(row, load, target.shape[:2])
        if self.own:
            return self._own_task(key, target, captions, row, load, parts)
        if self.definition.group == "t2i":
            return RawExample(key, self.task, (target,), (captions,), **parts)
        sources = self._sources(row)
        if self.definition.group == "i2i" and not self._instructs:
            return self._conditioned(key, target, captions, sources, row, load, parts)
        pictures = [self._picture(load, s, f"source {i}") for i, s in enumerate(sources)]
        texts = self._source_captions(row, len(pictures))
        if self.definition.item:
            parts["item"] = check_label(self.get(row, "item"))
        return RawExample(key, self.task, (target, *pictures), (captions, *texts), **parts)

    def _conditioned(self, key, target, captions, sources, row, load, parts) -> RawExample:
        """A picture and its condition, drawn from what the file stores."""
        role = self.definition.frames[1]
        image = self._condition(role, "source", sources[0], key, target, load, parts)
        self._add_regions(row, parts)
        return RawExample(key, self.task, (target, image), (captions, ()), **parts)

    def _own_task(self, key, target, captions, row, load, parts) -> RawExample:
        """A picture and the others of a task of one's own, each from the field of its role."""
        images = [target]
        for role in self.definition.frames[1:]:
            value = self.get(row, role)
            if value is None or value == "":
                images.append(None)  # it may be lacking: else `needed` had named it
            else:
                images.append(self._condition(role, role, value, key, target, load, parts))
        self._add_regions(row, parts)
        texts = (captions, *[()] * (len(images) - 1))
        return RawExample(key, self.task, tuple(images), texts, own=self.own, **parts)

    def _add_regions(self, row, parts) -> None:
        if self.definition.region_word and not parts.get("regions"):
            parts["regions"] = check_regions(self.get(row, "regions"))

    def _condition(self, role, what, value, key, target, load, parts):
        """The picture of a role; what else its file tells goes into `parts`."""
        try:
            condition = self.conditions.read(role, load(value), target.shape[:2], key)
        except BadData as error:
            raise BadData(error.reason, f"{what}: {error.detail}") from None
        if condition.regions:
            parts["regions"] = condition.regions
        if condition.depth_norm is not None:
            parts["depth_norm"] = condition.depth_norm
        parts["extras"] |= condition.extras
        return condition.image

    def _kept(self, row) -> dict[str, Any]:
        kept = {name: row[name] for name in self.keep if name in row}
        try:
            json.dumps(kept)
        except (TypeError, ValueError) as error:  # dates, bytes
            raise BadData("bad_metadata", f"keep={list(kept)}: {error}") from None
        return kept

    def _loss(self, row, load, shape: tuple[int, int]) -> dict[str, Any]:
        """What a row says of how it is trained on: RawExample's mask, repeats and is_reg."""
        parts: dict[str, Any] = {}
        if path := self.get(row, "mask_path"):
            mask = self._picture(load, path, "mask_path")
            if mask.shape[:2] != shape:
                raise BadData("size_mismatch", f"mask_path: {mask.shape[:2]}, the picture {shape}")
            mask = mask.max(-1)
            if 0 < mask.max() < _WHITE:
                raise BadData(
                    "bad_labels",
                    f"mask_path: its brightest value is {mask.max()} of 255, and white is what "
                    "counts; a mask of 0 and 1 must be saved times 255",
                )
            parts["mask"] = mask
        repeats = _number(self.get(row, "repeats"))
        if repeats is not None:
            if not isinstance(repeats, int) or not 1 <= repeats <= _MOST_REPEATS:
                raise BadData("bad_metadata", f"repeats={repeats!r} must be in 1..{_MOST_REPEATS}")
            parts["repeats"] = repeats
        is_reg = self.get(row, "is_reg")
        if is_reg is not None:
            said = {"true": True, "1": True, "false": False, "0": False, "": False}
            if str(is_reg).lower() not in said:
                raise BadData("bad_metadata", f"is_reg={is_reg!r} must be true or false")
            parts["is_reg"] = said[str(is_reg).lower()]
        return parts

    def _group(self, row) -> str | None:
        value = self.get(row, "group")
        if isinstance(value, int):
            return str(value)
        return None if value is None else check_text(value, "group") or None

    def _sources(self, row) -> list:
        value = self.get(row, "source")
        if value is None:
            return []
        sources = list(value) if isinstance(value, list | tuple) else [value]
        task = self.definition
        if not task.min_frames <= len(sources) + 1 <= task.max_frames:
            raise BadData(
                "bad_metadata",
                f"{len(sources)} sources, {self.task} takes "
                f"{task.min_frames - 1} to {task.max_frames - 1}",
            )
        return sources

    def _source_captions(self, row, num: int) -> list[tuple[str, ...]]:
        value = self.get(row, "source_caption")
        if value is None:
            return [()] * num
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list | tuple) or len(values) != num:
            raise BadData("bad_metadata", f"source captions must be a list of {num}")
        return [check_captions(text, "source caption") for text in values]

    def _picture(self, load, value, what: str):
        try:
            return self.images.decode(load(value))
        except BadData as error:
            raise BadData(error.reason, f"{what}: {error.detail}") from None


def _number(value: Any) -> Any:
    """The integer that a cell of a CSV holds; other values as they are, an empty cell as None."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        value = value.strip()
        return int(value) if value.isdecimal() else value or None
    return value


def _looks_like_picture(value: Any) -> bool:
    """Whether a field's value may be a picture: bytes, {"bytes", "path"}, or a picture's name."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_looks_like_picture, value))
    return isinstance(value, bytes | dict) or (
        isinstance(value, str) and (is_picture_name(value) or value.endswith(".npy"))
    )


def merge_captions(rows: Iterable[dict], reader: RecordReader) -> Iterator[tuple[dict, int]]:
    """Rows in which rows of one picture that follow on one another and differ in their captions
    alone are one, with all the captions; and of how many rows each is made."""
    held: tuple[dict, int, Any] | None = None
    try:
        for row in rows:
            same = reader.all_but_caption(row)
            if held is not None and same is not None and same == held[2]:
                held = _with_captions(held[0], row, reader), held[1] + 1, same
                journal.note_merged()
                continue
            if held is not None:
                yield held[:2]
            held = row, 1, same
    except Exception:  # of the file: what was read before is good
        if held is not None:
            yield held[:2]
        raise
    if held is not None:
        yield held[:2]


def _with_captions(row: dict, other: dict, reader: RecordReader) -> dict:
    field = next(name for name in reader.names("caption") if row.get(name) is not None)
    values = (reader.get(one, "caption") for one in (row, other))
    captions = dict.fromkeys(c for value in values for c in check_captions(value))
    return {**row, field: list(captions)}
