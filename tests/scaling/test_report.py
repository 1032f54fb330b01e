"""The report: numbers from a compiled program, its table, full-weight sums named."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import pytest

from onediff_jax.scaling.chips import GIB, topology_of
from onediff_jax.scaling.collectives import Collective
from onediff_jax.scaling.costs import costs_of
from onediff_jax.scaling.flops import Flops
from onediff_jax.scaling.report import full_weight_all_reduces, make_report, table
from tests.scaling.fakes import layers, mesh

SHAPES = {
    "attention": {"wq": (3, 512, 512)},
    "feed_forward": {"w1": (3, 512, 1024), "w2": (3, 1024, 512)},
}
MEMORY = SimpleNamespace(
    argument_size_in_bytes=3 * GIB,
    temp_size_in_bytes=4 * GIB,
    output_size_in_bytes=3 * GIB,
    alias_size_in_bytes=2 * GIB,
    generated_code_size_in_bytes=1000,
    peak_memory_in_bytes=5 * GIB,
)


@pytest.fixture(scope="module")
def program():
    params = {
        "layers": {
            part: {
                name: {"kernel": jax.ShapeDtypeStruct(shape, "float32")}
                for name, shape in matrices.items()
            }
            for part, matrices in SHAPES.items()
        }
    }
    config = SimpleNamespace(name="layers", model=SimpleNamespace(remat="kernels"))
    return SimpleNamespace(
        experiment=SimpleNamespace(config=config, layout=SimpleNamespace(tokens=256)),
        mesh=mesh("v5e:2x2", 2, 2),
        batch={"tokens": jax.ShapeDtypeStruct((8, 1, 256, 64), "float32")},
        state=SimpleNamespace(params=params),
    )


@pytest.fixture(scope="module")
def report(program):
    compiled = SimpleNamespace(memory_analysis=lambda: MEMORY)
    model = Flops(dense=4 * 12_079_595_520, attention=4 * 10**9)
    topology = topology_of("v5e:2x2")
    uses = {"256 × 256": "splash"}
    return make_report(program, compiled, costs_of(layers()), model, topology, uses)


def test_numbers(report):
    assert (report["chips"], report["rows"], report["tokens_per_row"]) == (4, 8, 256)
    assert report["parameters"] == 3 * (512 * 512 + 2 * 512 * 1024)
    assert report["memory"]["peak"] == 8 * GIB  # more than XLA's own: nothing is freed early
    assert report["flops"]["executed_dense_over_model_dense"] == pytest.approx(1.2)
    assert report["flops"]["kernels_not_counted"] == []
    assert report["full_weight_all_reduces_in_loops"] == []
    where = {(c["where"], c["kind"]): c for c in report["collectives"]}
    scatter = where["backward", "reduce-scatter"]
    assert scatter["axes"] == ["fsdp"] and scatter["passes"] == 3
    assert scatter["bytes_per_pass"] == 2 * (512 * 512 + 2 * 512 * 1024)
    assert 0 < report["roofline"]["mfu"] < 1
    json.dumps(report)


def test_table(report):
    text = table(report)
    for line in (
        "layers on v5e:2x2: 4 chips, replica 2 × fsdp 2",
        "| temporaries, GiB | 4.00 |",
        "| executed ÷ model, dense | 1.200 |",
        "| reduce-scatter | fsdp | backward | 1 | 2.6 | 3 | no |",
        "no full-weight all-reduce in a loop",
    ):
        assert line in text.splitlines()
    assert all(f"- {a}" in text for a in report["roofline"]["assumptions"])


@pytest.mark.parametrize(
    "changes, like",
    [
        ({}, ["layers/feed_forward/w1/kernel", "layers/feed_forward/w2/kernel"]),
        ({"sizes": (550_000,)}, ["layers/feed_forward/w1/kernel", "layers/feed_forward/w2/kernel"]),
        ({"sizes": (512 * 512,)}, ["layers/attention/wq/kernel"]),
        ({"sizes": (400_000,)}, None),  # no matrix is that large, padded or not
        ({"group": (0, 2)}, None),  # over replica: of parts
        ({"loop": ""}, None),
        ({"kind": "reduce-scatter"}, None),
    ],
)
def test_full_weights_summed_in_a_loop_are_named(program, changes, like):
    costs = costs_of(layers())
    loop = next(name for name, label in costs.labels.items() if label == "backward")
    one = Collective("all-reduce", (512 * 1024,), 2.0 * 512 * 1024, 3, loop, False, (0, 1))
    costs.collectives = [dataclasses.replace(one, **changes)]
    found = full_weight_all_reduces(costs, program)
    assert [(f["where"], f["like"]) for f in found] == ([("backward", like)] if like else [])
