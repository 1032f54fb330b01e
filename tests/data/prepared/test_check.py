"""Whatever happens to a prepared folder, the check tells."""

import json
import shutil

import pytest

from onediff_jax.data.prepared.check import check_folder
from tests.data.prepared.fake import FakeSource, make_plan, prepare


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder)
    return folder


def test_a_whole_folder_has_no_problems_and_a_table(whole):
    problems, table = check_folder(whole, workers=2)
    assert not problems
    assert "multiview" in table and "30 records" in table and "6 bad records" in table
    assert "6 of 30 records have no caption" in table


def first_file(folder):
    return next((folder / "records" / "faceid").iterdir())


def flip(folder):
    data = bytearray(first_file(folder).read_bytes())
    place = data.index(b"ODR1") + 300
    data[place] ^= 1
    first_file(folder).write_bytes(data)


def cut(folder):
    first_file(folder).write_bytes(first_file(folder).read_bytes()[:-1000])


def change_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))


def lose_index_lines(folder):
    file = next((folder / "index").iterdir())
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-2]))


def swap_splits(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["plan"]["held_out"] = 0.9
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage, message",
    [
        (flip, "sha256 is not the manifest's"),
        (cut, "bytes, not"),
        (lambda folder: first_file(folder).unlink(), "missing"),
        (change_manifest, "manifest.json was changed"),
        (lose_index_lines, "index"),
        (swap_splits, "other split"),
    ],
)
def test_damage_is_found(whole, tmp_path, damage, message):
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    damage(folder)
    problems, _ = check_folder(folder)
    assert any(message in problem for problem in problems), problems


def test_an_example_that_is_there_twice_is_found(tmp_path):
    class Twice(FakeSource):
        def read(self, shard):
            yield self.example("the same in every shard", "text2image")

    prepare(tmp_path, make_plan(Twice(parts=2)))
    problems, _ = check_folder(tmp_path)
    assert problems == ["1 of 1 examples have the task and key of another one"]


def test_an_unfinished_folder(tmp_path):
    with pytest.raises(ValueError, match="is no prepared folder"):
        check_folder(tmp_path)
