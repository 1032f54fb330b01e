"""Prepared folders as the data of an experiment."""

import collections
import dataclasses

import numpy as np
import pytest

from onediff_jax.data.pipeline import stream_hash
from onediff_jax.data.prepared.dataset import CachedText, open_folders
from onediff_jax.data.rows import TASK_NAMES
from onediff_jax.experiment.build import make_experiment
from tests.data.prepared.fake import FakeSource, make_plan, prepare
from tests.data.prepared.test_local import make_encoders
from tests.experiments import shrunken

TASKS = ("text2image", "semanticmap2image", "faceid", "multiview")
ROWS = (("t2i", 1, 1, 16), ("i2i", 2, 2, 16), ("identity", 1, 3, 16), ("multiview", 1, 6, 16))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    prepare(root / "one", make_plan(FakeSource(each=48)))
    pictures = FakeSource(parts=2, each=40, kinds=("text2image",), size=(70, 49))
    prepare(root / "two", make_plan(pictures, aspects=("3:4",)))
    return {"one": str(root / "one"), "two": str(root / "two")}


def config_of(folders, tasks=TASKS, **changes):
    config = shrunken(rows=ROWS)
    config.unlock()
    for field in ("scenes", "level", "aspects", "seed", "cache_gib"):
        del config.data[field]
    config.data.name, config.data.encoder = "prepared", "light"
    config.data.folders, config.data.evaluate_on = folders, "held_out"
    for task in config.data.tasks:
        config.data.tasks[task] = float(task in tasks)
    for name, value in changes.items():
        section, field = name.split("__")
        config[section][field] = value
    return config.lock()


def batches(config, count, **kwargs):
    stream = make_experiment(config).batches(**kwargs)
    found = [next(stream) for _ in range(count)]
    stream.close()
    return found


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_rows_hold_every_group_and_repeat_exactly(folders):
    config = config_of((folders["one"],))
    rows = batches(config, 4)
    names = [TASK_NAMES[t] for t in rows[0]["task"][0]]
    assert names == ["text2image", "semanticmap2image", "semanticmap2image", "faceid", "multiview"]
    for readers in ({"threads": 3}, {"workers": 2}):
        assert all(equal(a, b) for a, b in zip(rows, batches(config, 4, **readers), strict=True))
    assert not equal(rows[0], rows[1])


def test_any_number_of_processes_and_any_start_give_the_same_rows(folders):
    config = config_of((folders["one"],))
    whole = batches(config, 3)
    halves = [batches(config, 3, places=places) for places in ((0,), (1,))]
    for batch, parts in zip(whole, zip(*halves, strict=True), strict=True):
        joined = {k: np.concatenate([part[k] for part in parts]) for k in batch}
        assert equal(batch, joined)
    stream = make_experiment(config).batches()
    stream.seek(2)
    assert equal(next(stream), whole[2])
    stream.close()


def test_folders_are_mixed_by_weight(folders):
    config = config_of(((folders["one"], 3.0), (folders["two"], 1.0)))
    assert set(make_experiment(config).sizes["t2i"]) == {(48, 80), (80, 48)}
    tall = [b["positions"][:, 0, :, 1].max(-1) == 4 for b in batches(config, 60)]
    assert 0.13 < np.mean(tall) < 0.37


def test_held_out_examples_are_other_ones(folders):
    experiment = make_experiment(config_of((folders["one"],)))
    train = experiment.bundles("text2image")
    held_out = experiment.bundles("text2image", held_out=True)
    keys = [{source[i].truth["key"] for i in range(len(source))} for source in (train, held_out)]
    assert keys[0] and keys[1] and not keys[0] & keys[1]
    assert held_out[0].prompt == held_out[0].prompt and held_out[0].frames[0].dtype == np.uint8
    with pytest.raises(ValueError, match="there are"):
        held_out[len(held_out)]


def test_the_stream_is_known_by_content_not_by_place(folders, tmp_path):
    prepare(tmp_path, make_plan(FakeSource(each=48)))
    fields = [
        make_experiment(config_of(((path, weight),))).stream_fields()
        for path, weight in ((folders["one"], 1.0), (str(tmp_path), 1.0), (folders["one"], 2.0))
    ]
    one, moved, weighted = map(stream_hash, fields)
    assert one == moved != weighted


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tasks": (*TASKS, "deblurring")}, "no folder of data.folders has .*deblurring"),
        ({"data__folders": ()}, "data.folders=.*must be a tuple"),
        ({"data__evaluate_on": "test"}, "evaluate_on='test' must be one of"),
        ({"data__encoder": "/vae"}, "holds pixels"),
        ({"data__name": "folder"}, "must be one of .*prepared"),
        ({"text__kind": "cached"}, "prepare --text=FOLDER"),
        ({"text__kind": "bert"}, "text.kind='bert' must be one of"),
        ({"text__kind": "t5"}, "needs text.folder"),
    ],
)
def test_bad_settings_are_named(folders, changes, message):
    tasks = changes.pop("tasks", TASKS)
    config = config_of((folders["one"],), tasks)
    config.unlock()
    for name, value in changes.items():
        section, field = name.split("__")
        config[section][field] = value
    with pytest.raises(ValueError, match=message):
        make_experiment(config)


def test_pictures_larger_than_the_slot_are_refused(folders):
    config = config_of((folders["one"],))
    config.unlock()
    config.rows = tuple((group, n, frames, 9) for group, n, frames, _ in ROWS)
    with pytest.raises(ValueError, match=r"pictures of 15 tokens .*--tokens=9"):
        make_experiment(config)


def test_no_held_out_examples(tmp_path):
    prepare(tmp_path, make_plan(FakeSource(each=12), held_out=0.0))
    config = config_of((str(tmp_path),))
    with pytest.raises(ValueError, match="evaluate_on='train'"):
        make_experiment(config)
    with config.unlocked():
        config.data.evaluate_on = "train"
    assert make_experiment(config).bundles("faceid", held_out=True)[0].task == "faceid"


def test_a_model_is_sampled_without_its_data(folders):
    config = config_of(("/nowhere",))
    with pytest.raises(ValueError, match="no prepared folder"):
        make_experiment(config)
    experiment = make_experiment(config, with_data=False)
    assert experiment.prepared is None
    assert set(experiment.sizes.values()) == {((64, 64), (48, 80), (80, 48))}  # what 16 tokens make


def test_cached_captions_reach_the_rows(tmp_path):
    source = FakeSource(each=24, kinds=("text2image", "semanticmap2image", "multiview"))
    pixels = dataclasses.replace(make_encoders(), pictures=None)
    prepare(tmp_path, dataclasses.replace(make_plan(source), make_encoders=lambda: pixels))
    tasks = ("text2image", "semanticmap2image", "multiview")
    config = config_of((str(tmp_path),), tasks)
    config.unlock()
    config.rows = tuple(row for row in ROWS if row[0] != "identity")
    config.text = {"kind": "cached", "max_length": 40, "folder": ""}
    config.model.caption_channels = 3
    config.train.caption_dropout, config.train.token_only_share = 0.3, 0.0
    seen = collections.Counter()
    for batch in batches(config, 20):
        assert batch["text"].dtype.name == "bfloat16" and batch["text"].shape[1:] == (4, 40, 3)
        for task, text, mask in zip(
            batch["task"].ravel(),
            batch["text"].reshape(-1, 40, 3),
            batch["text_mask"].reshape(-1, 40),
            strict=True,
        ):
            length = int(mask.sum())
            assert np.all(text[:length] == length) and not text[length:].any()
            seen[TASK_NAMES[task], length] += 1
    # Words: "[[text2image]] drei", "[[text2image]] one s0/3", 8 of the map's prompt, 1 of the empty
    # prompt and of the token of multiview.
    assert {n for task, n in seen if task == "text2image"} == {1, 2, 3}
    assert {n for task, n in seen if task == "semanticmap2image"} == {1, 7}
    assert {n for task, n in seen if task == "multiview"} == {1}
    config.model.caption_channels = 8
    with pytest.raises(ValueError, match=r"caption_channels=8, but .* 3"):
        make_experiment(config)


def test_cached_text_knows_the_empty_prompt_alone():
    encoder = CachedText(np.ones((1, 2)), 5)
    text, mask = encoder(["", ""])
    assert text.shape == (2, 5, 2) and mask.tolist() == [[True] + [False] * 4] * 2
    with pytest.raises(ValueError, match=r"text\.folder"):
        encoder(["", "a cat"])
    encoder = CachedText(np.ones((1, 2)), 5, lambda prompts: prompts)
    assert encoder(["a cat", ""]) == ["a cat", ""] and encoder([""])[0].shape == (1, 5, 2)


def test_folders_of_other_encoders_do_not_mix(folders, tmp_path):
    prepare(tmp_path, dataclasses.replace(make_plan(), make_encoders=make_encoders))
    with pytest.raises(ValueError, match="pictures of different encoders"):
        open_folders((folders["one"], str(tmp_path)))
    with pytest.raises(ValueError, match=r"weight .* is -1"):
        open_folders(((folders["one"], -1.0),))
