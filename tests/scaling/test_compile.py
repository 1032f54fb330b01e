"""What compiles for machines that are not here: too large, or no compiler."""

import importlib.util
from types import SimpleNamespace

import pytest

from onediff_jax.scaling.chips import GIB, topology_of
from onediff_jax.scaling.compile import DoesNotFit, compile_program, peak_bytes
from onediff_jax.scaling.compilers import UNTRIED, check_compiler


class Compiled:
    """Arguments of 5 GiB, updated in place but for 1 GiB, and temporaries."""

    def __init__(self, temporaries: float):
        self.temporaries = temporaries

    def memory_analysis(self) -> SimpleNamespace:
        return SimpleNamespace(
            argument_size_in_bytes=5 * GIB,
            temp_size_in_bytes=int(self.temporaries * GIB),
            output_size_in_bytes=5 * GIB,
            alias_size_in_bytes=4 * GIB,
            peak_memory_in_bytes=GIB,
        )


def program(temporaries: float) -> SimpleNamespace:
    def compile(compiler_options):
        assert UNTRIED.items() <= compiler_options.items()
        return Compiled(temporaries)

    return SimpleNamespace(lowered=SimpleNamespace(compile=compile))


def test_memory_of_a_gpu():
    assert peak_bytes(Compiled(2.0)) == 8 * GIB
    assert compile_program(program(60.0), topology_of("h100:8")).temporaries == 60.0
    assert compile_program(program(100.0), topology_of("h200:8")).temporaries == 100.0
    with pytest.raises(DoesNotFit, match="needs 76.00 GiB of a h100 chip's 72.77 GiB .* 3.23 GiB"):
        compile_program(program(70.0), topology_of("h100:8"))


@pytest.mark.parametrize(
    "platform, message", [("tpu", "pip install libtpu=="), ("gpu", r"pip install 'jax\[cuda13\]'")]
)
def test_a_missing_compiler(monkeypatch, platform, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        check_compiler(platform)
