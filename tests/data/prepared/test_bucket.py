"""Prepared folders in an object store: the same rows, from copies that fit a size."""

import fsspec
import numpy as np
import pytest

from onediff_jax.data.pipeline import Blocks
from onediff_jax.data.prepared import bucket
from onediff_jax.data.prepared.bucket import Bucket, BucketError
from onediff_jax.data.prepared.manifest import PreparedError
from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.experiment.build import make_experiment
from tests.data.prepared.fake import FakeSource, make_plan, prepare
from tests.data.prepared.test_dataset import config_of, equal


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder here, and the same in a store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = FakeSource(parts=4, each=6, kinds=("text2image",))
    prepare(tmp_path / "one", make_plan(source, held_out=0.2))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for file in (tmp_path / "one").rglob("*"):
        if file.is_file() and file.name != ".lock":
            memory.pipe(f"/prep/{file.relative_to(tmp_path / 'one')}", file.read_bytes())
    return tmp_path / "one", "memory://prep", memory


def rows(folder, **changes):
    config = config_of((str(folder),), ("text2image",)).unlock()
    config.rows = (("t2i", 2, 1, 16),)
    for name, value in changes.items():
        config.data[name] = value
    stream = make_experiment(config).batches(threads=2)
    found = [next(stream) for _ in range(4)]
    stream.close()
    return found


def test_rows_of_a_store_are_those_of_the_folder(store):
    here, there, _ = store
    ours, theirs = rows(here, block=3), rows(there, block=3)
    assert all(equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not equal(ours[0], rows(here)[0])
    folders = [PreparedFolder(path) for path in (here, there)]
    assert folders[0].manifest == folders[1].manifest
    assert list(folders[0].index()) == list(folders[1].index())


def test_copies_fit_a_size_and_are_made_again(store):
    here, there, memory = store
    files = [f for f in PreparedFolder(here).manifest["files"] if f["split"] == "train"]
    copies = Bucket(there, limit=2.5 * max(f["bytes"] for f in files))
    for facts in [*files, files[0]]:
        copy = copies.file(facts)
        assert copy.read_bytes() == (here / facts["file"]).read_bytes()
        assert sum(size for _, size, _ in bucket._used(bucket.cache_folder())) <= copies.limit
    assert not copies.file(files[-1]).with_name("x").exists()
    records = PreparedFolder(there, cache_bytes=copies.limit).records("text2image", "train")
    want = PreparedFolder(here).records("text2image", "train")
    for number in np.random.default_rng(0).integers(0, len(want), 40):
        assert records[number].key == want[number].key
    copies.folder.joinpath(files[0]["file"]).write_bytes(b"half")  # as a killed process leaves none
    assert copies.file(files[0]).read_bytes() == (here / files[0]["file"]).read_bytes()


def test_what_a_store_lacks_is_told(store):
    _, there, memory = store
    facts = PreparedFolder(there).manifest["files"][0]
    memory.pipe(f"/prep/{facts['file']}", b"short")
    with pytest.raises(BucketError, match="has 5 bytes, not"):
        Bucket(there).file(facts)
    memory.rm(f"/prep/{facts['file']}")
    with pytest.raises(BucketError, match=f"{there}/{facts['file']}"):
        Bucket(there).file(facts)
    with pytest.raises(PreparedError, match="no manifest.json"):
        PreparedFolder("memory://nothing")
    with pytest.raises(PreparedError, match="cannot be reached"):
        PreparedFolder("nostore://nothing")


@pytest.mark.parametrize("count, block", [(100, 3), (7, 10), (48, 6), (1, 1)])
def test_every_pass_has_every_record_once_and_neighbours_together(count, block):
    ordered = Blocks(range(count), block, seed=1)
    passes = [[ordered[p * count + i] for i in range(count)] for p in range(3)]
    assert all(sorted(found) == list(range(count)) for found in passes)
    again = Blocks(range(count), block, seed=1)
    assert [again[count + i] for i in range(count)] == passes[1]
    if count == 100:
        assert passes[0] != passes[1]
        assert len({record // block for record in passes[0][:22]}) <= 8
