"""What `aot` prints: everything about a compiled step that decides whether to rent the machines."""

import dataclasses
import math
from typing import Any

import jax

from onediff_jax.experiment.build import param_count
from onediff_jax.parallel.sharding import path_name, spec_of
from onediff_jax.scaling.chips import GIB, Topology
from onediff_jax.scaling.collectives import KINDS, Collective
from onediff_jax.scaling.compile import memory_of, peak_bytes
from onediff_jax.scaling.costs import Costs
from onediff_jax.scaling.flops import Flops
from onediff_jax.scaling.program import Program
from onediff_jax.scaling.roofline import assumptions, mesh_axes, roofline

_PADDING = 1.1  # a matrix may have grown by so much to fit the lanes


def make_report(
    program: Program,
    compiled: jax.stages.Compiled,
    costs: Costs,
    model: Flops,
    topology: Topology,
    kernels: dict[str, str],
) -> dict[str, Any]:
    """A JSON-like dict; bytes, FLOPs and seconds are of one chip and one step.

    Args:
      model: of the whole step.
      kernels: which implementation attention uses where.
    """
    config, mesh = program.experiment.config, program.mesh
    chips = mesh.devices.size
    kernel_flops = sum(k.flops * k.times for k in costs.kernels if k.flops is not None)
    bound = roofline(costs, kernel_flops, model.total / chips, mesh, topology)
    return {
        "config": config.name,
        "topology": topology.name,
        "chips": chips,
        "mesh": dict(mesh.shape),
        "rows": len(program.batch["tokens"]),
        "tokens_per_row": program.experiment.layout.tokens,
        "remat": config.model.remat,
        "attention": kernels,
        "parameters": param_count(program.state.params),
        "memory": _memory(compiled, topology),
        "flops": {
            "model_dense": model.dense / chips,
            "model_attention": model.attention / chips,
            "executed_dense": costs.flops,
            "executed_kernels": kernel_flops,
            "executed_dense_over_model_dense": costs.flops / (model.dense / chips),
            "executed_over_model": (costs.flops + kernel_flops) / (model.total / chips),
            "kernels_not_counted": sorted({k.name for k in costs.kernels if k.flops is None}),
        },
        "hbm_bytes": costs.hbm_bytes,
        "collectives": _collectives(costs, program),
        "full_weight_all_reduces_in_loops": full_weight_all_reduces(costs, program),
        "roofline": dataclasses.asdict(bound) | {"assumptions": assumptions(topology)},
    }


def _memory(compiled: jax.stages.Compiled, topology: Topology) -> dict[str, Any]:
    found = memory_of(compiled)
    return {
        "arguments": found.argument_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "outputs_not_donated": found.output_size_in_bytes - found.alias_size_in_bytes,
        "program": found.generated_code_size_in_bytes,
        "peak": peak_bytes(compiled),
        "chip": topology.chip.hbm_bytes,
    }


def _collectives(costs: Costs, program: Program) -> list[dict[str, Any]]:
    """Summed per loop, kind, mesh axes and whether they run beside other work."""
    groups: dict[tuple, list[Collective]] = {}
    for one in costs.collectives:
        axes = mesh_axes(one.group, program.mesh)
        key = (costs.labels.get(one.loop, "once"), one.kind, axes, one.asynchronous)
        groups.setdefault(key, []).append(one)
    order = sorted(groups, key=lambda key: (key[0], KINDS.index(key[1]), key[2], key[3]))
    return [
        {
            "where": where,
            "kind": kind,
            "axes": list(axes),
            "asynchronous": asynchronous,
            "per_pass": len(groups[where, kind, axes, asynchronous]),
            "arrays": sum(len(c.sizes) for c in groups[where, kind, axes, asynchronous]),
            "bytes_per_pass": sum(c.bytes for c in groups[where, kind, axes, asynchronous]),
            "passes": groups[where, kind, axes, asynchronous][0].times,
        }
        for where, kind, axes, asynchronous in order
    ]


def full_weight_all_reduces(costs: Costs, program: Program) -> list[dict[str, Any]]:
    """All-reduces in loops of what is as large as a whole matrix of a layer that lies in parts."""
    matrices = _split_matrices(program)
    found = []
    for one in costs.collectives:
        if one.kind != "all-reduce" or not one.loop:
            continue
        axes = mesh_axes(one.group, program.mesh)
        for size in one.sizes:
            names = [
                name
                for name, (whole, split) in matrices.items()
                if whole <= size <= _PADDING * whole and set(split) & set(axes)
            ]
            if names:
                where = costs.labels.get(one.loop, one.loop)
                found.append({"where": where, "elements": size, "axes": axes, "like": names})
    return found


def _split_matrices(program: Program) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Path → elements of one layer's matrix, and the axes it lies over."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(program.state.params):
        name = path_name(path)
        axes = spec_of(name, leaf.shape, program.mesh)
        flat = [a for axis in axes if axis for a in ((axis,) if isinstance(axis, str) else axis)]
        split = tuple(axis for axis in flat if program.mesh.shape[axis] > 1)
        if name.startswith("layers/") and leaf.ndim == 3 and split:
            found[name] = (math.prod(leaf.shape[1:]), split)
    return found


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    memory, flops, bound = report["memory"], report["flops"], report["roofline"]
    mesh = " × ".join(f"{axis} {n}" for axis, n in report["mesh"].items() if n > 1) or "one chip"
    uses = ", ".join(f"{where} {name}" for where, name in report["attention"].items())
    sizes = ("arguments", "temporaries", "peak", "chip")
    tera = {name: f"{flops[name] / 1e12:.2f}" for name in flops if name[:5] in ("model", "execu")}
    times = {
        "products at peak": "compute",
        "HBM traffic": "memory",
        "collectives": "interconnect",
        "of these, nothing runs beside": "waiting",
        "step, at least": "step",
    }
    rows = {
        **{f"{name}, GiB": f"{memory[name] / GIB:.2f}" for name in sizes},
        "model TFLOP: dense + attention": f"{tera['model_dense']} + {tera['model_attention']}",
        "executed TFLOP: XLA + kernels": f"{tera['executed_dense']} + {tera['executed_kernels']}",
        "executed ÷ model, dense": f"{flops['executed_dense_over_model_dense']:.3f}",
        "executed ÷ model, all": f"{flops['executed_over_model']:.3f}",
        **{f"{name}, ms": f"{1000 * bound[key]:.1f}" for name, key in times.items()},
        "MFU, at most": f"{bound['mfu']:.1%}",
    }
    head = f"{report['parameters']:,} parameters; {report['rows']} rows of "
    head += f"{report['tokens_per_row']} tokens; remat {report['remat']}; attention {uses}"
    lines = [
        f"{report['config']} on {report['topology']}: {report['chips']} chips, {mesh}",
        head,
        "",
        *("| per chip | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())),
        "",
        "| collectives | axes | where | per pass | MB | passes | beside other work |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in report["collectives"]:
        lines.append(
            f"| {one['kind']} | {' × '.join(one['axes'])} | {one['where']} | {one['per_pass']} | "
            f"{one['bytes_per_pass'] / 1e6:.1f} | {one['passes']} | "
            f"{'yes' if one['asynchronous'] else 'no'} |"
        )
    whole = report["full_weight_all_reduces_in_loops"]
    lines += ["", *(f"full weights summed in {o['where']}: {', '.join(o['like'])}" for o in whole)]
    if not whole:
        lines.append("no full-weight all-reduce in a loop")
    return "\n".join([*lines, "", "assuming that", *(f"- {a}" for a in bound["assumptions"])])
