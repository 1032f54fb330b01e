"""The search over batches, recomputation and meshes, with a measure that is a formula."""

import pytest

from onediff_jax.models.remat import REMATS
from onediff_jax.scaling.chips import GIB, topology_of
from onediff_jax.scaling.compile import DoesNotFit
from onediff_jax.scaling.search import rows_per_second, search
from tests.experiments import get_config

POD = topology_of("v5e:4x4")
KEPT = dict(zip(REMATS, (9.0, 3.0, 2.6, 2.5, 1.2, 0.5), strict=True))  # GiB per row and chip
SLOWNESS = dict(zip(REMATS, (1.0, 1.17, 1.2, 1.25, 1.33, 1.34), strict=True))


class Machine:
    """Reports memory and time by formulas; `tried` is what was compiled."""

    def __init__(self):
        self.tried = []

    def __call__(self, config):
        mesh, remat, rows = dict(config.mesh), config.model.remat, config.train.batch_rows
        self.tried.append((mesh["fsdp"], remat, rows))
        each = rows / (mesh["replica"] * mesh["fsdp"])
        peak = (1.0 + 8.0 / mesh["fsdp"] + each * KEPT[remat]) * GIB
        if peak > 16 * GIB:
            raise DoesNotFit("too large")
        seconds = SLOWNESS[remat] * each + 0.1 * (mesh["fsdp"] / 4) ** 0.5
        return {
            "mesh": mesh,
            "remat": remat,
            "rows": rows,
            "memory": {"peak": peak, "chip": 16 * GIB},
            "roofline": {"step": seconds, "mfu": 0.5},
        }


def config(**fields):
    found = get_config("2b8")
    found.update_from_flattened_dict({name.replace("__", "."): v for name, v in fields.items()})
    return found


def test_largest_batch():
    """Memory grows in proportion, so few compilations find it."""
    machine, said = Machine(), []
    start = config(mesh__replica=4, mesh__fsdp=4, model__remat="kernels")
    best = search(start, POD, ["batch"], machine, said.append)
    assert best["rows"] == 16 * 10  # (16 − 1 − 2 GiB) ÷ 1.2 GiB
    assert len(machine.tried) <= 4 and len(said) == len(machine.tried)
    assert [t["rows"] for t in best["tried"]] == sorted({r for *_, r in machine.tried if r <= 160})
    assert start == config(mesh__replica=4, mesh__fsdp=4, model__remat="kernels")  # unchanged


def test_memory_that_does_not_grow_in_proportion():
    """A first guess that is far too large is halved until it fits."""
    machine = Machine()

    def bent(config):
        report = machine(config)
        rows = report["rows"] / 16
        peak = (1.0 + 0.1 * rows if rows <= 2 else 0.4 * rows) * GIB
        if peak > 16 * GIB:
            raise DoesNotFit("too large")
        return report | {"memory": {"peak": peak, "chip": 16 * GIB}}

    start = config(mesh__replica=4, mesh__fsdp=4, model__remat="full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KEPT, "full", 0.01)
        best = search(start, POD, ["batch"], bent, lambda text: None)
    assert 16 * 36 <= best["rows"] <= 16 * 40  # 16 ÷ 0.4


def test_remat_and_mesh():
    machine = Machine()
    best = search(config(train__batch_rows=64), POD, ["remat", "mesh"], machine, lambda text: None)
    assert (best["mesh"]["fsdp"], best["remat"], best["rows"]) == (4, "feed_forward", 64)
    assert rows_per_second(best) == max(t["rows_per_second"] for t in best["tried"])
    assert {fsdp for fsdp, *_ in machine.tried} == {4, 16}
    assert {remat for _, remat, _ in machine.tried} == set(REMATS)


def test_nothing_fits():
    start = config(mesh__replica=4, mesh__fsdp=4, model__remat="none", train__batch_rows=1024)
    with pytest.raises(DoesNotFit, match="nothing that was tried fits v5e:4x4"):
        search(start, POD, ["mesh"], Machine(), lambda text: None)


def test_unknown_name():
    with pytest.raises(ValueError, match="--search=batch,speed must be some of batch,remat,mesh"):
        search(config(), POD, ["batch", "speed"], Machine())
