"""The stream of rows: exact shares, random access, the same order whatever the machine."""

import itertools
import os
import signal
import subprocess
import sys
import time

import grain
import numpy as np
import pytest

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.pipeline import (
    BatchSource,
    Draws,
    mix_groups,
    row_batches,
    stream_fields,
    stream_hash,
)
from onediff_jax.data.rows import TASK_NAMES, RowPacker
from onediff_jax.data.text_hash import HashedTextEncoder
from onediff_jax.tasks.definitions import get_task

SLOTS = (Slot("t2i", 1, 4), *[Slot("i2i", 2, 4)] * 3)
PACKER = RowPacker(RowLayout(SLOTS), HashedTextEncoder(8, 6))
WEIGHTS = {"text2image": 1.0, "depth2image": 2.0, "deblurring": 1.0}
DRAWS = Draws(clean_share=0.5, caption_dropout=0.25)
SCENES = 512  # grain shuffles few indices slowly


class Numbered:
    """Bundles whose latents say which they are."""

    def __init__(self, task: str, count: int = SCENES):
        self.task, self.count, self.reads = get_task(task), count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index) -> Encoded:
        self.reads += 1
        frames = [np.full((4, 4, 16), int(index), np.float16)] * self.task.min_frames
        return Encoded(self.task.name, f"[[{self.task.name}]] scene {index}", tuple(frames))


def groups(seed: int = 0, weights=WEIGHTS, scenes: int = SCENES) -> dict[str, grain.MapDataset]:
    return mix_groups({name: Numbered(name, scenes) for name in weights}, weights, seed)


def batches(seed: int = 0, draws: Draws = DRAWS, **options):
    options = {"batch_size": 4, "threads": 1, "prefetch": 2} | options
    return row_batches(groups(seed), PACKER, draws, seed=seed, **options)


def take(stream, count: int) -> list[dict[str, np.ndarray]]:
    found = list(itertools.islice(stream, count))
    stream.close()
    return found


def assert_equal(found: list, want: list) -> None:
    assert len(found) == len(want)
    for a, b in zip(found, want, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_shares_are_exact():
    """Every batch of 4 rows: 4 text2image; 12 i2i bundles, 2 : 1 between depth and blur."""
    for batch in take(batches(), 6):
        counts = np.bincount(batch["task"].ravel(), minlength=len(TASK_NAMES))
        found = {TASK_NAMES[i]: n for i, n in enumerate(counts) if n}
        assert found == {"text2image": 4, "depth2image": 8, "deblurring": 4}
        assert batch["tokens"].shape == (4, 7, 4, 64)


def test_an_epoch_shows_every_scene_once():
    """text2image: one bundle per row, so 8 rows are an epoch, in an order that changes."""
    source = BatchSource(groups(scenes=8), PACKER, DRAWS, 0, 4)
    scenes = np.concatenate([source[i]["tokens"][:, 0, 0, 0] for i in range(6)]).reshape(3, 8)
    for epoch in scenes:
        assert sorted(epoch) == list(range(8))
    assert len({tuple(epoch) for epoch in scenes}) == 3


def test_random_access():
    """Batch i is the same alone as in the stream."""
    source, stream = BatchSource(groups(), PACKER, DRAWS, 0, 4), take(batches(), 3)
    assert_equal([source[index] for index in (2, 0, 1)], [stream[index] for index in (2, 0, 1)])


@pytest.mark.parametrize("threads, prefetch", [(4, 8), (3, 1)])
def test_readers_do_not_change_the_order(threads, prefetch):
    assert_equal(take(batches(threads=threads, prefetch=prefetch), 5), take(batches(), 5))


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_do_not_change_the_order(workers):
    """Also after going back, which starts them anew."""
    want, stream = take(batches(), 5), batches(workers=workers)
    assert_equal([next(stream) for _ in range(5)], want)
    stream.seek(1)
    assert stream.batches == 1
    assert_equal(take(stream, 4), want[1:])


def test_an_error_of_a_process_arrives():
    class Broken(Numbered):
        def __getitem__(self, index):
            raise ValueError(f"{self.task.name} {int(index) >= 0}: broken")

    sources = {name: Broken(name) for name in WEIGHTS}
    stream = row_batches(
        mix_groups(sources, WEIGHTS, 0), PACKER, DRAWS, seed=0, batch_size=4, workers=2
    )
    with pytest.raises(ValueError, match="text2image True: broken"):
        next(stream)
    stream.close()


ENDLESS = """
import itertools, multiprocessing
from tests.data.test_pipeline import batches

if __name__ == "__main__":
    for number, batch in enumerate(batches(workers=2)):
        if number == 3:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


def test_signals_are_the_trainers():
    """Readers go on after SIGTERM and SIGINT, and end when the process that they read for dies."""
    trainer = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    readers = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(readers) == 2
    for reader, number in zip(readers, (signal.SIGTERM, signal.SIGINT), strict=True):
        os.kill(reader, number)
    time.sleep(0.5)
    assert all(_runs(reader) for reader in readers) and trainer.poll() is None
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 20
    while any(_runs(reader) for reader in readers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


KILLED = """
import itertools, multiprocessing, os, signal, time
import numpy as np
from tests.data.test_pipeline import batches

if __name__ == "__main__":
    stream, want = batches(workers=2, prefetch=6), batches()
    for number in range(30):
        found = next(stream)
        assert all(np.array_equal(v, found[k]) for k, v in next(want).items()), number
        if number in (3, 29):  # on the way, and when nothing more is wanted
            time.sleep(1)  # their pipes are full
            multiprocessing.active_children()[number % 2].kill()
    stream.close()
    print("whole", [p for p in multiprocessing.active_children() if p.is_alive()])
"""


def test_killed_readers():
    """The same batches come, and the end is an end: nothing waits for what was never sent."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "whole []\n"
    assert "was ended by signal 9; reading starts again at batch" in ended.stderr


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("shares", [((0, 1), (2, 3)), ((0, 2), (3,), (1,))])
def test_processes_share_the_global_batch(shares):
    """Any rows of a batch may be read anywhere: together they are the batch."""
    parts = [take(batches(places=places), 3) for places in shares]
    order = np.argsort(np.concatenate(shares))
    joined = [
        {k: np.concatenate([part[step][k] for part in parts])[order] for k in parts[0][0]}
        for step in range(3)
    ]
    assert_equal(joined, take(batches(), 3))


def test_seek_continues_identically():
    """Also with another number of readers, and backwards."""
    want = take(batches(), 7)
    stream = batches(threads=3)
    stream.seek(4)
    assert stream.batches == 4
    found = list(itertools.islice(stream, 3))
    assert stream.batches == 7
    stream.seek(1)
    found += list(itertools.islice(stream, 1))
    stream.close()
    assert_equal(found, [*want[4:], want[1]])


def test_seed_changes_order_and_draws():
    one, other = take(batches(seed=0), 2), take(batches(seed=1), 2)
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(one, other, strict=True))
    assert any((a["clean"] != b["clean"]).any() for a, b in zip(one, other, strict=True))


def test_prompts_without_captions():
    """A quarter empty, half the token alone; where neither is drawn, and all else, as before."""
    stream = BatchSource(groups(), PACKER, Draws(0.5, 0.25, 0.5), 0, 4)
    before = BatchSource(groups(), PACKER, Draws(0.5, 0.25), 0, 4)
    found = {"": 0, "token": 0, "whole": 0}
    for row in range(40):
        for ours, theirs in zip(stream._row(row), before._row(row), strict=True):
            whole = ours.bundle.prompt
            token = f"[[{ours.bundle.task}]]"
            found[{"": "", token: "token", whole: "whole"}[ours.prompt]] += 1
            assert theirs.prompt in ("", whole) and (ours.prompt == "") == (theirs.prompt == "")
            np.testing.assert_array_equal(ours.bundle.frames, theirs.bundle.frames)
            assert (ours.clean, ours.generate) == (theirs.clean, theirs.generate)
    assert abs(found[""] - 40) < 20 and abs(found["token"] - 80) < 25 and found["whole"] > 20
    with pytest.raises(ValueError, match=r"caption_dropout \+ token_only_share = 1\.1"):
        Draws(0.5, 0.5, 0.6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_draws(share):
    """Caption dropout and clean share are the rates asked for; directions are even."""
    found = take(batches(draws=Draws(clean_share=1 - share, caption_dropout=share)), 100)
    clean = np.concatenate([b["clean"].ravel() for b in found])
    empty = np.concatenate([(b["text_mask"].sum(-1) == 1).ravel() for b in found])  # 1600 bundles
    assert abs(empty.mean() - share) <= (0.05 if 0 < share < 1 else 0)
    assert abs(clean.mean() - (1 - share)) <= (0.05 if 0 < share < 1 else 0)
    depth = np.concatenate([b["task"].ravel() for b in found]) == TASK_NAMES.index("depth2image")
    generate = np.concatenate([b["generate"] for b in found])  # frames: t2i, then 3 × 2
    assert generate[:, 0].all()
    forward = np.stack([generate[:, 1::2], generate[:, 2::2]], -1)
    assert (forward.sum(-1) == 1).all()
    both_ways = depth.reshape(-1, 4)[:, 1:]
    assert abs(forward[both_ways][:, 0].mean() - 0.5) < 0.06
    assert forward[~both_ways][:, 0].all()  # deblurring has one direction


FIELDS = {"seed": 0, "data": {"level": "simple", "tasks": {"depth2image": 2.0}}, "draws": [0.5]}


def test_hash_is_stable():
    fields = stream_fields(PACKER.layout, FIELDS)
    assert fields["rows"][:2] == [["t2i", 1, 4], ["i2i", 2, 4]]
    assert stream_hash(fields) == stream_hash(dict(reversed(fields.items())))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data": {"level": "rich", "tasks": {"depth2image": 2.0}}},
        {"data": {"level": "simple", "tasks": {"depth2image": 1.0}}},
        {"data": {"level": "simple", "tasks": {"depth2image": 2.0, "deblurring": 1.0}}},
        {"draws": [0.4]},
        {"rows": [["t2i", 1, 4]]},
        {"stream_version": 0},
    ],
)
def test_every_field_changes_the_hash(change):
    fields = stream_fields(PACKER.layout, FIELDS)
    assert stream_hash(fields | change) != stream_hash(fields)


def test_errors():
    def stream(weights, slots=SLOTS, **options):
        packer = RowPacker(RowLayout(tuple(slots)), PACKER.text_encoder)
        options = {"seed": 0, "batch_size": 4} | options
        return row_batches(groups(weights=weights), packer, DRAWS, **options)

    with pytest.raises(ValueError, match=r"slots for \['i2i'\], but no task"):
        stream({"text2image": 1.0, "depth2image": 0.0})
    with pytest.raises(ValueError, match=r"group \['i2i'\] have no slot"):
        stream(WEIGHTS, SLOTS[:1])
    with pytest.raises(ValueError, match=r"places=\(3, 4\) must be rows of .*batch_size=4"):
        stream(WEIGHTS, places=(3, 4))
    with pytest.raises(ValueError, match="weight of task depth2image is -1"):
        groups(weights={"depth2image": -1.0})
    with pytest.raises(ValueError, match=r"caption_dropout=1\.5 must be in 0\.\.1"):
        Draws(0.5, 1.5)
