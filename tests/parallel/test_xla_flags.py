"""Options for the compiler: those that this version of it knows."""

import os

import jax
import pytest

from onediff_jax.parallel import xla_flags
from onediff_jax.parallel.xla_flags import compiler_options


def test_options_of_cpus_that_do_not_exist_are_left_out(monkeypatch):
    known = compiler_options("cpu")
    monkeypatch.setitem(xla_flags.CPU, "xla_cpu_no_such_option", True)
    assert compiler_options("cpu") == known == {n: xla_flags.CPU[n] for n in known}
    assert jax.jit(lambda x: x + 1, compiler_options=known)(1) == 2


def test_platforms():
    assert compiler_options("cuda") == compiler_options("gpu") == xla_flags.GPU
    assert compiler_options("tpu") == xla_flags.TPU and compiler_options("other") == {}


@pytest.mark.parametrize("given", [{}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}])
def test_memory_of_gpus(monkeypatch, given):
    monkeypatch.setattr(os, "environ", dict(given))
    xla_flags.set_memory_fraction()
    assert os.environ == given or os.environ == {"XLA_CLIENT_MEM_FRACTION": "0.92"}
    assert len(os.environ) == 1
