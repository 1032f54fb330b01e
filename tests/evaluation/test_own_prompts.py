"""Requests of one's own while training: step 0's results stay at the left; what is due when."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from onediff_jax.evaluation import own_prompts
from onediff_jax.evaluation.own_prompts import OwnPrompts
from onediff_jax.run.observe import Observer
from tests.experiments import experiment


@pytest.fixture
def cells(monkeypatch):
    """What every sheet would show: (label, heading → pictures) per card, newest sheet last."""
    sheets = []
    monkeypatch.setattr(own_prompts, "draw_sheet", lambda rows: sheets.append(rows))
    return sheets


def sampler_of(value):
    """Answers every request with latents of one value."""
    codec = experiment().codec
    return lambda params, requests: [
        [np.full((4, 4, codec.channels), value, np.float32)] for _ in requests
    ]


def test_step_0_stays_at_the_left_also_after_a_restart(tmp_path, cells):
    file = tmp_path / "prompts.jsonl"
    line = {"task": "text2image", "prompt": "a red cube", "seed": 2}
    file.write_text(json.dumps(line) + "\n")
    prompts = OwnPrompts(experiment(), str(file))
    prompts(sampler_of(0.5), None, 0, tmp_path, write=True)
    again = OwnPrompts(experiment(), str(file))  # as a run that goes on
    again(sampler_of(-0.5), None, 10, tmp_path, write=True)
    (_, _, first), (_, _, later) = cells[0][0], cells[1][0]
    np.testing.assert_array_equal(first["step 0"][0], later["step 0"][0])
    assert not np.array_equal(later["step 0"][0], later["step 10"][0])
    file.write_text(json.dumps(line | {"seed": 3}) + "\n")
    OwnPrompts(experiment(), str(file))(sampler_of(0.1), None, 10, tmp_path, write=True)
    assert cells[2][0][2]["step 0"] == []  # another request: step 0 did not make it


def test_a_request_that_the_run_cannot_sample_is_named(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"task": "image2camera"}\n')
    with pytest.raises(ValueError, match="line 1: "):
        OwnPrompts(experiment(), str(file))
    file.write_text('{"task": "image_editing", "prompt": "x", "pictures": []}\n')
    with pytest.raises(ValueError, match="line 1: image_editing needs 1 or more images; got 0"):
        OwnPrompts(experiment(), str(file))
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    file.write_text('{"task": "image2canny", "pictures": ["a.png"]}\n')
    with pytest.raises(ValueError, match="request 1: this run does not train canny2image"):
        OwnPrompts(experiment(), str(file))


def test_what_is_due():
    log = SimpleNamespace(held_out_at=(3,), held_out_every=10, sample_every=4, evaluate_every=6)
    observer = object.__new__(Observer)
    observer._log, observer._total, observer._prompts = log, 13, object()
    due = {step: observer.due(step) for step in range(14)}
    assert due[0] == ["prompts"] and due[1] == [] and due[3] == ["loss"]
    assert due[4] == ["samples", "prompts"] and due[6] == ["evaluation"] and due[10] == ["loss"]
    assert due[12] == ["samples", "prompts", "evaluation"]
    assert due[13] == ["loss", "samples", "prompts", "evaluation"]  # the last step has all
    log.sample_every = log.evaluate_every = 0
    assert observer.due(12) == [] and observer.due(13) == ["loss"]
