"""transformer/config.json: reading, checking, comparing and writing it."""

import dataclasses
import json
import numbers
from pathlib import Path
from typing import Any

from onediff_jax.models.loading import read_config as read_json
from onediff_jax.models.nextdit import NextDiTConfig

CLASS_NAME = "NextDiT"
RELEASED_SOFTCAP = 30.0  # what the released weights were trained with; their config.json is silent

# What does not change the network: kept as found, and written with these values when new.
RECORDS = {
    "input_size": [1, 96, 96],
    "model_max_length": 512,
    "rotary_max_length": 128,
    "rotary_max_length_t": None,
}
# What the network is always like.
_FIXED = {"norm_type": "rms", "pred_sigma": False, "qk_norm": True, "patch_size": [1, 2, 2]}
# What diffusers and its EMA write beside the network's own fields; kept as found.
_NOTES = ("_diffusers_version", "_name_or_path", "auto_map", "param_dtype", "forward_dtype")
_NOTES += ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step")
_NOTES += ("use_ema_warmup",)
_SHAPE = tuple(
    field.name
    for field in dataclasses.fields(NextDiTConfig)
    if field.name not in ("patch_size", "attention_softcap")
)


class PretrainedError(ValueError):
    """A folder of weights that cannot be used, or written, with the reason."""


def transformer_folder(folder: str | Path) -> Path:
    """The folder itself, or its `transformer` where it is the root of a pipeline.

    Raises PretrainedError when neither holds a config.json.
    """
    folder = Path(folder)
    for found in (folder / "transformer", folder):
        if (found / "config.json").is_file():
            return found
    raise PretrainedError(f"{folder} holds neither transformer/config.json nor config.json")


def read_config(folder: Path) -> tuple[NextDiTConfig, dict[str, Any]]:
    """The network's shape, and all fields as found, of the config.json of a transformer folder.

    A folder that says nothing of `attention_softcap` has 30, as the released weights do.

    Raises PretrainedError that lists every field that is missing, unknown or unsupported.
    """
    where = folder / "config.json"
    try:
        found = read_json(folder)
    except ValueError as error:
        raise PretrainedError(f"{where} cannot be read: {error}") from error
    if found.get("_class_name") != CLASS_NAME:
        raise PretrainedError(
            f"{where}: _class_name is {found.get('_class_name')!r}, not {CLASS_NAME!r}"
        )
    known = {"_class_name", "attention_softcap", *_SHAPE, *_FIXED, *RECORDS, *_NOTES}
    problems = [f"unknown field {name}={found[name]!r}" for name in sorted(found.keys() - known)]
    problems += [f"missing field {name}" for name in _SHAPE if name not in found]
    problems += [
        f"{name}={found[name]!r}: only {only!r} is supported"
        for name, only in _FIXED.items()
        if found.get(name, only) != only
    ]
    problems += _wrong_types(found)
    if not problems:
        try:
            return _network(found), found
        except ValueError as error:
            problems = [str(error)]
    raise PretrainedError(f"{where} does not describe a known network:\n  " + "\n  ".join(problems))


def _wrong_types(found: dict[str, Any]) -> list[str]:
    optional = ("num_kv_heads", "ffn_dim_multiplier", "attention_softcap")
    real = ("norm_eps", "ffn_dim_multiplier", "attention_softcap")
    problems = []
    for name in (*_SHAPE, "attention_softcap"):
        value = found.get(name)
        if name not in found or (value is None and name in optional):
            continue
        kind = numbers.Real if name in real else numbers.Integral
        if isinstance(value, bool) or not isinstance(value, kind) or value <= 0:
            problems.append(f"{name}={value!r} must be a positive number")
    return problems


def _network(found: dict[str, Any]) -> NextDiTConfig:
    shape = {name: found[name] for name in _SHAPE}
    shape["num_kv_heads"] = shape["num_kv_heads"] or shape["num_heads"]
    softcap = found.get("attention_softcap", RELEASED_SOFTCAP)
    patch = found.get("patch_size", _FIXED["patch_size"])[-1]
    return NextDiTConfig(**shape, patch_size=patch, attention_softcap=softcap)


def config_json(config: NextDiTConfig, found: dict[str, Any] | None = None) -> dict[str, Any]:
    """The fields of config.json, in order of name.

    Args:
      config: the network.
      found: fields of the config.json it came from: records and notes are kept.
    """
    found = found or {}
    fields = {"_class_name": CLASS_NAME, **_FIXED, **RECORDS, **found}
    fields |= {name: getattr(config, name) for name in _SHAPE}
    fields["patch_size"] = [1, config.patch_size, config.patch_size]
    if "attention_softcap" in found or config.attention_softcap != RELEASED_SOFTCAP:
        fields["attention_softcap"] = config.attention_softcap
    return dict(sorted(fields.items()))


def write_config(folder: Path, fields: dict[str, Any]) -> None:
    """Writes config.json."""
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def check_same(ours: NextDiTConfig, theirs: NextDiTConfig, where: str | Path) -> None:
    """Raises PretrainedError naming the fields in which a run's network differs from a folder's."""
    differ = [
        f"model.{field.name}={getattr(ours, field.name)!r} in this config, "
        f"{getattr(theirs, field.name)!r} in the folder"
        for field in dataclasses.fields(NextDiTConfig)
        if getattr(ours, field.name) != getattr(theirs, field.name)
    ]
    if differ:
        raise PretrainedError(f"{where} holds another network:\n  " + "\n  ".join(differ))
