"""What a config says about its inputs: pictures, their codec, prompts and their encoder."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from onediff_jax.data.buckets import bucket_size
from onediff_jax.data.codec import LightCodec, PictureCodec
from onediff_jax.data.layout import RowLayout
from onediff_jax.data.prepared.dataset import (
    CachedText,
    PreparedData,
    open_folders,
    sizes_of,
)
from onediff_jax.data.prepared.depth import depth_of
from onediff_jax.data.text_hash import HashedTextEncoder, TextEncoder
from onediff_jax.data.world_bundles import DEPTH_RANGE
from onediff_jax.experiment.checks import complete
from onediff_jax.tasks.definitions import TaskSet
from onediff_jax.tasks.depth import Normalisation

if TYPE_CHECKING:
    from onediff_jax.experiment.encoders import OnlineText


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The input side of an experiment.

    Attributes:
      codec: pictures to latents and back: LightCodec or encoders.AutoencoderCodec.
      prepared: the folders of data.folders; None for the embedded world.
      sizes: task group → picture sizes (height, width) in pixels.
      depth: what grey means in depth maps, in world units or metres; None where that differs.
      text_encoder: prompts → embeddings (b, l, d) and mask (b, l).
      row_text: the same for rows; with online_text token ids (b, l) in place of embeddings.
      online_text: encoders.OnlineText, which embeds the ids of rows on the devices, or None.
    """

    codec: PictureCodec
    prepared: PreparedData | None
    sizes: dict[str, tuple[tuple[int, int], ...]]
    depth: Normalisation | None
    text_encoder: TextEncoder
    row_text: TextEncoder
    online_text: "OnlineText | None"


def make_inputs(
    config: ConfigDict, layout: RowLayout, tasks: TaskSet, *, with_data: bool = True
) -> Inputs:
    """Checks config.data and config.text against each other, the rows, and what the folders hold.

    Raises ValueError that names the field, its value and the choices.
    """
    data = config.data
    if data.name == "world":
        codec, prepared, sizes = LightCodec(), None, _sizes(layout, data.aspects)
        depth = Normalisation(DEPTH_RANGE["near"], DEPTH_RANGE["far"])
    elif with_data:
        codec, prepared = _make_prepared(config, layout, tasks)
        sizes, depth = prepared.sizes(), depth_of(prepared.folders)
    else:
        codec, prepared = _make_codec(data.encoder), None
        sizes, depth = _trained_pictures(config, layout)
    if config.text.kind == "t5":
        online = _make_online(config)
        return Inputs(codec, prepared, sizes, depth, online, online.ids, online)
    text = _make_text(config, prepared)
    return Inputs(codec, prepared, sizes, depth, text, text, None)


def _trained_pictures(
    config: ConfigDict, layout: RowLayout
) -> tuple[dict[str, tuple[tuple[int, int], ...]], Normalisation | None]:
    """Sizes and depth of a model that is only sampled: as in its folders, where they still are."""
    try:
        folders = open_folders(config.data.folders)
    except (ValueError, OSError):  # gone, or another's: the shapes that are prepared by default
        return _sizes(layout, ("1:1", "4:3", "3:4")), None
    return sizes_of(folders), depth_of(folders)


def _sizes(layout: RowLayout, aspects: tuple[str, ...]) -> dict[str, tuple[tuple[int, int], ...]]:
    sizes = {}
    for slot in layout.slots:
        found = tuple(bucket_size(a, slot.tokens) for a in aspects)
        sizes[slot.group] = tuple(dict.fromkeys(found))
    return sizes


def _make_codec(encoder: str) -> PictureCodec:
    """The codec of config.data.encoder: "light", or an autoencoder's folder."""
    if encoder == "light":
        return LightCodec()
    from onediff_jax.experiment.encoders import AutoencoderCodec

    return AutoencoderCodec(encoder)


def _make_prepared(
    config: ConfigDict, layout: RowLayout, tasks: TaskSet
) -> tuple[PictureCodec, PreparedData]:
    data = config.data
    fields = complete("data", data.to_dict())
    folders = open_folders(data.folders, fields["bucket_cache_gib"])
    first = folders[0][0]
    online = fields["encode"] == "online"
    if online and (first.pictures["kind"] != "pixels" or data.encoder == "light"):
        raise ValueError(
            f"data.encode='online' with data.encoder={data.encoder!r}, and {first.path} holds "
            f"{first.pictures['kind']}: it needs an autoencoder's folder, and folders of pixels, "
            "which prepare --encoder=light writes"
        )
    if not online and (first.pictures["kind"] == "pixels") != (data.encoder == "light"):
        raise ValueError(
            f"data.encoder={data.encoder!r}, but {first.path} holds {first.pictures['kind']}: it "
            "must be 'light' for pixels, and the autoencoder's folder for its latents; "
            "data.encode='online' makes them of pixels during training"
        )
    codec = _make_codec(data.encoder)
    if not online and data.encoder != "light" and codec.identity != first.pictures["sha256"]:
        raise ValueError(
            f"data.encoder={data.encoder!r} is another autoencoder than that of {first.path}: "
            f"SHA-256 {codec.identity} and {first.pictures['sha256']}"
        )
    cached = config.text.kind == "cached"
    if cached and first.text is None:
        raise ValueError(
            f"text.kind='cached', but {first.path} holds captions alone: prepare --text=FOLDER"
        )
    prepared = PreparedData(
        *(folders, layout, data.evaluate_on, codec, cached, tasks),
        prior_weight=fields["prior_weight"],
        flip_share=fields["flip_share"],
        random_crop=fields["random_crop"],
        online=online,
    )
    prepared.check(data.tasks)
    return codec, prepared


def _make_text(config: ConfigDict, prepared: PreparedData | None) -> Any:
    """The text encoder of config.text.kind, which is not "t5"."""
    text, width = config.text, config.model.caption_channels
    if text.kind == "hashed":
        return HashedTextEncoder(width, text.max_length)
    if config.data.name == "world":
        raise ValueError("text.kind='cached' needs data.folders with cached captions")
    encode = _online_when_needed(config) if text.folder else None
    if prepared is None:
        return encode or _no_text
    manifest = prepared.folders[0][0].manifest
    cached = prepared.folders[0][0].text
    assert cached is not None  # _make_prepared compares text.kind with the folder
    for field, ours, theirs in (
        ("model.caption_channels", width, cached["width"]),
        ("text.max_length", text.max_length, cached["max_length"]),
    ):
        if ours != theirs:
            raise ValueError(f"{field}={ours}, but the cached captions have {theirs}")
    return CachedText(manifest["empty_text"], text.max_length, encode)


def _no_text(prompts: list[str]) -> Any:
    """The text encoder of a model that knows cached captions alone, without their folders."""
    raise ValueError(
        f"prompt {prompts[0]!r} cannot be embedded: the model was trained on cached captions, and "
        "text.folder does not name their T5. Export the run with --text_encoder=FOLDER, and use "
        "the export as --source"
    )


def _online_when_needed(config: ConfigDict) -> Callable:
    """The T5 of text.folder; training on cached captions never opens it, and need not have it."""
    online = functools.cache(lambda: _make_online(config))
    return lambda prompts: online()(prompts)


def _make_online(config: ConfigDict) -> "OnlineText":
    """The T5 of text.folder; its weights are loaded when it is used."""
    from onediff_jax.experiment.encoders import OnlineText

    text, width = config.text, config.model.caption_channels
    if not text.folder:
        raise ValueError("text.kind='t5' needs text.folder, of a T5 encoder and its tokenizer")
    online = OnlineText(text.folder, max_length=text.max_length, dtype=config.model.dtype)
    if online.width != width:
        raise ValueError(f"model.caption_channels={width}, but {text.folder} has {online.width}")
    return online
