"""The proof, with a stand-in for training: what it starts, kills, compares and says."""

import subprocess
from typing import ClassVar

import pytest

from onediff_jax import prove
from onediff_jax.files import write_json


class Training:
    """Ends at its third start in a folder; until then it saves one step more and goes on."""

    starts: ClassVar[dict[str, int]] = {}
    broken = False
    code = 0

    def __init__(self, of_config, workdir, folder):
        assert "--config.train.steps=4" in of_config
        assert "--config.checkpoint.every_steps=1" in of_config
        (folder / "log").write_text("first\nwhat it said last\n")
        number = self.starts[workdir.name] = self.starts.get(workdir.name, 0) + 1
        self.ends = workdir.name == "whole" or number > 2
        sums = {"params/kernel": "0000aaaa", "step": "00000004"}
        if self.broken and workdir.name == "killed":
            sums["params/kernel"] = "0000aaab"
        saved = workdir / "checkpoints" / str(4 if self.ends else number)
        saved.mkdir(parents=True, exist_ok=True)
        write_json(saved / "sums.json", {"arrays": sums})
        self.killed = False

    def wait(self, timeout=None):
        if not self.ends and not self.killed and not self.code:
            raise subprocess.TimeoutExpired("train", timeout)
        return self.code

    def kill(self):
        self.killed = True


@pytest.fixture
def training(monkeypatch):
    monkeypatch.setattr(prove, "_start", Training)
    monkeypatch.setattr(Training, "starts", {})
    return monkeypatch


ARGUMENTS = ["--config=x.py", "--kills=2", "--steps=4"]


def test_the_same_bits(training, capsys):
    assert prove.main(ARGUMENTS) == 0
    said = capsys.readouterr().out
    assert "kill 1: the newest checkpoint is 1\nkill 2: the newest checkpoint is 2" in said
    assert "bit-identical: 2 arrays after 4 steps, 2 kills" in said
    assert Training.starts == {"whole": 1, "killed": 3}


def test_what_differs_is_named(training, capsys):
    training.setattr(Training, "broken", True)
    assert prove.main(ARGUMENTS) == 1
    assert "DIFFERENT in 1 of 2 arrays: params/kernel" in capsys.readouterr().out


def test_a_run_that_fails_by_itself_proves_nothing(training, capsys):
    training.setattr(Training, "code", 1)
    with pytest.raises(SystemExit) as ended:
        prove.main(ARGUMENTS)
    assert ended.value.code == 1
    assert "ended with exit code 1: what it said last" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        prove.main(["--kills=2"])
    assert ended.value.code == 2
