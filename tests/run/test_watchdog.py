"""The watchdog: what is a hang, what it says, how it ends."""

import multiprocessing
import subprocess
import sys
import time
import warnings

import pytest

from onediff_jax import exits
from onediff_jax.data.readers import ask_for_stacks, begin_reader
from onediff_jax.run.watchdog import Watchdog


def test_a_hang_is_told_once(tmp_path):
    with open(tmp_path / "said.txt", "w+") as output:
        watchdog = Watchdog(at_least={"a step": 0.2, "the next batch": 0.2}, output=output)
        with watchdog.waiting_for("the next batch"):
            pass
        with watchdog.waiting_for("a step"):
            time.sleep(0.7)
        watchdog.close()
        output.seek(0)
        said = output.read()
    assert said.count("watchdog: a step takes") == 1 and "the next batch" not in said
    assert "in test_a_hang_is_told_once" in said and "in _watch" in said  # every thread's stack


def test_ten_times_the_median():
    watchdog = Watchdog(at_least={"a step": 0.001})
    for _ in range(3):
        with watchdog.waiting_for("a step"):
            time.sleep(0.02)
    assert 0.2 <= watchdog.limit("a step") < 2
    watchdog.close()


def test_limits():
    """The first step may be compiled for long; later ones have a minute at least."""
    watchdog = Watchdog()
    assert watchdog.limit("a step") == 3600 and watchdog.limit("the next batch") == 60
    with watchdog.waiting_for("a step"):
        pass
    assert watchdog.limit("a step") == 60
    watchdog.close()


def test_it_ends_the_process():
    code = (
        "import time; from onediff_jax.run.watchdog import Watchdog\n"
        "with Watchdog('exit', at_least={'a save': 0.1}).waiting_for('a save'): time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == exits.HANGS.code
    assert "watchdog: a save takes" in ended.stderr and "ending with code 78" in ended.stderr


def test_reading_processes_are_asked_too(capfd):
    """One that knows how says where it is; one that would be ended by the signal goes on."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def read():
        begin_reader(0, 1)
        ready.set()
        time.sleep(60)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this process has threads; the child only sleeps
        processes = [context.Process(target=target) for target in (read, lambda: time.sleep(60))]
        for process in processes:
            process.start()
    assert ready.wait(30)
    ask_for_stacks(sys.stderr)
    said = capfd.readouterr().err
    assert f"Where process {processes[0].pid}" in said and "in read" in said
    assert f"Where process {processes[1].pid}" not in said and processes[1].is_alive()
    for process in processes:
        process.kill()
        process.join()


def test_error():
    with pytest.raises(ValueError, match=r"log.on_hang='stop' must be one of \('report', 'exit'\)"):
        Watchdog("stop")
