"""Writing a TFDS set needs TensorFlow, so another process does it, once; reading must not."""

import shutil
import subprocess
import sys

import pytest

from onediff_jax.data.sources import open_source

pytest.importorskip("tensorflow_datasets")
pytestmark = [
    pytest.mark.slow,  # starts processes
    # tfds with protobuf 6, which Apache Beam needs.
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]

WRITE = """
import sys
import numpy as np
import tensorflow_datasets as tfds

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3))
        texts = tfds.features.Sequence({"text": tfds.features.Text()})
        features = {"image": image, "caption": tfds.features.Text(), "captions": texts}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)
    def _split_generators(self, manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        for i in range(7):
            image = np.full((24, 32, 3), 30 * i, np.uint8)
            texts = [{"text": f"first {i}"}, {"text": f"zweite {i} ä"}]
            yield i, {"image": image, "caption": f"picture {i}", "captions": texts}

Tiny(data_dir=f"{sys.argv[1]}/good", file_format="array_record").download_and_prepare()
"""

READ = """
import sys
from onediff_jax.data.sources import open_source
source = open_source("tfds", sys.argv[1], shard_size=3)
print(sum(1 for shard in source.shards() for _ in source.read(shard)))
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "code").mkdir()
    script = folder / "code" / "write.py"  # a file: TFDS lists the folder of the class
    script.write_text(WRITE)
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    return folder


def test_a_directory_is_read_at_random_without_tensorflow(written, read):
    path = written / "good" / "tiny" / "1.0.0"
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "7"


def test_captions_pictures_and_shards(written, read):
    result = read("tfds", written / "good" / "tiny" / "1.0.0", shard_size=3)
    assert not result.bad and len(result.source.shards()) == 3
    assert [r.key for r in result.good] == [f"train/{i}" for i in range(7)]
    assert result.good[4].captions == (("picture 4",),)
    assert result.good[4].images[0].shape == (24, 32, 3)
    assert (result.good[4].images[0] == 120).all()
    last = list(result.source.read(result.source.shards()[2]))
    assert [r.key for r in last] == ["train/6"]


def test_by_name_with_nested_captions(written, read):
    result = read("tfds", "tiny", data_dir=str(written / "good"), caption="captions/text")
    assert result.good[2].captions == (("first 2", "zweite 2 ä"),)


def test_a_limit_makes_bad_records(written, read):
    result = read("tfds", written / "good" / "tiny" / "1.0.0", min_side=25)
    assert not result.good and {r.reason for r in result.bad} == {"too_small"}


def test_wrong_use(written, tmp_path):
    good = str(written / "good")
    with pytest.raises(ValueError, match="unknown split='test'"):
        open_source("tfds", "tiny", data_dir=good, split="test")
    with pytest.raises(ValueError, match="no TFDS data set at 'other'"):
        open_source("tfds", "other", data_dir=good)
    with pytest.raises(ValueError, match="no feature for image: none of"):
        open_source("tfds", "tiny", data_dir=good, image="photo")
    copy = shutil.copytree(written / "good", tmp_path / "records")
    info = copy / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="cannot be read at random"):
        open_source("tfds", "tiny", data_dir=str(copy))
