"""Compiled once, for what it was first called with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onediff_jax.parallel.program import Program, RecompileError


def double() -> jax.stages.Wrapped:
    return jax.jit(lambda batch: batch["x"] * 2)


def test_one_compilation():
    program = Program(double(), "the step")
    for value in (1.0, 2.0):
        np.testing.assert_array_equal(program({"x": jnp.full(3, value)}), [2 * value] * 3)
    assert program.compiled == 1


def test_processes_meet_once_it_is_compiled(monkeypatch):
    """Whoever compiles faster must not wait inside its collectives: these have a time limit."""
    met = []
    monkeypatch.setattr("onediff_jax.parallel.program.meet", lambda: met.append(len(met)))
    program = Program(double(), "the step")
    for _ in range(3):
        program({"x": jnp.ones(3)})
    assert met == [0]


def test_another_is_refused_with_what_differs():
    program = Program(double(), "the step")
    program({"x": jnp.ones(3)})
    message = r"the step would have to be compiled again: (.|\n)*float32\[3\].*float32\[4\]"
    with pytest.raises(RecompileError, match=message):
        program({"x": jnp.ones(4)})
    assert program.compiled == 1


def test_or_allowed():
    program = Program(double(), "the step", allow_recompile=True)
    assert program({"x": jnp.ones(3)}).shape == (3,)
    assert program({"x": jnp.ones(4)}).shape == (4,)
    assert program.compiled == 2
