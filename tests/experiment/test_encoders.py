"""The released encoders at work, on small random weights that diffusers and transformers saved."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from onediff_jax.data.prepared.reader import PreparedFolder, sample_posterior
from onediff_jax.data.rows import frame_of
from onediff_jax.experiment.build import make_experiment
from onediff_jax.experiment.encoders import (
    AutoencoderCodec,
    OnlineText,
    PosteriorEncoder,
    PromptEncoder,
    make_encoders,
)
from tests.data.prepared.fake import FakeSource, contents, make_plan, prepare
from tests.data.prepared.test_dataset import config_of
from tests.pipelines import save_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder with vae, text_encoder and tokenizer, and the torch models."""
    folder = tmp_path_factory.mktemp("pipeline")
    return folder, *save_pipeline(folder)


def test_posteriors_are_those_of_torch_and_do_not_depend_on_the_batch(pipeline):
    folder, vae, *_ = pipeline
    encoder = PosteriorEncoder(folder, batch=2)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    moments = encoder(pictures)
    assert moments.dtype == np.float16 and moments.shape == (2, 4, 6, 32)
    with torch.no_grad():
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
        expected = vae.encode(images).latent_dist
    for ours, theirs in zip(
        np.split(moments, 2, -1), (expected.mean, expected.logvar), strict=True
    ):
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=5e-3)
    filled = encoder(np.stack([pictures[1], pictures[1]]))
    np.testing.assert_array_equal(filled[0], moments[1])


def test_prompts_are_embedded_without_their_padding(pipeline):
    folder, _, t5, tokenizer = pipeline
    encoder = PromptEncoder(folder, max_length=40, batch=2)
    prompts = ["one two", "", "drei one two" * 30]
    found = encoder(prompts)
    assert [text.dtype for text in found] == [ml_dtypes.bfloat16] * 3
    assert len(found[1]) == 1 and len(found[2]) == 40
    for prompt, text in zip(prompts, found, strict=True):
        tokens = tokenizer([prompt], return_tensors="pt", max_length=40, truncation=True)
        with torch.no_grad():
            expected = t5(**tokens).last_hidden_state[0].numpy()
        np.testing.assert_allclose(text.astype(np.float32), expected, rtol=1e-2, atol=1e-2)


def test_the_codec_is_the_scaled_autoencoder(pipeline):
    folder, vae, *_ = pipeline
    codec = AutoencoderCodec(folder / "vae")
    assert (codec.channels, codec.factor) == (16, 8)
    picture = np.random.default_rng(1).integers(0, 256, (16, 32, 3), np.uint8)
    latents = codec.encode(picture)
    assert latents.shape == (2, 4, 16)
    moments = PosteriorEncoder(folder, batch=1)(picture[None])[0]
    np.testing.assert_allclose(latents, moments[..., :16] * 1.5305, atol=1e-2)
    with torch.no_grad():
        z = torch.from_numpy(latents / 1.5305).permute(2, 0, 1)[None]
        expected = vae.decode(z).sample[0].permute(1, 2, 0).clamp(-1, 1).numpy()
    np.testing.assert_allclose(codec.decode(latents), expected, atol=1e-4)
    np.testing.assert_allclose(codec.decode(latents[None])[0], codec.decode(latents), atol=1e-5)


def test_preparing_with_networks_goes_on_to_the_same_bytes(pipeline, tmp_path):
    folder = str(pipeline[0])

    def make():
        return make_encoders(folder, folder, max_length=24, batch=4, dtype="float32")

    plan = dataclasses.replace(make_plan(FakeSource(parts=2, each=6)), make_encoders=make)
    whole = prepare(tmp_path / "whole", plan)
    prepare(tmp_path / "again", plan, workers=2)
    (tmp_path / "again" / "parts" / "00001-of-00002.json").unlink()
    prepare(tmp_path / "again", plan)
    assert contents(tmp_path / "whole") == contents(tmp_path / "again")
    prepared = PreparedFolder(tmp_path / "whole")
    assert prepared.pictures["scaling_factor"] == 1.5305 and prepared.text["width"] == 16
    assert np.shape(whole["empty_text"]) == (1, 16)
    record = prepared.records("text2image", "train")[0]
    assert record.frames[0].shape == (6, 10, 32) and len(record.texts) == 3


def test_online_text_embeds_ids_on_the_devices(pipeline):
    """As transformers does, whatever the shape of the batch and wherever the weights lie."""
    folder, _, t5, tokenizer = pipeline
    online = OnlineText(folder, max_length=12, dtype="float32")
    prompts = ["one two", "", "drei one"]
    text, mask = online(prompts)
    assert text.shape == (3, 12, 16) and mask.sum(-1).tolist() == [3, 1, 3]
    for prompt, row, keep in zip(prompts, text, mask, strict=True):
        with torch.no_grad():
            expected = t5(**tokenizer([prompt], return_tensors="pt")).last_hidden_state[0].numpy()
        np.testing.assert_allclose(row[keep].astype(np.float32), expected, rtol=1e-2, atol=1e-2)
    mesh = jax.sharding.Mesh(jax.devices(), ("fsdp",))
    online.place(mesh)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    ids, mask = online.ids([*prompts, "two"])
    batch = {
        "text": jax.device_put(ids.reshape(2, 2, 12), rows),
        "text_mask": mask.reshape(2, 2, 12),
        "task": 7,
    }
    embedded = online.embed(batch)
    assert embedded["text"].sharding == rows and embedded["task"] == 7
    np.testing.assert_array_equal(np.asarray(embedded["text"]).reshape(4, 12, 16)[:3], text)


@pytest.mark.slow
def test_trains_with_the_text_encoder_beside_it(pipeline, tmp_path):
    from onediff_jax.run.loop import train
    from tests.experiments import shrunken

    config = shrunken()
    config.unlock()
    config.text = {"kind": "t5", "folder": str(pipeline[0]), "max_length": 12}
    config.train.steps, config.log.sample_every, config.log.sample_steps = 3, 3, 1
    assert int(train(config, tmp_path).step) == 3
    config.model.caption_channels = 8
    with pytest.raises(ValueError, match="caption_channels=8"):
        train(config, tmp_path / "other")


def test_pixels_of_rows_are_encoded_beside_the_training(pipeline, tmp_path):
    """Each picture's tokens are a draw from its own posterior, seeded by its slot; rays stay."""
    kinds = ("text2image", "multiview")
    prepare(tmp_path / "one", make_plan(FakeSource(each=8, kinds=kinds), aspects=("4:3",)))
    config = config_of((str(tmp_path / "one"),), kinds).unlock()
    config.rows = (("t2i", 2, 1, 16), ("multiview", 1, 6, 16))
    config.data.encoder, config.data.encode = str(pipeline[0]), "online"
    config.data.flip_share = 0.5
    found = make_experiment(config)
    stream = found.batches(workers=0)
    raw = next(stream)
    stream.close()
    encoded = found.online_pictures.encode(raw)
    assert encoded.keys() == raw.keys() - {"pixels", "grids", "noise"}
    encoder = PosteriorEncoder(pipeline[0], batch=4)
    layout = found.layout
    size = 16 // layout.chunk  # chunks per frame
    for row in range(2):
        for frame, (high, wide) in enumerate(raw["grids"][row]):
            chunks = slice(frame * size, (frame + 1) * size)
            ours, before = (b["tokens"][row, chunks].reshape(16, -1) for b in (encoded, raw))
            if not high:
                np.testing.assert_array_equal(ours, before)
                continue
            pixels = raw["pixels"][row, chunks].reshape(16, -1)
            picture = frame_of(pixels, 16 * high, 16 * wide, 16)
            moments = np.ascontiguousarray(encoder(np.stack([picture] * encoder.batch))[0])
            seed = int(raw["noise"][row, layout.frame_slot[frame]]), frame
            z = sample_posterior(moments, encoder.scaling, np.random.default_rng(seed))
            np.testing.assert_array_equal(frame_of(ours, 2 * high, 2 * wide, 2), z)
            assert not ours[high * wide :].any()
    assert raw["grids"][:, 3::2].any() == 0 and raw["grids"][:, 2].all()
    assert found.stream_fields()["data"]["encoder"] == found.codec.identity
    config.data.encoder = "light"
    with pytest.raises(ValueError, match="data.encode='online' with data.encoder='light'"):
        make_experiment(config)
