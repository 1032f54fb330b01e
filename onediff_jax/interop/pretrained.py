"""Released weights in and out: any folder of the released layout, or a hub id."""

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
from ml_collections import ConfigDict

from onediff_jax.experiment.checks import upgrade
from onediff_jax.files import FileError, file_hashes, read_object
from onediff_jax.interop.config import (
    PretrainedError,
    check_same,
    config_json,
    read_config,
    transformer_folder,
    write_config,
)
from onediff_jax.interop.model import PretrainedModel, param_shapes
from onediff_jax.interop.safetensors_io import STEM
from onediff_jax.interop.weights import read_weights, write_weights
from onediff_jax.models.loading import compute_dtype
from onediff_jax.models.nextdit import NextDiTConfig

RUN_FILE = "onediff_jax.json"  # in an exported folder: the run it came from
SHARD_BYTES = 10 * 10**9
_HASHED = ("*.safetensors", "*.json", "*.model")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load_pretrained(
    folder: str | Path,
    *,
    dtype=jnp.float32,
    attention_softcap: float | Literal["folder"] | None = "folder",
) -> PretrainedModel:
    """The network of a folder, on the default device.

    Args:
      folder: the root of a released pipeline, its transformer folder, or a hub id.
      dtype: of the parameters and the computation, "float32" or "bfloat16".
      attention_softcap: bound of the self-attention logits; None: no bound. "folder" is what its
        config.json says, and 30 where it says nothing, as that of the released weights.

    Raises PretrainedError (a ValueError) that names what does not fit.
    """
    dtype = compute_dtype(dtype)
    found = checked_transformer(folder)
    config, released = read_config(found)
    if attention_softcap != "folder":
        if attention_softcap is not None and not attention_softcap > 0:
            raise PretrainedError(f"{attention_softcap=} must be positive; None turns it off")
        config = dataclasses.replace(config, attention_softcap=attention_softcap)
        released = {**released, "attention_softcap": attention_softcap}
    params = read_weights(found, param_shapes(config, dtype))
    return PretrainedModel(config, params, dtype=dtype, released=released)


def save_pretrained(
    model: PretrainedModel,
    folder: str | Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and the weights of a model in the released layout, and nothing else.

    `onediff_jax.export` writes a whole pipeline.

    Args:
      model: from load_pretrained, or made of a config and parameters.
      folder: root of a pipeline: the files go to its folder `transformer`; or such a folder, which
        is one called so or one with a config.json. Weights found there are replaced at the end.
      dtype: of the file: "float32", "bfloat16" or "float16".
      max_shard_bytes: of tensors per file.

    Raises ValueError for an unknown dtype, or a number that the dtype cannot hold.
    """
    folder = Path(folder)
    if folder.name != "transformer" and not (folder / "config.json").is_file():
        folder = folder / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as beside:
        write_transformer(
            Path(beside),
            model.config,
            model.params,
            lambda path: _at(model.params, path),
            released=model.released,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
        )
        for old in folder.glob(f"{STEM}*.safetensors*"):
            old.unlink()
        for new in Path(beside).iterdir():
            shutil.move(new, folder / new.name)


def write_transformer(
    folder: Path,
    config: NextDiTConfig,
    shapes: Mapping[str, Any],
    leaf,
    *,
    released: dict[str, Any] | None = None,
    dtype: str,
    max_shard_bytes: int,
) -> None:
    """Writes config.json and weights into an existing folder; arguments as in `write_weights`."""
    write_weights(folder, shapes, leaf, dtype=dtype, max_shard_bytes=max_shard_bytes)
    write_config(folder, config_json(config, released))


def load_params(
    folder: str | Path,
    config: NextDiTConfig,
    shapes: Mapping[str, Any],
    shardings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters of a folder (or hub id) for a run, straight in the run's sharding.

    Args:
      folder: as in `load_pretrained`.
      config: the run's network.
      shapes: nested dict of jax.ShapeDtypeStruct, the run's parameters.
      shardings: the same tree of shardings, or None for the default device.

    Raises PretrainedError that names the fields of `config` in which the folder differs, or its
    tensors that do not fit.
    """
    found = checked_transformer(folder)
    check_same(config, read_config(found)[0], folder)
    return read_weights(found, shapes, shardings)


def load_export(folder: str | Path) -> tuple[ConfigDict, dict[str, Any]]:
    """The run's config and float32 parameters of a folder that `onediff_jax.export` wrote.

    Raises PretrainedError when the folder was not written by it, or does not fit.
    """
    config = export_config(folder)
    check_hashes(Path(folder))
    found = transformer_folder(folder)
    network, _ = read_config(found)
    return config, read_weights(found, param_shapes(network))


def export_config(folder: str | Path) -> ConfigDict:
    """The run's config of a folder that `onediff_jax.export` wrote, with the folder's encoders.

    Raises PretrainedError when it was not written by it.
    """
    file = Path(folder) / RUN_FILE
    try:
        fields = read_object(file, "config")["config"]
    except FileError as error:
        raise PretrainedError(
            f"{folder} holds no readable {RUN_FILE}: it was not written by onediff_jax.export, or "
            f"is damaged ({error})"
        ) from error
    config = ConfigDict(upgrade(fields, file))
    # The encoders that came along, wherever those of the run are now.
    if config.data.name == "prepared" and config.data.encoder != "light":
        config.data.encoder = str(folder)
    if config.text.kind != "hashed":
        config.text.folder = str(folder)
    return config


def checked_transformer(folder: str | Path) -> Path:
    """The transformer folder of a pipeline or hub id, compared with the hashes of its export.

    Raises PretrainedError as `find_folder` and `check_hashes` do.
    """
    found = transformer_folder(find_folder(folder))
    check_hashes(found.parent, within=found.name)
    return found


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights and settings in a pipeline's folder, by their relative paths."""
    files = {file for pattern in _HASHED for file in folder.rglob(pattern)}
    return file_hashes(folder, (str(f.relative_to(folder)) for f in files if f.name != RUN_FILE))


def check_hashes(folder: Path, *, within: str = "") -> None:
    """Compares files with what the export wrote down; folders without hashes pass.

    Args:
      folder: the root of a pipeline.
      within: only the files of this part, such as "transformer"; "": all.

    Raises PretrainedError that names the files that differ or are missing.
    """
    if not (folder / RUN_FILE).exists():
        return  # of another program
    try:
        wanted = read_object(folder / RUN_FILE).get("files", {})
    except FileError as error:
        raise PretrainedError(f"{error}; export again") from error
    wanted = {name: value for name, value in wanted.items() if name.startswith(within)}
    there = [name for name in wanted if (folder / name).is_file()]
    made = file_hashes(folder, there)
    wrong = sorted(name for name in wanted if made.get(name) != wanted[name])
    if wrong:
        raise PretrainedError(
            f"{folder}: {', '.join(wrong[:5])} are not what the export wrote: damaged, or changed "
            f"since. Export again; where the change is meant, take files out of {RUN_FILE}"
        )


def find_folder(name: str | Path) -> Path:
    """A folder on this machine: the one named, or the download of a hub id.

    Raises PretrainedError when there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name):
        raise PretrainedError(f"{name} is no folder, nor a hub id such as 'owner/model'")
    from huggingface_hub import snapshot_download

    patterns = ["transformer/*.json", "transformer/*.safetensors", "*.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client and what it stands on raise many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise PretrainedError(
            f"{name!r} is no folder here, and fetching it from the Hugging Face hub failed "
            f"({type(error).__name__}: {reason}). Without a connection, fetch it elsewhere with "
            f"`hf download {name}` and name the folder."
        ) from error


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
