"""Reading prepared folders: any record at any time, and what is drawn of it for a row."""

import collections
import json
import threading

import numpy as np
import pytest

from onediff_jax.data.codec import LightCodec
from onediff_jax.data.prepared import reader as reader_module
from onediff_jax.data.prepared.manifest import PreparedError
from onediff_jax.data.prepared.reader import Decoding, PreparedFolder, Records, Stored
from onediff_jax.data.prepared.record import Record
from onediff_jax.tasks.cameras import ray_frames, rays_from_cameras
from tests.data.prepared.fake import FakeSource, make_plan, prepare

CODEC = LightCodec()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared")
    prepare(path, make_plan(FakeSource(each=24), held_out=0.0))
    return PreparedFolder(path)


def stored(folder, task, max_frames=12, index=0):
    return Stored(folder.records(task, "train")[index], Decoding(CODEC, None, max_frames))


def test_any_record_in_any_order_from_any_thread(folder, monkeypatch):
    monkeypatch.setattr(reader_module, "_OPEN_FILES", 1)  # files close and open all the time
    records = folder.records("text2image", "train")
    assert len(records) == folder.tasks["text2image"]["train"] == 12
    keys = [record.key for record in records]
    assert len(set(keys)) == 12
    wrong = []

    def read(seed):
        for index in np.random.default_rng(seed).integers(0, len(records), 200):
            if records[index].key != keys[index]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(records._readers) == 1
    with pytest.raises(IndexError):
        records[len(records)]


def test_opening_reads_the_manifest_alone(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(
        reader_module, "ArrayRecordReader", lambda *args, **kwargs: opened.append(args)
    )
    assert len(PreparedFolder(folder.path).records("faceid", "train")) == 12 and not opened


def test_missing_and_damaged_files_are_named(tmp_path):
    prepare(tmp_path)
    folder = PreparedFolder(tmp_path)
    file = folder.manifest["files"][0]
    records = Records(tmp_path, [file])
    whole = (tmp_path / file["file"]).read_bytes()
    (tmp_path / file["file"]).unlink()
    with pytest.raises(PreparedError, match=file["file"]):
        records[0]
    place = whole.index(b"ODR1") + 200
    damaged = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
    (tmp_path / file["file"]).write_bytes(damaged)
    with pytest.raises(PreparedError, match="prepare --check"):
        Records(tmp_path, [file])[0]
    with pytest.raises(PreparedError, match="is no prepared folder"):
        PreparedFolder(tmp_path / "records")


def test_a_caption_of_several_is_drawn_for_each_picture(folder):
    example = stored(folder, "text2image")
    rng = np.random.default_rng(0)
    prompts = collections.Counter(example.draw(rng).prompt for _ in range(300))
    key = example.record.key
    assert set(prompts) == {f"[[text2image]] {c}" for c in (f"one {key}", f"two {key}", "drei")}
    assert min(prompts.values()) > 60


def test_latents_are_those_of_the_codec(folder):
    example = stored(folder, "semanticmap2image")
    drawn = example.draw(np.random.default_rng(0))
    assert drawn.prompt == "[[semanticmap2image]] <#FF0000 red mask: cat> a cat"
    for latents, picture in zip(drawn.frames, example.record.frames, strict=True):
        np.testing.assert_array_equal(latents, CODEC.encode(picture))


def test_draws_depend_on_the_generator_alone(folder):
    example = stored(folder, "faceid")
    one, other = (example.draw(np.random.default_rng(5)) for _ in range(2))
    assert one.prompt == other.prompt
    for a, b in zip(one.frames, other.frames, strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_pictures_than_a_slot_holds(folder):
    example = stored(folder, "faceid", max_frames=3)
    rng, counts = np.random.default_rng(0), collections.Counter()
    for _ in range(50):
        drawn = example.bundle(rng)
        counts[len(drawn.frames)] += 1
        np.testing.assert_array_equal(drawn.frames[0], example.record.frames[0])
        assert drawn.prompt.startswith("[[faceid]] [[img0]] target [[img1]]")
        assert f"[[img{len(drawn.frames) - 1}]]" in drawn.prompt
        assert f"[[img{len(drawn.frames)}]]" not in drawn.prompt
    assert set(counts) == {2, 3}


def test_rays_follow_from_the_cameras_of_the_drawn_views(folder):
    example = stored(folder, "multiview", max_frames=6)
    drawn = example.draw(np.random.default_rng(3))
    assert drawn.prompt == "[[multiview]]" and len(drawn.frames) in (4, 6)
    record = example.record
    rays = ray_frames(rays_from_cameras(record.cameras, (6, 10)))
    pictures = [CODEC.encode(picture) for picture in record.frames]
    chosen = []
    for picture, ray in zip(drawn.frames[::2], drawn.frames[1::2], strict=True):
        view = next(i for i, p in enumerate(pictures) if np.array_equal(p, picture))
        np.testing.assert_array_equal(ray, rays[view])
        chosen.append(view)
    assert chosen[0] == 0 and chosen == sorted(set(chosen))


def test_a_posterior_is_sampled_and_scaled():
    mean = np.full((32, 32, 4), 1.5, np.float16)
    logvar = np.full((32, 32, 4), 2 * np.log(0.25), np.float16)
    frame = np.concatenate([mean, logvar], -1)
    record = Record("k", "text2image", ((),), (frame,))
    example = Stored(record, Decoding(CODEC, 2.0, 1))
    rng = np.random.default_rng(0)
    one, other = (example.draw(rng).frames[0].astype(np.float32) for _ in range(2))
    assert one.shape == (32, 32, 4) and not np.array_equal(one, other)
    assert abs(one.mean() - 3.0) < 0.05 and abs(one.std() - 0.5) < 0.02


def test_a_posterior_elementwise():
    """Other means, the same deviations and noise: latents differ as the means do; and the noise is
    as large as each element's own deviation."""
    rng = np.random.default_rng(1)
    mean, shift = rng.normal(size=(2, 64, 64, 4)).astype(np.float16)
    logvar = rng.normal(size=mean.shape).astype(np.float16)
    decoding = Decoding(CODEC, 0.5, 1)

    def drawn(mean, logvar):
        frame = np.concatenate([mean, logvar], -1)
        return decoding.latents(frame, np.random.default_rng(7)).astype(np.float64)

    one, silent = drawn(mean, logvar), np.full_like(logvar, -60000)
    np.testing.assert_array_equal(drawn(mean, silent), 0.5 * mean.astype(np.float64))
    other = drawn(mean + shift, logvar)
    np.testing.assert_allclose(
        other - one, 0.5 * shift.astype(np.float64), atol=4e-3
    )  # float16 rounds the means
    noise = (one - 0.5 * mean) / (0.5 * np.exp(logvar.astype(np.float64) / 2))
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.02
    assert abs(np.corrcoef(noise.ravel(), logvar.ravel())[0, 1]) < 0.03


def test_folders_of_an_earlier_version_are_read(tmp_path):
    """They have no sums of the manifest, no places in the index and no picture keys."""
    prepare(tmp_path, make_plan())
    file = tmp_path / "manifest.json"
    manifest = json.loads(file.read_text())
    for name in ("checksum", "held_out", "held_out_names", "index", "training", "not_read"):
        del manifest[name]
    manifest["plan"]["format_version"] = 3
    file.write_text(json.dumps(manifest))
    folder = PreparedFolder(tmp_path)
    assert not folder.split_rule[0] and not list(folder.index())
    assert len(folder.records("faceid", "train")) == manifest["tasks"]["faceid"]["train"]
    manifest["plan"]["format_version"] = 4
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="was changed after prepare wrote it"):
        PreparedFolder(tmp_path)


def test_files_that_are_gone_or_cut_are_named_at_the_start(tmp_path):
    written = prepare(tmp_path, make_plan())
    victim = tmp_path / written["files"][0]["file"]
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{victim.name} has .* bytes, not"):
        PreparedFolder(tmp_path)
    victim.unlink()
    with pytest.raises(ValueError, match=f"{victim.name} is missing"):
        PreparedFolder(tmp_path)
