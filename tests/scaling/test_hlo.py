"""Reading programs: a real one, and lines that it lacks."""

import pytest

from onediff_jax.scaling.costs import costs_of
from onediff_jax.scaling.hlo import Array, arrays_of, parse
from tests.scaling.fakes import layers

LOOP = """\
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%less (p: s32[], q: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %q = s32[] parameter(1)
  ROOT %lt.1 = pred[] compare(%p, %q), direction=LT
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %limit = s32[] constant(7)
  %state = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %fused = pred[] fusion(%i, %limit), kind=kLoop, calls=%less
}

%body (state.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %state.1 = (s32[], f32[8]{0}) parameter(0)
}

ENTRY %main (x: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = (s32[], f32[8]{0}) parameter(0)
  ROOT %while.1 = (s32[], /*index=1*/f32[8]{0}) while(%x), condition=%condition, body=%body
}
"""


def test_arrays():
    found = arrays_of("(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:T(256)(128)(2,1)S(1)}, pred[])")
    assert found == (Array("f32", (2, 3)), Array("bf16", (4,), 1), Array("pred", ()))
    assert [array.bytes for array in found] == [24, 8, 1]


def test_loops_and_what_runs_in_them():
    runs = [(r.computation.name, r.times, r.loops) for r in parse(LOOP).runs()]
    assert runs == [("main", 1, ()), ("body", 7, ("body",))]


def test_trip_count_that_xla_knows():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"12"},"flag":0}'
    assert [r.times for r in parse(LOOP.replace("body=%body", known)).runs()] == [1, 12]


SPARSE = """\
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%called (p: bf16[64,8], t: token[]) -> bf16[16,8] {
  %t = token[] parameter(1)
  %p = bf16[64,8]{1,0} parameter(0)
  ROOT %scattered = bf16[16,8]{1,0} reduce-scatter(%p), replica_groups={{0,1,2,3}}, to_apply=%add
}, execution_thread="sparsecore"

ENTRY %main (x: bf16[64,8]) -> bf16[16,8] {
  %x = bf16[64,8]{1,0} parameter(0)
  %ready = token[] after-all()
  %start = ((bf16[64,8]{1,0}, token[]), bf16[16,8]{1,0}) call-start(%x, %ready), \
async_execution_thread="sparsecore", to_apply=%called
  ROOT %done = bf16[16,8]{1,0} call-done(%start)
}
"""


def test_what_sparse_cores_do_beside_the_rest():
    module = parse(SPARSE)
    assert [(r.computation.name, r.asynchronous) for r in module.runs()] == [
        ("main", False),
        ("called", True),
    ]
    (one,) = costs_of(module).collectives
    assert (one.kind, one.bytes, one.times, one.asynchronous) == ("reduce-scatter", 1024, 1, True)
    assert one.group == (0, 1, 2, 3)


@pytest.mark.parametrize("old, new", [("=LT", "=NE"), ("constant(7)", "parameter(1)")])
def test_a_loop_that_cannot_be_counted_is_not_guessed(old, new):
    with pytest.raises(ValueError, match="cannot read how often %while.1 runs from %condition"):
        list(parse(LOOP.replace(old, new)).runs())


def test_not_a_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing")


def test_a_program_for_tpus():
    """Forward and backward over three layers; kernels with attributes over several lines."""
    module = layers()
    assert [run.times for run in module.runs()] == [1, 3, 3]
    names = [i.name for run in module.runs() for i in run.computation.instructions]
    assert sum(name.startswith("splash_mha_fwd") for name in names) == 1
    assert sum(name.startswith("splash_mha_dkv") for name in names) == 1
    for computation in module.computations.values():
        assert computation.root.arrays
        for instruction in computation.instructions:
            assert all(name in computation.by_name for name in instruction.operands)
