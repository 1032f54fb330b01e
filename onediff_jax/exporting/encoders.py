"""The autoencoder and text encoder of an export: checked before any long work, then copied."""

import json
import shutil
from pathlib import Path

from onediff_jax.data.codec import LightCodec
from onediff_jax.experiment.build import Experiment
from onediff_jax.experiment.encoders import part_of
from onediff_jax.exporting.place import ExportError
from onediff_jax.files import read_object
from onediff_jax.interop import torch_files
from onediff_jax.models.autoencoder import AutoencoderConfig
from onediff_jax.models.loading import read_config, read_tensors, weight_files
from onediff_jax.models.t5 import T5Config

_SETTINGS = ("*.json", "*.model", "*.txt")
# The weights of a component, as diffusers and transformers name them.
_STEMS = {"vae": torch_files.WEIGHTS.removesuffix(".safetensors"), "text_encoder": "model"}
_TOKENIZERS = ("tokenizer.json", "spiece.model")


def check_encoders(experiment: Experiment, text_folder: str | None) -> None:
    """Raises ExportError where a pipeline could not load the encoders that the run names."""
    config = experiment.config
    if not isinstance(experiment.codec, LightCodec):
        check_vae(part_of(config.data.encoder, "vae"), config.model.in_channels)
    if config.text.kind != "hashed":
        folder = text_folder or config.text.folder
        if not folder:
            raise ExportError(
                "the run trained on cached captions: name the folder of their T5 encoder and "
                "tokenizer by --text_encoder"
            )
        check_text(folder, config.model.caption_channels)


def check_vae(folder: Path, channels: int) -> None:
    """Raises ExportError unless a folder holds an autoencoder of these latents."""
    try:
        found = AutoencoderConfig.from_json(read_config(folder)).latent_channels
        read_tensors(folder, _STEMS["vae"])
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ExportError(f"the autoencoder cannot be exported: {error}") from error
    if found != channels:
        raise ExportError(f"the autoencoder {folder} has {found} channels, the network {channels}")


def check_text(folder: str | Path, width: int) -> None:
    """Raises ExportError unless a folder holds a whole T5 of this width and a tokenizer."""
    encoder, tokenizer = part_of(folder, "text_encoder"), part_of(folder, "tokenizer")
    try:
        config = T5Config.from_json(read_config(encoder))
        names = read_tensors(encoder, _STEMS["text_encoder"])
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ExportError(f"the text encoder cannot be exported: {error}") from error
    if config.d_model != width:
        raise ExportError(
            f"the text encoder {encoder} makes captions of width {config.d_model}, and the network"
            f" reads model.caption_channels={width}"
        )
    layers = {name.split(".")[2] for name in names if name.startswith("encoder.block.")}
    if len(layers) != config.num_layers:
        raise ExportError(
            f"the text encoder {encoder} has {len(layers)} of {config.num_layers} layers: the rest"
            " is missing"
        )
    if not any((tokenizer / name).is_file() for name in _TOKENIZERS):
        raise ExportError(f"{tokenizer} holds none of {_TOKENIZERS}: it is no tokenizer's folder")


def write_encoders(folder: Path, experiment: Experiment, text_folder: str | None):
    """Writes vae, text_encoder and tokenizer as the run has them; their kinds for copy_into."""
    config = experiment.config
    vae, text = "light", "hashed"
    if isinstance(experiment.codec, LightCodec):
        torch_files.write_light_codec(folder)
    else:
        vae = "autoencoder_kl"
        copy_part(part_of(config.data.encoder, "vae"), folder / "vae")
    if config.text.kind == "hashed":
        dim, length = config.model.caption_channels, config.text.max_length
        torch_files.write_hashed_text(folder, dim=dim, max_length=length)
    else:
        text = "t5"
        for part in ("text_encoder", "tokenizer"):
            copy_part(part_of(text_folder or config.text.folder, part), folder / part)
    return vae, text


def copy_part(source: Path, target: Path) -> None:
    """Copies the settings and the weights of one component; those of a variant get the plain names,
    by which a pipeline is loaded unless it is told otherwise."""
    indices = set(source.glob("*.safetensors.index*.json"))
    settings = {file for pattern in _SETTINGS for file in source.glob(pattern)} - indices
    if not settings:
        raise ExportError(f"{source} holds none of {_SETTINGS}: it is no {target.name}")
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(settings):
        shutil.copyfile(file, target / file.name)
    # Hashed words are saved by diffusers, a T5 by transformers; a tokenizer has no weights.
    for stem in dict.fromkeys(_STEMS.values()):
        if any(source.glob(f"{stem}.*")) and any(source.glob("*.safetensors")):
            _copy_weights(source, target, stem)


def _copy_weights(source: Path, target: Path, stem: str) -> None:
    files, index = weight_files(source, stem)
    plain = target / f"{stem}.safetensors"
    if index is None:
        shutil.copyfile(files[0], plain)
        return
    name_of = {
        file.name: f"{stem}-{n:05d}-of-{len(files):05d}.safetensors"
        for n, file in enumerate(files, 1)
    }
    for file in files:
        shutil.copyfile(file, target / name_of[file.name])
    shards = read_object(index, "weight_map")
    shards["weight_map"] = {name: name_of[file] for name, file in shards["weight_map"].items()}
    text = json.dumps(shards, indent=2, sort_keys=True) + "\n"
    Path(f"{plain}.index.json").write_text(text, encoding="utf-8")
