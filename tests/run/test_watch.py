"""Watching: rates and goodput by hand, what is compiled, the profile, memory."""

import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from onediff_jax.run import watch
from onediff_jax.run.watch import Clock, Compiles, ProfileWindow, Work, device_memory
from onediff_jax.scaling.peaks import peak_flops


def test_rates():
    work = Work(tokens=1000, flops=8e12, devices=4, peak=16e12)
    found = work.rates(2.0)
    assert found == {"tokens_per_second": 2000, "model_tflops_per_device": 4.0, "mfu": 0.25}
    assert "mfu" not in Work(1000, 8e12, 4, None).rates(2.0)


def test_peaks():
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("cpu") is None


@pytest.fixture
def now(monkeypatch):
    """Seconds that pass when the test says so."""
    found = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: found.seconds)
    monkeypatch.setattr(time, "time", lambda: 1e9 + found.seconds)
    return found


def test_clock(now):
    """Started 100 s after the first start, of which 30 s counted; then 10 s: 4 steps, 1 s waiting
    for data, 2 s on checkpoints.
    """
    clock = Clock(1e9, productive=30.0)
    assert clock.report() == {}  # no step, no rate
    for _ in range(4):
        clock.tick()
    clock.wait(1.0)
    clock.pause(2.0)
    now.seconds = 110.0
    assert clock.productive == pytest.approx(37.0)
    want = {"steps_per_second": 0.5, "step_seconds": 2.0, "data_wait": 0.125, "goodput": 37 / 110}
    assert clock.report() == pytest.approx(want)
    assert clock.productive == pytest.approx(37.0)
    clock.tick()
    now.seconds = 112.0
    assert clock.report()["steps_per_second"] == pytest.approx(0.5)
    assert clock.productive == pytest.approx(39.0)


@pytest.mark.parametrize("jump", [-(10.0**9), 10.0**9])
def test_a_clock_that_is_set_moves_no_goodput(now, monkeypatch, jump):
    """While the run goes on; and one that was set back before leaves a share of at most 1."""
    clock = Clock(1e9, productive=30.0)
    monkeypatch.setattr(time, "time", lambda: 1e9 + now.seconds + jump)
    clock.tick()
    now.seconds = 110.0
    assert clock.report()["goodput"] == pytest.approx(40 / 110)
    again = Clock(1e9, productive=40.0)
    again.tick()
    now.seconds = 120.0
    assert again.report()["goodput"] == pytest.approx(1.0 if jump < 0 else 0.0, abs=1e-6)


def test_compilation_is_not_productive(now):
    clock = Clock(1e9)
    clock.tick()
    now.seconds = 150.0
    clock.restart()
    clock.tick()
    now.seconds = 152.0
    assert clock.report() == pytest.approx(
        {"steps_per_second": 0.5, "step_seconds": 2.0, "data_wait": 0.0, "goodput": 2 / 152}
    )


def test_compiles():
    """Those of this thread, until it is closed."""
    x = jnp.arange(3.0)
    compiles = Compiles()
    double = jax.jit(lambda x: x * 2)
    for _ in range(2):
        double(x)
    assert compiles.count == 1 and compiles.seconds > 0
    other = threading.Thread(target=lambda: jax.jit(lambda x: x * 3)(x))
    other.start()
    other.join()
    assert compiles.count == 1
    compiles.close()
    jax.jit(lambda x: x * 4)(x)
    assert compiles.count == 1


def test_profile(tmp_path):
    x = jnp.arange(3.0)
    window = ProfileWindow(tmp_path, first=2, steps=2)
    ended = []
    for step in range(6):
        ended.append(window(step, x))
        x = x + 1
    window.close()
    assert ended == [False] * 4 + [True, False]
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_no_profile(tmp_path):
    window = ProfileWindow(tmp_path, first=0, steps=3)
    assert not any(window(step, None) for step in range(5))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"first": -1, "steps": 3}, {"first": 5, "steps": 0}])
def test_impossible_profiles(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"log.profile_at=.* log.profile_steps=.* ≥ 1"):
        ProfileWindow(tmp_path, **wrong)


def test_memory(monkeypatch):
    """Of the fullest device; the CPU counts nothing."""
    assert device_memory() == {}
    gib = 2**30
    stats = [
        {"bytes_in_use": 3 * gib, "peak_bytes_in_use": 4 * gib, "bytes_limit": 16 * gib},
        {"bytes_in_use": 2 * gib, "peak_bytes_in_use": 8 * gib, "bytes_limit": 16 * gib},
    ]
    devices = [SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(watch.jax, "local_devices", lambda: devices)
    assert device_memory() == {"hbm_gib": 3.0, "hbm_peak_gib": 8.0, "hbm_share": 3 / 16}
