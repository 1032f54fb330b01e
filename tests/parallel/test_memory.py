"""The estimate that refuses what cannot fit, before anything is compiled."""

import re

import jax
import pytest

from onediff_jax.experiment.build import make_experiment, param_count
from onediff_jax.parallel import memory
from onediff_jax.parallel.mesh import make_mesh
from tests.experiments import get_config, shrunken


@pytest.fixture(scope="module")
def released():
    return make_experiment(get_config("2b8"))


def mesh():
    return make_mesh(get_config().mesh, jax.devices()[:1])


def test_released_shape_is_refused_with_numbers(released, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda device: 16 * memory.GIB)
    count = param_count(released.shapes)
    assert count == 2_800_389_184
    with pytest.raises(ValueError, match="preset '2b8' does not fit") as error:
        memory.check_memory(released, count, mesh())
    numbers = re.findall(r"([\d,.]+) (?:parameters|rows|GiB)", str(error.value))
    assert numbers[:2] == ["2,800,389,184", "64"] and numbers[-1] == "16.0"
    needed = float(numbers[2].replace(",", ""))
    # 20 bytes of state per parameter are 52.2 GiB; the rest are 64 rows of activations.
    assert needed > 53
    missing = float(numbers[3].replace(",", ""))
    assert missing == pytest.approx(needed - 16, abs=0.11)
    assert "Choose a smaller preset or model, or 4 or more such devices" in str(error.value)


def test_state_and_activations(released):
    """Both shrink with what is split; activations grow with the rows."""
    from types import SimpleNamespace

    def need(**axes):
        shape = {"replica": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | axes
        return memory.needed_bytes(released, 10**9, SimpleNamespace(shape=shape))

    assert need(fsdp=4) == pytest.approx(need() / 4, rel=1e-6)
    assert need(replica=4) == pytest.approx((need() - 20e9) / 4 + 20e9, rel=1e-6)
    assert need(sequence=2) == pytest.approx((need() - 20e9) / 2 + 20e9, rel=1e-6)


def test_what_fits_passes():
    experiment = make_experiment(shrunken())
    memory.check_memory(experiment, param_count(experiment.shapes), mesh())


def test_cpu_devices_share_the_machine():
    found = memory.device_bytes(jax.devices()[0])
    assert 2**28 < found < 2**50
