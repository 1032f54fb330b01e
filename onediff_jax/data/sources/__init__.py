"""People's own data: readers that yield training examples and name what is bad.

source = open_source("folder", "photos")
for record in source.read(source.shards()[0]):
    …    # a RawExample or a BadRecord
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from onediff_jax.data.sources import files, table
from onediff_jax.data.sources.base import REASONS, BadData, BadRecord, RawExample, Source
from onediff_jax.data.sources.coco import CocoSource
from onediff_jax.data.sources.condition_files import ConditionReader
from onediff_jax.data.sources.folder import FolderSource
from onediff_jax.data.sources.identity import IdentitySource
from onediff_jax.data.sources.images import ImageReader
from onediff_jax.data.sources.labels import ClassList
from onediff_jax.data.sources.pairs import PairSource
from onediff_jax.data.sources.parquet import ParquetSource
from onediff_jax.data.sources.records import RecordReader
from onediff_jax.data.sources.report import Report, TooManyBadRecords, good_only
from onediff_jax.data.sources.table import TableSource
from onediff_jax.data.sources.tfds import TfdsSource
from onediff_jax.data.sources.transforms import TransformsSource
from onediff_jax.data.sources.webdataset import WebDatasetSource
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet

__all__ = [
    "FORMATS",
    "REASONS",
    "BadData",
    "BadRecord",
    "RawExample",
    "Report",
    "Source",
    "TooManyBadRecords",
    "good_only",
    "open_source",
]


@dataclasses.dataclass(frozen=True)
class Format:
    """A way that data lie on disk.

    Attributes:
      source: the class that reads it.
      task: its task where none is given; None: it must be given.
      tables: a table (see table.py) may stand for it, as the path or at the top of the folder.
      defaults: options that the class needs.
    """

    source: Callable[..., Source]  # a class
    task: str | None = "text2image"
    tables: bool = False
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)


_EDITING = {
    "image_folder": "target",
    "source_folder": "source",
    "caption_folder": "instructions",
}
_SUBJECT = {
    "image_folder": "target",
    "source_folder": "source",
    "caption_folder": "captions",
    "item_folder": "items",
}
FORMATS: dict[str, Format] = {
    "folder": Format(FolderSource, tables=True),
    "table": Format(TableSource),
    "webdataset": Format(WebDatasetSource),
    "parquet": Format(ParquetSource),
    "tfds": Format(TfdsSource),
    "transforms": Format(TransformsSource, task="multiview"),
    "identity": Format(IdentitySource, task="faceid"),
    "subject": Format(PairSource, "subject_driven", tables=True, defaults=_SUBJECT),
    "editing": Format(PairSource, "image_editing", tables=True, defaults=_EDITING),
    "paired": Format(PairSource, task=None, tables=True),
    "coco": Format(CocoSource, task=None),
}


def open_source(
    format: str,
    path: str,
    *,
    tasks: TaskSet = BUILT_IN,
    annotated: tuple[str, ...] = (),
    **options,
) -> Source:
    """The reader of a data set.

    Args:
      format: one of FORMATS.
      path: a folder, file or pattern, as the format's module says; local, or any that fsspec knows
        (gs://…).
      tasks: the built-in tasks, and those of one's own.
      annotated: roles that models will find in the pictures.
      options: allow_outside (rows and annotations may name files anywhere, and URLs; otherwise
        only below the folder that they are relative to); those of the format's class, of
        RecordReader (task, image, caption, require_caption, …), of ConditionReader (depth_scale, …;
        `classes` is a file name, a list or a dict) and of ImageReader (max_pixels, min_side,
        decode_side).

    Raises:
      ValueError: an unknown format or option (lists the choices), or a path that holds nothing the
        format can read.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown {format=}; choose from {list(FORMATS)}")
    chosen = FORMATS[format]
    source, defaults = chosen.source, chosen.defaults
    if chosen.tables:
        found = _find_tables(path)
        if found is not None:
            source, path, defaults = TableSource, *found
    own = [name for name in inspect.signature(source).parameters if name not in _GIVEN]
    readers = _reader_options(source)
    _check_names(
        format,
        options,
        ["allow_outside", *own, *(name for names in readers.values() for name in names)],
    )
    values = {"allow_outside": False, **options}
    if source is not TransformsSource and values.setdefault("task", chosen.task) is None:
        raise ValueError(f"format {format!r} needs task")
    classes = values.get("classes")
    if classes is not None and not isinstance(classes, ClassList):
        values["classes"] = _class_list(classes)
    images = ImageReader(**_take(values, readers[ImageReader]))
    arguments = defaults | _take(values, own)
    if "allow_outside" in inspect.signature(source).parameters:
        arguments["allow_outside"] = values["allow_outside"]
    if source is TransformsSource:
        return source(path, images, **arguments)
    conditions = ConditionReader(images=images, **_take(values, readers[ConditionReader]))
    record = _take(values, readers[RecordReader])
    reader = RecordReader(
        images=images, conditions=conditions, tasks=tasks, annotated=annotated, **record
    )
    return source(path, reader, **arguments)


def _class_list(classes: Any) -> ClassList:
    if isinstance(classes, str):
        return ClassList.load(classes)
    try:
        return ClassList.build(classes)
    except (BadData, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"classes={classes!r}: {error}") from None


_GIVEN = (
    *("path", "reader", "images", "conditions", "names", "whole_folder", "allow_outside"),
    *("tasks", "annotated"),
)


def _find_tables(path: str) -> tuple[str, dict[str, Any]] | None:
    """The path and arguments of the tables that a path stands for.

    It is one itself, or has one at its top, or, as Hugging Face's image folders do, tables called
    metadata beside the pictures of its sub-folders (train/metadata.jsonl). None without any.
    """
    if path.lower().endswith(table.SUFFIXES):
        return path, {}
    if not files.is_folder(path):
        return None
    name = files.find_table(path, table.SUFFIXES)
    if name is not None:
        return files.join(path, name), {"whole_folder": path}
    metadata = tuple(f"metadata{suffix}" for suffix in table.SUFFIXES)
    names = [n for n in files.list_tree(path) if n.rpartition("/")[2].lower() in metadata]
    return (path, {"names": names}) if names else None


def _reader_options(source: Callable[..., Source]) -> dict[type, list[str]]:
    """Reader class -> the options that belong to it, for a source."""
    kinds = (
        [ImageReader]
        if source is TransformsSource
        else [ImageReader, ConditionReader, RecordReader]
    )
    return {
        kind: [f.name for f in dataclasses.fields(kind) if f.name not in _GIVEN] for kind in kinds
    }


def _check_names(format: str, options: dict, allowed: list[str]) -> None:
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} of {format!r}; choose from {allowed}")


def _take(values: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
