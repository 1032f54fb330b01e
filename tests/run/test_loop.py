"""Training end to end, on the shrunken config: killed and resumed equals straight through."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from onediff_jax.parallel.program import RecompileError
from onediff_jax.run.checkpoint import CheckpointError, Checkpoints
from onediff_jax.run.incidents import Incident, LossWatch
from onediff_jax.run.loop import NotFiniteError, _Run, train
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.state import new_state
from onediff_jax.run.workdir import WorkdirError, load_config
from tests.experiments import experiment, shrunken

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = 40
CONFIG = {"train__steps": STEPS, "checkpoint__every_steps": 5, "train__products": "bfloat16"}


def losses(workdir: Path) -> dict[int, dict[str, float]]:
    """Step → what metrics.jsonl says about losses; of steps trained twice, the later line."""
    found = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        known = found.setdefault(values["step"], {})
        known.update({k: v for k, v in values.items() if k.startswith(("loss", "held_out"))})
    return found


def final_state(workdir: Path, step: int = STEPS):
    """Everything in the checkpoint of a step, as numpy arrays."""
    tx, _ = make_optimizer(experiment().config.optim, STEPS)
    shapes = jax.eval_shape(lambda: new_state(experiment().init_params(), tx))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), shapes
    )
    checkpoints = Checkpoints(workdir)
    _, state, data = checkpoints.restore(abstract, step)
    checkpoints.close()
    assert data.pop("productive_seconds") > 0
    return jax.tree.map(np.asarray, state), data


def assert_same(workdir: Path, straight: Path) -> None:
    """Bit for bit: parameters, EMA, optimizer, counters, the data's state, and every loss; only the
    time that it took differs.
    """
    (found, data), (want, want_data) = final_state(workdir), final_state(straight)
    assert data == want_data
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(want)]
    for name, a, b in zip(names, jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert losses(workdir) == losses(straight)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run of STEPS steps without interruption."""
    workdir = tmp_path_factory.mktemp("straight")
    train(shrunken(**CONFIG), workdir)
    return workdir


@pytest.fixture
def started(tmp_path):
    """Starts the same run in another process; ended with the test."""
    code = (
        "import sys; from tests.experiments import shrunken;"
        "from onediff_jax.run.loop import train;"
        f"train(shrunken(**{CONFIG!r}), sys.argv[1])"
    )
    processes = []

    def start(workdir: Path) -> subprocess.Popen:
        command = [sys.executable, "-c", code, str(workdir)]
        output = open(tmp_path / "output.txt", "w")  # noqa: SIM115 - closed below
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        processes.append((process, output))
        return process

    yield start
    for process, output in processes:
        process.kill()
        process.wait()
        output.close()


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Until metrics.jsonl has come that far."""
    file = workdir / "metrics.jsonl"
    until = time.monotonic() + 300
    while time.monotonic() < until:
        text = file.read_text() if file.exists() else ""
        if text.count("\n") and json.loads(text.splitlines()[text.count("\n") - 1])["step"] >= step:
            return
        assert process.poll() is None, "the run ended early"
        time.sleep(0.01)
    raise AssertionError(f"no step {step} in {text[-300:]}")


def steps_saved(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_straight_run(straight):
    """A line per step, finite and falling losses, held-out losses, the checkpoints that stay."""
    found = losses(straight)
    assert list(found) == list(range(1, STEPS + 1))
    assert all(np.isfinite(v) for values in found.values() for v in values.values())
    first, last = (np.mean([found[s]["loss"] for s in part]) for part in ((1, 2, 3), (38, 39, 40)))
    assert last < 0.98 * first
    watched = json.loads((straight / "metrics.jsonl").read_text().splitlines()[9])
    assert 0 < watched["goodput"] < 1 and 0 <= watched["data_wait"] < 1
    assert watched["tokens_per_second"] > 0 and watched["model_tflops_per_device"] > 0
    assert found[STEPS]["held_out"] > 0 and "held_out/depth2image" in found[STEPS]
    assert steps_saved(straight) == [STEPS - 5, STEPS]
    assert any(p.name.startswith("events.out.tfevents") for p in straight.iterdir())


def test_running_a_finished_run_again_changes_nothing(straight, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(straight, workdir)
    state = train(shrunken(**CONFIG), workdir)
    assert int(state.step) == STEPS
    assert_same(workdir, straight)


def test_a_finished_run_gets_more_steps(straight, tmp_path, capsys):
    """Only when it is said, as every step's learning rate changes with this schedule; what was
    trained stays, and nothing is told twice."""
    workdir = tmp_path / "copy"
    shutil.copytree(straight, workdir)
    longer = shrunken(**CONFIG | {"train__steps": STEPS + 20})
    with pytest.raises(WorkdirError, match=f"train.steps: {STEPS} .*--extend"):
        train(longer, workdir)
    assert_same(workdir, straight)
    with contextlib.ExitStack() as opened:
        run = _Run(longer, workdir, opened, False, False, extend=True)
        assert int(run.state.step) == STEPS
        told = capsys.readouterr().out
        assert f"train.steps grows from {STEPS} to {STEPS + 20}: at step {STEPS} the" in told
        assert load_config(workdir).train.steps == STEPS + 20
    assert_same(workdir, straight)


def test_terminated_and_resumed(straight, started, tmp_path):
    """SIGTERM saves where it is and exits with 0; meanwhile nobody else may have the folder."""
    workdir = tmp_path / "run"
    process = started(workdir)
    wait_for_step(process, workdir, 7)
    with pytest.raises(WorkdirError, match="in use by another process"):
        train(shrunken(**CONFIG), workdir)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "stopped by SIGTERM, checkpoint saved at step" in (tmp_path / "output.txt").read_text()
    stopped = steps_saved(workdir)[-1]
    assert 7 <= stopped < STEPS
    train(shrunken(**CONFIG), workdir)
    assert_same(workdir, straight)


def test_killed_and_resumed(straight, started, tmp_path):
    """SIGKILL: goes on from the newest whole checkpoint."""
    workdir = tmp_path / "run"
    process = started(workdir)
    wait_for_step(process, workdir, 12)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert 5 <= steps_saved(workdir)[-1] < STEPS
    train(shrunken(**CONFIG), workdir)
    assert_same(workdir, straight)


def test_another_config_is_refused(straight, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(straight, workdir)
    with pytest.raises(WorkdirError, match=r"data\.scenes: 64 in the workdir, 65 now") as error:
        train(shrunken(**CONFIG, data__scenes=65, optim__b2=0.95), workdir)
    assert "optim.b2: 0.99 in the workdir, 0.95 now" in str(error.value)
    # Without the config, its copy in the checkpoint is compared.
    (workdir / "config.json").unlink()
    with pytest.raises(WorkdirError, match=r"data\.scenes: 64 in the workdir, 65 now"):
        train(shrunken(**CONFIG, data__scenes=65), workdir)
    # Without that one, as in older runs, the checkpoint refuses by the field of the stream.
    for file in (workdir / "checkpoints").glob("*/sums.json"):
        about = json.loads(file.read_text())
        del about["config"]
        file.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"data\.scenes: 64 in the checkpoint, 65 now"):
        train(shrunken(**CONFIG, data__scenes=65), workdir)
    assert not (workdir / "config.json").exists()  # a refused start writes nothing
    with pytest.raises(CheckpointError, match="another model or optimizer") as error:
        train(shrunken(**CONFIG, model__hidden_size=96), workdir)
    assert "q_norm/bias: saved (2, 48), this config (2, 96)" in str(error.value)


def test_bad_steps_are_survived_and_a_run_of_them_stops(tmp_path, monkeypatch):
    """Batches that are not finite: one at step 4, and all from step 8 on."""
    good = _Run.to_devices

    def to_devices(self, batch, rows):
        if self.batches.batches == 4 or self.batches.batches >= 8:
            batch = {**batch, "tokens": np.full_like(batch["tokens"], np.inf)}
        return good(self, batch, rows)

    monkeypatch.setattr(_Run, "to_devices", to_devices)
    message = r"3 steps in a row .* up to step \d+; the last checkpoints are \[5"
    with pytest.raises(NotFiniteError, match=message) as error:
        train(shrunken(**CONFIG, train__max_skipped=3), tmp_path)
    assert "Lower optim.learning_rate" in str(error.value)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    skipped = {line["step"]: line["skipped"] for line in lines}
    assert skipped[min(s for s in skipped if s >= 4)] == 1
    assert skipped[max(skipped)] >= 4


def test_going_back_without_the_example_behind_a_spike(tmp_path, monkeypatch):
    """One slot of batch 27 is a hundred times too bright: the run goes back to step 25, leaves that
    example out, and ends. The line names it.
    """
    good = _Run.to_devices
    slot = experiment().layout.chunk_slot == 1

    def to_devices(self, batch, rows):
        if self.batches.batches == 27:
            batch["tokens"][0, slot] *= 100
        return good(self, batch, rows)

    monkeypatch.setattr(_Run, "to_devices", to_devices)
    rewind = {"train__steps": 30, "train__on_spike": "rewind", "log__every_steps": 4}
    config = shrunken(**CONFIG | rewind)
    state = train(config, tmp_path)
    (line,) = (tmp_path / "incidents.jsonl").read_text().splitlines()
    line = json.loads(line)
    (example,) = line["examples"]
    assert (line["step"], line["kind"], line["action"]) == (27, "outlying loss", "goes back")
    assert (example["row"], example["slot"]) == (0, 1)
    assert example["task"] in example["example"] and example["loss"] > 100
    assert int(state.step) == 30 and int(state.skipped) == 0
    data = final_state(tmp_path, 30)[1]
    assert data["left_out"] == [[example["example"], 26]]
    steps = [json.loads(text)["step"] for text in (tmp_path / "metrics.jsonl").open()]
    assert steps == [4, 8, 12, 16, 20, 24, 28, 30, 30]
    # Where it went back to does not show: without the checkpoints before, to the start.
    far = CONFIG | rewind | {"checkpoint__every_steps": 1000}
    other = train(shrunken(**far), tmp_path / "far")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(other), jax.device_get(state))
    # A start after that knows what was left out: the same bits again.
    shutil.rmtree(tmp_path / "checkpoints" / "30")
    again = train(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(state))


def test_a_signal_is_not_forgotten_on_the_way_back(tmp_path, monkeypatch, capsys):
    """An incident that is found while the run ends: it goes back, saves there, and ends."""
    good, see, told = _Run._advance, LossWatch.see, []

    def advance(self, step, batch):
        good(self, step, batch)
        if step == 6 and not told:
            os.kill(os.getpid(), signal.SIGTERM)

    def seen(self, step, metrics, skipped):
        found = see(self, step, metrics, skipped)
        if step != 6 or told:
            return found
        told.append(step)
        return Incident(6, "outlying loss", {}, ((0, 0, 1e9),), False)

    monkeypatch.setattr(_Run, "_advance", advance)
    monkeypatch.setattr(LossWatch, "see", seen)
    changes = {"train__steps": 12, "checkpoint__every_steps": 4, "log__every_steps": 100}
    state = train(shrunken(**CONFIG | changes, train__on_spike="rewind"), tmp_path)
    assert int(state.step) == 4
    assert "stopped by SIGTERM, checkpoint saved at step 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mesh__tensor": 2}, "multiplies to 2, but there are 1 devices"),
        ({"train__steps": 0}, "train.steps=0 must be positive"),
        ({"optim__warmup_steps": 8}, r"optim.warmup_steps=8 must be in 0\.\.7"),
        ({"checkpoint__keep_last": 0}, "keep_last=0"),
    ],
)
def test_refused_before_anything_is_compiled(tmp_path, changes, message):
    began = time.monotonic()
    with pytest.raises(ValueError, match=message):
        train(shrunken(**changes), tmp_path / "run")
    assert time.monotonic() - began < 10
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_step_that_would_be_compiled_again_stops(tmp_path, monkeypatch):
    """Here the captions of one batch lose a word."""
    good = _Run.to_devices

    def to_devices(self, batch, rows):
        if self.batches.batches == 4:
            batch = {k: v[:, :, 1:] if k.startswith("text") else v for k, v in batch.items()}
        return good(self, batch, rows)

    monkeypatch.setattr(_Run, "to_devices", to_devices)
    message = r"the train step would have to be compiled again: (.|\n)*\['text'\]"
    with pytest.raises(RecompileError, match=message):
        train(shrunken(**CONFIG), tmp_path)
    assert list(losses(tmp_path)) == [1, 2, 3]
