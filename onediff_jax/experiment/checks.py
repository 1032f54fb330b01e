"""Configs against the schema: bad ones are refused by name, those of older runs are upgraded."""

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from onediff_jax.experiment.field import REQUIRED, Field, Range
from onediff_jax.experiment.fields_training import OPEN_ENDED
from onediff_jax.experiment.schema import (
    BY_PATH,
    FIELDS,
    OPTIONAL_SECTIONS,
    SECTIONS,
    field_of,
    section_fields,
)
from onediff_jax.tasks.own import own_tasks

_TYPES = {"int": int, "float": (int, float), "bool": bool, "str": str}
_TUPLES = {"names": (str, "names"), "steps": (int, "steps")}
# Tuples of tuples: the types in each, and how a message names them.
_ENTRIES = {
    "slots": ((str, int, int, int), "(group, count, frames, tokens)"),
    "folders": ((str, (int, float)), "a folder or (folder, weight)"),
}
_CONFIGS = (
    "Configs that train on prepared folders are configs/finetune_folder.py:FOLDER (a small network "
    "from scratch), configs/finetune_pretrained.py:lora:FOLDER and configs/paper.py; on the "
    "embedded world configs/t2i_multitask.py"
)


class SettingsError(ValueError):
    """A config that cannot be used; the message names the field, its value and the choices."""


def check_config(config: ConfigDict) -> None:
    """Raises SettingsError for a field that is unknown, missing, mistyped or out of its range."""
    values = config.to_dict()
    if unknown := unknown_field(values):
        raise SettingsError(unknown)
    for field in FIELDS:
        section = _section(values, field.section)
        if section is None and field.section not in OPTIONAL_SECTIONS:
            title = SECTIONS.get(field.section, "").lower()
            raise SettingsError(f"section {field.section} is missing: {title}")
        if section is None or (field.only and field.only != values["data"].get("name")):
            continue
        if field.name not in section:
            optional = field.section in OPTIONAL_SECTIONS or field.only == "prepared"
            if optional and field.lacking is not REQUIRED:
                continue
            raise SettingsError(_missing(field))
        check_value(field, section[field.name])
    # Fields that say what the other kind of data is; those about reading it may be left over.
    name = values["data"]["name"]
    for field in FIELDS:
        other = field.only and field.only != name and field.lacking is REQUIRED
        if other and field.name in _section(values, field.section):
            raise other_data(field)


def other_data(field: Field) -> SettingsError:
    """What to say of a field that configs of the other data.name have."""
    return SettingsError(f"{field.path} is a field of {field.only} data. {_CONFIGS}")


def check_section(section: str, config: Mapping[str, Any]) -> None:
    """The same for a section alone, of those fields that it has."""
    for name, field in section_fields(section).items():
        if name in config:
            check_value(field, config[name])


def complete(section: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a section, with those that it lacks as runs that lack them mean them."""
    fields = section_fields(section).values()
    lacking = {f.name: f.lacking for f in fields if f.lacking is not REQUIRED}
    return {**lacking, **config}


def unknown_field(config: Mapping[str, Any]) -> str | None:
    """What to say about the first field that the schema does not have, with the nearest names."""
    for path in _paths(config):
        if path in SECTIONS:
            return f"{path}={config[path]!r} must be a section"
        if field_of(path) is None:
            return f"unknown field {path}{_nearest(path)}"
    return None


def may_grow(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a run may go on to a later last step unasked: where no learning rate depends on it,
    and with wsd, which is made for it: its peak is held again, and it falls once more at the end.
    """
    schedules = {config.get("optim", {}).get("schedule") for config in (old, new)}
    allowed = len(schedules) == 1 and schedules <= set(OPEN_ENDED)
    return allowed and new["train"]["steps"] >= old["train"]["steps"]


def upgrade(stored: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """The config of an older run as one of today: what it lacks has the value that it meant then.

    Args:
      stored: the config as JSON has it: lists for tuples.
      where: the file it is from, for messages.

    Raises SettingsError for fields that no longer exist.
    """
    config: dict[str, Any] = _tuples(stored)
    if unknown := [path for path in _paths(config) if field_of(path) is None]:
        raise SettingsError(
            f"{where}: this version does not know {', '.join(unknown)}{_nearest(unknown[0])}. "
            "Another version wrote it: use that one (versions.json beside it, or the export's "
            "onediff_jax.json, says which), or take the field out of the file"
        )
    name = config.get("data", {}).get("name")
    for field in FIELDS:
        section = _section(config, field.section)
        if section is None or field.lacking is REQUIRED or (field.only and field.only != name):
            continue
        section.setdefault(field.name, field.lacking)
    return config


def upgrade_stream(stream: Mapping[str, Any]) -> dict[str, Any]:
    """The stream fields of an older checkpoint as those of today (Experiment.stream_fields)."""
    stream = {k: dict(v) if isinstance(v, Mapping) else v for k, v in stream.items()}
    name = stream.get("data", {}).get("name")
    for field in FIELDS:
        if not field.stream or field.lacking is REQUIRED or (field.only and field.only != name):
            continue
        part = field.section if field.section in ("data", "text") else "draws"
        stream.setdefault(part, {}).setdefault(field.name, field.lacking)
    return stream


def check_value(field: Field, value: Any) -> None:
    """Raises SettingsError for a value that is not of the field's type, or not allowed."""
    if value is None and field.none:
        return
    if field.kind in _TYPES:
        _check_type(field, value)
        _check_allowed(field, field.path, value)
        return
    if field.kind == "tasks":
        own_tasks(value or {}, field.path)
        return
    if field.kind == "weights":
        if not isinstance(value, Mapping):
            raise SettingsError(f"{field.path}={value!r} must be a section of weights")
        for name, weight in value.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise SettingsError(f"{field.path}.{name}={weight!r} must be a number")
            _check_allowed(field, f"{field.path}.{name}", weight)
        return
    if not isinstance(value, tuple | list):
        raise SettingsError(f"{field.path}={value!r} must be a tuple")
    if field.kind in _TUPLES:
        _check_tuple(field, value)
    else:
        for entry in value:
            check_entry(field, entry)


def check_entry(field: Field, entry: Any) -> None:
    """Raises SettingsError for an entry of config.rows or data.folders of another form."""
    types, form = _ENTRIES[field.kind]
    if field.kind == "folders" and isinstance(entry, str):
        return
    fits = isinstance(entry, tuple | list) and len(entry) == len(types)
    if not fits or any(
        isinstance(v, bool) or not isinstance(v, t) for v, t in zip(entry, types, strict=True)
    ):
        raise SettingsError(f"{field.path} entry {entry!r} must be {form}")


def _check_type(field: Field, value: Any) -> None:
    right = isinstance(value, _TYPES[field.kind])
    if not right or (isinstance(value, bool) and field.kind != "bool"):
        article = "an" if field.kind == "int" else "a"
        optional = ", or None" if field.none else ""
        raise SettingsError(f"{field.path}={value!r} must be {article} {field.kind}{optional}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{field.path}={value} must be finite")


def _check_allowed(field: Field, path: str, value: Any) -> None:
    optional = ", or None" if field.none else ""
    if isinstance(field.allowed, Range):
        if not field.allowed.holds(value):
            raise SettingsError(f"{path}={value} must be {field.allowed.says}{optional}")
    elif field.allowed is not None and value not in field.allowed:
        raise SettingsError(f"{path}={value!r} must be one of {field.allowed}")


def _check_tuple(field: Field, value: Any) -> None:
    kind, plural = _TUPLES[field.kind]
    if any(isinstance(v, bool) or not isinstance(v, kind) for v in value):
        raise SettingsError(f"{field.path}={value!r} must be a tuple of {plural}")
    if isinstance(field.allowed, tuple):
        if not value:
            raise SettingsError(f"{field.path} is empty; choose from {list(field.allowed)}")
        if unknown := [v for v in value if v not in field.allowed]:
            raise SettingsError(
                f"{field.path}={value!r}: unknown {unknown[0]!r}; choose from {list(field.allowed)}"
            )
    elif isinstance(field.allowed, Range):
        for v in value:
            _check_allowed(field, field.path, v)


def _missing(field: Field) -> str:
    if field.only:
        return f"{field.path} is missing: data.name={field.only!r} needs it. {_CONFIGS}"
    return f"{field.path} is missing: {field.says[0].lower()}{field.says[1:]}"


def _nearest(path: str) -> str:
    """What else might have been meant: names of its section, or the same name in another."""
    section, _, name = path.rpartition(".")
    if section not in SECTIONS and section not in BY_PATH:
        near = difflib.get_close_matches(section, list(SECTIONS), 1)
        return f": config has the sections {', '.join(filter(None, SECTIONS))}" + (
            f"; did you mean {near[0]}.{name}?" if near and near[0] else ""
        )
    near = [f.path for f in FIELDS if f.name == name and f.path != path]
    ours = {f.name: f.path for f in section_fields(section).values()}
    near += [ours[n] for n in difflib.get_close_matches(name, list(ours), 2)]
    near += [n for n in difflib.get_close_matches(path, list(BY_PATH), 2) if n not in near]
    if near:
        return f"; did you mean {' or '.join(near[:3])}?"
    return f"; {section or 'config'} has {sorted(ours)}"


def _paths(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every field; an empty section and None for one are none."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")
        elif not (value is None and name in OPTIONAL_SECTIONS and not prefix):
            yield f"{prefix}{name}"


def _section(config: Mapping[str, Any], name: str) -> Any:
    """A section of a config; None where it is missing."""
    section = config.get(name) if name else config
    if section is not None and not isinstance(section, Mapping):
        raise SettingsError(f"{name}={section!r} must be a section")
    return section


def _tuples(value: Any) -> Any:
    """A copy with tuples where JSON has lists."""
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
