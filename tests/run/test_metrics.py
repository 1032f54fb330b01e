"""What a run reports: lines that can be read back, means per task."""

import json

import jax.numpy as jnp
import numpy as np
from PIL import Image

from onediff_jax.data.rows import TASK_NAMES
from onediff_jax.run.metrics import (
    Reporter,
    Results,
    add_sums,
    console_line,
    memory_peak_gib,
    step_means,
    task_means,
    time_left,
)


def test_lines_are_json_also_when_a_loss_is_not(tmp_path):
    reporter = Reporter(tmp_path)
    reporter.scalars(3, {"loss": 0.5, "grad_norm": float("nan"), "loss/depth2image": np.inf})
    reporter.scalars(4, {"loss": 0.25})
    reporter.image(4, "samples", np.zeros((8, 8, 3), np.uint8))
    reporter.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 3, "loss": 0.5, "grad_norm": "nan", "loss/depth2image": "inf"},
        {"step": 4, "loss": 0.25},
    ]
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert Image.open(tmp_path / "samples" / "0000004.png").size == (8, 8)


def test_a_second_start_appends(tmp_path):
    for step in (1, 2):
        reporter = Reporter(tmp_path)
        reporter.scalars(step, {"loss": 1.0})
        reporter.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_other_processes_are_silent(tmp_path, capsys):
    reporter = Reporter(tmp_path, is_writer=False)
    reporter.scalars(1, {"loss": 1.0})
    reporter.say("hello")
    reporter.close()
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_means_per_task():
    """Sums of two steps; tasks without tokens are left out."""
    tokens = np.zeros(len(TASK_NAMES))
    tokens[[0, 3]] = 4, 2
    step = {"task_loss": tokens * 0.5, "task_tokens": tokens}
    other = {"task_loss": tokens * 1.5, "task_tokens": tokens}
    sums = add_sums(add_sums(None, step), other)
    assert sums["task_tokens"].dtype == np.float64
    assert task_means(sums) == {f"loss/{TASK_NAMES[0]}": 1.0, f"loss/{TASK_NAMES[3]}": 1.0}
    assert list(task_means(sums, "held_out")) == [f"held_out/{TASK_NAMES[i]}" for i in (0, 3)]


def test_results_wait_on_the_devices():
    """Taken in order up to a step; the newest may still run."""
    results = Results()
    assert results.idle and results.newest is None and results.fetch(5) == []
    results.settle()
    for step in (1, 2, 3):
        results.add(step, {"loss": jnp.float32(step)})
    results.settle(ahead=1)
    assert [(n, float(found["loss"])) for n, found in results.fetch(2)] == [(1, 1), (2, 2)]
    assert float(results.newest["loss"]) == 3
    results.settle()
    assert results.idle
    assert [(n, float(found["loss"])) for n, found in results.fetch(3)] == [(3, 3)]


def test_means_of_steps_weigh_tokens():
    """4 tokens at 1 and 12 at 0.5; sums that float32 would round are exact."""
    tokens = np.zeros(len(TASK_NAMES), np.float32)
    tokens[2] = 4
    step = {"task_loss": tokens, "task_tokens": tokens, "valid_tokens": 6.0, "all_tokens": 8.0}
    other = step | {"task_loss": tokens * 1.5, "task_tokens": tokens * 3, "valid_tokens": 2.0}
    found = step_means([step, other])
    assert found == {"loss": 0.625, f"loss/{TASK_NAMES[2]}": 0.625, "padding": 0.5}
    large = step | {"task_loss": np.float32(2**24) * (tokens > 0)}
    assert step_means([large, step])["loss"] == (2**24 + 4) / 8


def test_console_line():
    values = {"loss": 0.5, "loss/depth2image": 0.25, "steps_per_second": 2.0, "data_wait": 0.125}
    line = console_line(10, 7210, values | {"mfu": 0.4567})
    assert line == (
        "step 10/7210  2.00 steps/s  left 1:00:00  wait 12.5%  MFU 45.7%  loss 0.5000  | "
        "depth2image 0.250"
    )
    assert console_line(10, 20, {"loss": 0.5}) == "step 10/20  loss 0.5000  | "


def test_time_left():
    assert time_left(7200, 2.0) == "1:00:00"
    assert time_left(59, 1.0) == "0:00:59"


def test_memory_peak():
    assert 0.01 < memory_peak_gib() < 1000
