"""Preparing: the same bytes however it is done, and nothing bad gets in."""

import collections
import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from onediff_jax.data.prepared import local, manifest, parts
from onediff_jax.data.prepared.check import check_folder
from onediff_jax.data.prepared.parts import part_name
from onediff_jax.data.prepared.plan import Encoders
from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.data.prepared.split import SPLITS, split_of
from onediff_jax.data.prepared.workers import WorkerLost
from onediff_jax.data.prepared.writer import write_part
from onediff_jax.data.sources import open_source
from onediff_jax.data.sources.base import BadRecord
from onediff_jax.data.sources.report import TooManyBadRecords
from tests.data.prepared.fake import FakeSource, contents, make_plan, prepare
from tests.data.sources.conftest import Files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder)
    return contents(folder)


def test_processes_write_the_same_bytes(tmp_path, whole):
    prepare(tmp_path, workers=2)
    assert contents(tmp_path) == whole


def test_goes_on_where_it_was(tmp_path, whole):
    plan = make_plan()
    shards = plan.source.shards()
    with local.claim(tmp_path):
        manifest.begin(tmp_path, plan.fields(Encoders()))
    write_part(plan, Encoders(), shards[1], part_name(1, 3), tmp_path)
    first = {name: (tmp_path / name).stat().st_mtime_ns for name in contents(tmp_path)}
    # What a killed writer leaves: a file half written, and one in place whose part is not done.
    (tmp_path / "parts" / ".00000-of-00003.json.host.1.tmp").write_text("{")
    stray = tmp_path / "records" / "text2image" / "train-00000-of-00003.array_record"
    stray.write_bytes(b"half")
    assert manifest.parts_left(tmp_path, shards) == [0, 2]
    prepare(tmp_path, plan)
    assert contents(tmp_path) == whole
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in first.items())


def test_a_part_whose_file_is_gone_is_written_again(tmp_path, whole):
    prepare(tmp_path)
    victim = next((tmp_path / "records").rglob("train-00001*"))
    victim.unlink()
    assert manifest.parts_left(tmp_path, make_plan().source.shards()) == [1]
    prepare(tmp_path)
    assert contents(tmp_path) == whole


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name, damage",
    [
        ("records/*/*-00001-of-00003.array_record", flip),
        ("index/00001-of-00003.jsonl", flip),
        ("index/00001-of-00003.jsonl", lambda path: path.unlink()),
        ("parts/00001-of-00003.json", lambda path: path.write_bytes(b"")),
        ("parts/00001-of-00003.json", flip),
        ("plan.json", lambda path: path.write_bytes(b"")),
    ],
)
def test_damage_is_found_by_hash_and_made_again(tmp_path, whole, name, damage):
    prepare(tmp_path)
    path = sorted(tmp_path.glob(name))[0]
    damage(path)
    plan = make_plan()
    left = parts.survey(tmp_path, plan.source.shards())
    assert list(left) == ([1] if "00001" in name else [])
    assert all(str(path.relative_to(tmp_path)) in why for why in left.values())
    prepare(tmp_path, plan)
    assert contents(tmp_path) == whole


def test_changed_data_are_read_again_and_only_they(tmp_path):
    """By content: the size and the times of a file may be what they were."""
    photos, out = Files(tmp_path / "photos"), tmp_path / "out"
    for number in range(4):
        photos.write(f"{number}.png", photos.photo(number, 64, 64))
        photos.write(f"{number}.txt", f"old {number}")
    plan = make_plan(open_source("folder", str(photos), shard_size=1), held_out=0.0)
    first = prepare(out, plan)
    path = Path(photos.path("2.txt"))
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    photos.write("2.txt", "new 2")
    os.utime(path, ns=times)
    os.utime(photos.path("3.txt"))  # the same content is no change
    shards = plan.source.shards()
    left = parts.survey(out, shards, plan.source)
    assert left == {2: f"{path} changed"}
    assert parts.describe_left(left, 4) == [f"part 00002-of-00004 is made again: {path} changed"]
    second = prepare(out, plan)
    records = PreparedFolder(out).records("text2image", "train")
    assert [r.captions[0] for r in records] == [("old 0",), ("old 1",), ("new 2",), ("old 3",)]
    assert first["sha256"] != second["sha256"]
    os.rename(photos.path("0.txt"), photos.path("9.txt"))
    with pytest.raises(ValueError, match="files of other names"):
        prepare(out, make_plan(open_source("folder", str(photos), shard_size=1), held_out=0.0))


def test_another_plan_is_refused_by_field(tmp_path):
    prepare(tmp_path)
    with pytest.raises(ValueError, match=r"tokens: 16 there, 9 now"):
        prepare(tmp_path, make_plan(tokens=9))
    with pytest.raises(ValueError, match="another preparation"):
        prepare(tmp_path, make_plan(FakeSource(parts=4)))
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="not empty"):
        prepare(other)


@pytest.mark.parametrize("content", [None, "", "{}", "[]"])
def test_a_plan_that_is_lost_comes_back(tmp_path, content):
    """The manifest holds a copy of it: another preparation is refused all the same."""
    first = prepare(tmp_path)
    plan = tmp_path / "plan.json"
    before = plan.read_text()
    plan.unlink() if content is None else plan.write_text(content)
    with pytest.raises(ValueError, match=r"says its manifest\.json:\n  tokens: 16 there, 9 now"):
        prepare(tmp_path, make_plan(tokens=9))
    assert prepare(tmp_path) == first and plan.read_text() == before
    plan.unlink()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"is not empty: .*, and has no plan\.json"):
        prepare(tmp_path)


def test_two_at_once_are_refused(tmp_path):
    with local.claim(tmp_path), pytest.raises(ValueError, match="in use"), local.claim(tmp_path):
        pass


def test_every_good_record_is_there_once_and_bad_ones_are_named(tmp_path):
    written = prepare(tmp_path)
    plan = make_plan()
    examples = [e for shard in plan.source.shards() for e in plan.source.read(shard)]
    good = {(e.task, e.key) for e in examples if not isinstance(e, BadRecord)}
    folder, found = PreparedFolder(tmp_path), []
    for task in folder.tasks:
        for split in ("train", "held_out"):
            for record in folder.records(task, split):
                assert split_of(record.split_key, 0.3) == split
                found.append((record.task, record.key))
    assert sorted(found) == sorted(good)
    lines = (tmp_path / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == [
        e.key for e in examples if isinstance(e, BadRecord)
    ]
    assert written["bad"] == {"broken_picture": 6} and written["records"] == len(good)
    index = [
        json.loads(line)
        for file in sorted((tmp_path / "index").iterdir())
        for line in file.read_text().splitlines()
    ]
    assert {entry["key"] for entry in index} == {key for _, key in good}


def test_too_many_bad_records_stop_it_with_the_table(tmp_path):
    with pytest.raises(TooManyBadRecords, match="broken_picture: it starts like a picture"):
        prepare(tmp_path, make_plan(max_bad_share=0.1))
    with pytest.raises(ValueError, match="not finished"):
        PreparedFolder(tmp_path)


@dataclasses.dataclass(frozen=True)
class Troubled(FakeSource):
    """Repeats a key, and has a region no prompt can hold."""

    def read(self, shard):
        example = self.example("same", "text2image")
        yield from (example, example)
        bad = self.example("labels", "semanticmap2image")
        yield dataclasses.replace(bad, regions=(("beige", "cat"),))


def test_repeated_keys_and_impossible_labels_are_bad_records(tmp_path):
    written = prepare(tmp_path, make_plan(Troubled(parts=1), max_bad_share=1.0))
    assert written["bad"] == {"bad_labels": 1, "duplicate_key": 1} and written["records"] == 1


def test_a_wanted_task_that_nothing_gives(tmp_path):
    with pytest.raises(ValueError, match=r"no example gives tasks .*depth2image"):
        prepare(tmp_path, make_plan(tasks=("text2image", "depth2image")))


def test_split_depends_on_the_key_alone_and_has_the_share():
    keys = [f"key {i}" for i in range(4000)]
    split = [split_of(key, 0.1) for key in keys]
    assert 0.08 < split.count("held_out") / len(keys) < 0.12
    wider = [split_of(key, 0.2) for key in keys]
    assert all(w == "held_out" for s, w in zip(split, wider, strict=True) if s == "held_out")
    assert {split_of(key, 0.0) for key in keys} == {"train"}


class Doubling:
    """An encoder whose result tells which picture it saw."""

    batch = 4

    def identity(self):
        return {"kind": "autoencoder", "scaling_factor": 2.0, "sha256": "0"}

    def __call__(self, pictures):
        assert pictures.shape[0] == self.batch and pictures.dtype == np.uint8
        mean = pictures[:, ::8, ::8, :1].astype(np.float16).repeat(16, -1)
        return np.concatenate([mean, np.full_like(mean, -30)], -1)


class Lengths:
    """One row per word, holding the prompt's number of words."""

    def identity(self):
        return {"kind": "t5", "sha256": "1", "width": 3, "max_length": 40, "tokenizer": "2"}

    def __call__(self, prompts):
        import ml_dtypes

        counts = [len(prompt.split()) or 1 for prompt in prompts]
        return [np.full((n, 3), n, ml_dtypes.bfloat16) for n in counts]


def make_encoders():
    return Encoders(Doubling(), Lengths())


def test_networks_see_every_picture_and_prompt_once_in_place(tmp_path):
    plan = dataclasses.replace(make_plan(), make_encoders=make_encoders)
    prepare(tmp_path / "encoded", plan, workers=3)
    prepare(tmp_path / "pixels")
    encoded, pixels = (PreparedFolder(tmp_path / name) for name in ("encoded", "pixels"))
    assert encoded.pictures["scaling_factor"] == 2.0 and pixels.pictures == {"kind": "pixels"}
    for task in pixels.tasks:
        for one, other in zip(
            encoded.records(task, "train"), pixels.records(task, "train"), strict=True
        ):
            assert (one.key, one.captions) == (other.key, other.captions)
            for latents, picture in zip(one.frames, other.frames, strict=True):
                np.testing.assert_array_equal(latents[..., 0], picture[::8, ::8, 0])
            assert len(one.texts) == max([1, *map(len, one.captions)]) and not other.texts
            assert all(len(text) == int(text[0, 0]) for text in one.texts)


@dataclasses.dataclass(frozen=True)
class Grouped(FakeSource):
    """Eight scenes, each in every shard, of examples and of pictures that conditions come from."""

    def read(self, shard):
        for number in range(self.each):
            kind = "multiview" if number % 2 else "text2image"
            example = self.example(f"{shard}/{number}", kind)
            yield dataclasses.replace(example, group=f"scene {number % 8}")


def test_a_group_is_on_one_side_of_the_split(tmp_path):
    tasks = ("text2image", "multiview", "canny2image")
    written = prepare(tmp_path, make_plan(Grouped(each=16), tasks=tasks))
    folder, sides = PreparedFolder(tmp_path), collections.defaultdict(set)
    for task in folder.tasks:
        for split in SPLITS:
            for record in folder.records(task, split):
                sides[record.group].add(split)
    assert len(sides) == 8 and all(len(splits) == 1 for splits in sides.values())
    assert {split for splits in sides.values() for split in splits} == set(SPLITS)
    assert check_folder(tmp_path)[0] == [] and written["records"] == 3 * 16 * 1.5


@dataclasses.dataclass(frozen=True)
class Deadly(FakeSource):
    """Kills the process that reads its second shard."""

    def read(self, shard):
        if shard == "s1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(shard)


def test_a_killed_worker_ends_it_by_name(tmp_path):
    with pytest.raises(WorkerLost, match=r"signal 9 while it wrote part 00001-of-00002 \(of s1\)"):
        prepare(tmp_path, make_plan(Deadly(parts=2)), workers=2)
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_drops_is_heard_at_the_next_part():
    class Dropped:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with local.Interrupts() as interrupts:
        interrupts.check()
        Dropped()  # nothing is raised here
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before
