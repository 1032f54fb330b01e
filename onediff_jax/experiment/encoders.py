"""The released encoders at work: pictures to posteriors and back, prompts to embeddings.

`prepare` runs them once over a dataset; a run that trains on the result decodes with the same
autoencoder. Folders are those of diffusers and transformers; one that holds a whole pipeline will
do, its `vae`, `text_encoder` and `tokenizer` are found.
"""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from onediff_jax.data.layout import RowLayout
from onediff_jax.data.prepared.plan import Encoders, weights_hash
from onediff_jax.data.prepared.reader import sample_posterior
from onediff_jax.data.rows import frame_of, write_tokens
from onediff_jax.models.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder
from onediff_jax.models.loading import read_config
from onediff_jax.models.t5 import T5Config, TextEncoder, load_text_encoder, load_tokenizer

_PICTURES = 4  # per device, of one size, that are encoded together beside the training
_LENGTHS = 32  # prompts are padded to a multiple of this many tokens: few programs to compile


def make_encoders(
    autoencoder: str | None,
    text: str | None,
    *,
    max_length: int,
    batch: int,
    dtype: str,
) -> Encoders:
    """The encoders of a preparation; a folder of None means pixels, or captions only.

    Args:
      max_length: tokens per prompt.
      batch: pictures per device and prompts per call.
      dtype: of the computation, "float32" or "bfloat16".

    Raises ValueError for a folder that does not fit; ImportError when a tokenizer needs
    transformers and it is missing.
    """
    return Encoders(
        PosteriorEncoder(autoencoder, batch=batch, dtype=dtype) if autoencoder else None,
        PromptEncoder(text, max_length=max_length, batch=batch, dtype=dtype) if text else None,
    )


class PosteriorEncoder:
    """Pictures to the mean and log-variance of an autoencoder's posterior, on all local devices.

    Attributes: batch, pictures per call, over all devices; scaling; factor, pixels per latent.
    """

    def __init__(self, folder: str | Path, *, batch: int, dtype: str = "float32"):
        self._folder, self._dtype = part_of(folder, "vae"), dtype
        self._model = load_autoencoder(self._folder, dtype=dtype)
        self.scaling, self.factor = self._model.scaling_factor, self._model.config.factor
        devices = jax.local_devices()
        self.batch = batch * len(devices)
        mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._params = jax.device_put(self._model.params, everywhere)
        self._run = jax.jit(self._moments, in_shardings=(everywhere, spread), out_shardings=spread)

    def identity(self) -> dict[str, Any]:
        """What tells this encoder from others: its weights, its scaling, its precision."""
        return {
            "kind": "autoencoder",
            "sha256": weights_hash(self._folder),
            "scaling_factor": self._model.scaling_factor,
            "channels": self._model.channels,
            "dtype": self._dtype,
            "platform": jax.local_devices()[0].platform,
            "jax": jax.__version__,
        }

    def _moments(self, params: dict, pictures: jax.Array) -> jax.Array:
        mean, logvar = self._model.apply_encode(params, pictures.astype(jnp.float32) / 127.5 - 1)
        return jnp.concatenate([mean, logvar], -1).astype(jnp.float16)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """(batch, H, W, 3) uint8 → (batch, H/8, W/8, 2·c) float16: mean, then log-variance."""
        return np.asarray(self._run(self._params, pictures))


class OnlinePictures:
    """A frozen autoencoder beside the training: rows carry pixels, the devices of this process make
    their posteriors, and latents are drawn from them as from stored ones.

    A batch is on the host before and after: while its pictures are encoded no step runs.

    Args:
      folder: of the autoencoder.
      layout: of the rows.
      dtype: of the computation.
    """

    def __init__(self, folder: str | Path, layout: RowLayout, *, dtype: str):
        self._folder, self._layout, self._dtype = folder, layout, dtype
        counts = [slot.tokens for slot in layout.slots for _ in range(slot.frames)]
        self._first_token = np.concatenate([[0], np.cumsum(counts)])

    @functools.cached_property
    def _encoder(self) -> PosteriorEncoder:
        return PosteriorEncoder(self._folder, batch=_PICTURES, dtype=self._dtype)

    def encode(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch of RowPacker with the tokens of its pixels, and without these."""
        batch = dict(batch)
        if "pixels" not in batch:
            return batch
        pixels, grids, noise = (batch.pop(name) for name in ("pixels", "grids", "noise"))
        rows, _, _, width = pixels.shape
        side = math.isqrt(width // 3)
        pixels = pixels.reshape(rows, -1, width)
        batch["tokens"] = batch["tokens"].copy()
        tokens = batch["tokens"].reshape(rows, -1, batch["tokens"].shape[-1])
        scaling, together = self._encoder.scaling, self._encoder.batch
        patch = side // self._encoder.factor
        of_size: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for row, frame in zip(*np.nonzero(grids[..., 0]), strict=True):
            high, wide = map(int, grids[row, frame])
            of_size.setdefault((high, wide), []).append((row, frame))
        for (high, wide), places in sorted(of_size.items()):
            for start in range(0, len(places), together):
                some = places[start : start + together]
                filled = some + some[:1] * (together - len(some))
                pictures = [
                    frame_of(self._tokens_of(pixels[r], f), high * side, wide * side, side)
                    for r, f in filled
                ]
                moments = self._encoder(np.stack(pictures))
                for (r, f), found in zip(some, moments, strict=False):
                    rng = np.random.default_rng((int(noise[r, self._layout.frame_slot[f]]), int(f)))
                    latents = sample_posterior(np.ascontiguousarray(found), scaling, rng)
                    write_tokens(latents, patch, self._tokens_of(tokens[r], f)[: high * wide])
        return batch

    def _tokens_of(self, row: np.ndarray, frame: int) -> np.ndarray:
        """Those of a frame, counted through the row, (n, width)."""
        return row[self._first_token[frame] : self._first_token[frame + 1]]


class PromptEncoder:
    """Prompts to T5 embeddings of their real tokens."""

    def __init__(self, folder: str | Path, *, max_length: int, batch: int, dtype: str = "float32"):
        self._folder, self._tokens = part_of(folder, "text_encoder"), part_of(folder, "tokenizer")
        self._batch, self._dtype = batch, dtype
        self._tokenizer = load_tokenizer(self._tokens, max_length=max_length)
        self._model = load_text_encoder(self._folder, dtype=dtype)

    def identity(self) -> dict[str, Any]:
        """What tells this encoder from others: weights, tokenizer, precision."""
        return {
            "kind": "t5",
            "sha256": weights_hash(self._folder),
            "tokenizer": weights_hash(self._tokens, ("tokenizer*.json", "spiece.model")),
            "max_length": self._tokenizer.max_length,
            "width": self._model.width,
            "dtype": self._dtype,
            "platform": jax.local_devices()[0].platform,
            "jax": jax.__version__,
        }

    def __call__(self, prompts: list[str]) -> list[np.ndarray]:
        """Per prompt (l, width) bfloat16, l its number of tokens."""
        found = []
        for start in range(0, len(prompts), self._batch):
            some = prompts[start : start + self._batch]
            ids, mask = self._tokenizer(some + [""] * (self._batch - len(some)))
            lengths = mask.sum(-1)
            room = min(-(-int(lengths.max()) // _LENGTHS) * _LENGTHS, ids.shape[1])
            ids, mask = jnp.asarray(ids[:, :room]), jnp.asarray(mask[:, :room])
            embedded = np.asarray(self._model(ids, mask))
            found += [
                embedded[i, : lengths[i]].astype(ml_dtypes.bfloat16) for i in range(len(some))
            ]
        return found


class OnlineText:
    """A frozen T5 beside the training: rows carry token ids, the devices make the embeddings.

    Attributes: width, of an embedding; max_length, tokens per prompt.
    """

    def __init__(self, folder: str | Path, *, max_length: int, dtype: str):
        self._folder, self._dtype = part_of(folder, "text_encoder"), dtype
        self._tokenizer = load_tokenizer(part_of(folder, "tokenizer"), max_length=max_length)
        self.width, self.max_length = (
            T5Config.from_json(read_config(self._folder)).d_model,
            max_length,
        )
        self._run = jax.jit(self._embed)

    @functools.cached_property
    def _model(self) -> TextEncoder:
        return load_text_encoder(self._folder, dtype=self._dtype)

    def ids(self, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (b, max_length) int32 and mask bool, for rows."""
        ids, mask = self._tokenizer(prompts)
        return ids, mask.astype(bool)

    def __call__(self, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (b, max_length, width) bfloat16 and mask (b, max_length) bool."""
        ids, mask = self.ids(prompts)
        return np.asarray(self.embed({"text": ids, "text_mask": mask})["text"]), mask

    def place(self, mesh: jax.sharding.Mesh) -> None:
        """Splits the weights over the mesh's fsdp axis; they never lie on one device whole."""
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            params = self._model.params

        def put(leaf):
            leaf = np.asarray(leaf)
            divided = [n if n % mesh.shape["fsdp"] == 0 else 0 for n in leaf.shape]
            spec: list[str | None] = [None] * leaf.ndim
            if any(divided):
                spec[int(np.argmax(divided))] = "fsdp"
            sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
            return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

        self._model.params = jax.tree.map(put, params)

    def embed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with embeddings (…, l, width) bfloat16 in place of the ids (…, l), lying as
        those do."""
        text = self._run(self._model.params, batch["text"], batch["text_mask"])
        if isinstance(batch["text"], jax.Array):
            text = jax.device_put(text, batch["text"].sharding)
        return {**batch, "text": text}

    def _embed(self, params: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
        length = ids.shape[-1]
        flat = self._model.apply(
            params, ids.reshape(-1, length), mask.reshape(-1, length).astype(jnp.int32)
        )
        return flat.reshape(*ids.shape, -1).astype(jnp.bfloat16)


class AutoencoderCodec:
    """An autoencoder in the place of the light codec: numpy in, numpy out.

    Attributes: channels, factor, identity (SHA-256 of the weights).
    """

    def __init__(self, folder: str | Path):
        self._folder = part_of(folder, "vae")
        config = AutoencoderConfig.from_json(read_config(self._folder))
        self.channels, self.factor = config.latent_channels, config.factor

    @functools.cached_property
    def _model(self) -> Autoencoder:  # loaded when something is shown: training never needs it
        return load_autoencoder(self._folder)

    @property
    def identity(self) -> str:
        return self._hash

    @functools.cached_property
    def _hash(self) -> str:
        return weights_hash(self._folder)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images (…, H, W, 3) in −1..1, or uint8 → latents (…, H/8, W/8, c): the mean, scaled."""
        images = np.asarray(images)
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 127.5 - 1.0
        *lead, height, width, rgb = images.shape
        mean, _ = self._model.encode(
            jnp.asarray(images, jnp.float32).reshape(-1, height, width, rgb)
        )
        return np.asarray(mean).reshape(*lead, *mean.shape[1:]) * self._model.scaling_factor

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents (…, h, w, c) → images (…, 8h, 8w, 3) float32 in −1..1 (clipped)."""
        latents = np.asarray(latents, np.float32) / self._model.scaling_factor
        *lead, height, width, channels = latents.shape
        images = self._model.decode(jnp.asarray(latents.reshape(-1, height, width, channels)))
        return np.clip(np.asarray(images).reshape(*lead, *images.shape[1:]), -1.0, 1.0)


def part_of(folder: str | Path, part: str) -> Path:
    """A part of a pipeline's folder: "vae", "text_encoder", "tokenizer"; or the folder itself."""
    inside = Path(folder) / part
    return inside if inside.is_dir() else Path(folder)
