"""The batch, recomputation and mesh that train most rows per second, by the roofline's bound."""

from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from onediff_jax.models.remat import REMATS
from onediff_jax.scaling.chips import GIB, Topology
from onediff_jax.scaling.compile import DoesNotFit

WHAT = ("batch", "remat", "mesh")
_ROUNDS = 8  # of guessing the largest batch from the memory of smaller ones
_SPARE = 0.02  # of the chip's memory, for what does not grow in proportion


def search(
    config: ConfigDict,
    topology: Topology,
    what: Iterable[str],
    measure: Callable[[ConfigDict], dict[str, Any]],
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compiles candidates and returns the report of the best; each is said as it comes.

    Args:
      what: some of WHAT; the others stay as the config has them. Batches are multiples of what the
        mesh needs, and grow until the chip is full; meshes put fsdp along whole axes of the torus.
      measure: config → report; raises DoesNotFit.

    Raises ValueError for an unknown name, DoesNotFit when nothing fits.
    """
    unknown = [name for name in what if name not in WHAT]
    if unknown:
        raise ValueError(f"--search={','.join(what)} must be some of {','.join(WHAT)}")
    meshes = _meshes(topology, config.mesh.slices) if "mesh" in what else [dict(config.mesh)]
    remats = REMATS if "remat" in what else (config.model.remat,)
    found: list[dict[str, Any]] = []
    for mesh in meshes:
        for remat in remats:
            changed = config.copy_and_resolve_references()
            changed.mesh.update(mesh)
            changed.model.remat = remat
            try:
                grown = "batch" in what
                found += _largest(changed, measure, say) if grown else [measure(changed)]
            except DoesNotFit as error:
                say(f"mesh {mesh}, remat {remat}: {error}")
    if not found:
        raise DoesNotFit(f"nothing that was tried fits {topology.name}")
    best = max(found, key=rows_per_second)
    return best | {"tried": [_line(report) for report in found]}


def rows_per_second(report: dict[str, Any]) -> float:
    """At most, of all chips."""
    return report["rows"] / report["roofline"]["step"]


def _meshes(topology: Topology, slices: int) -> list[dict[str, int]]:
    """replica × fsdp with fsdp along the last axes of the torus, the most shared first."""
    found, fsdp = [], 1
    for length in reversed(topology.shape):
        fsdp *= length
        replica = slices * topology.chips // fsdp
        found.append({"replica": replica, "fsdp": fsdp, "tensor": 1, "sequence": 1})
    return found[::-1]


def _largest(config: ConfigDict, measure: Callable, say: Callable) -> list[dict[str, Any]]:
    """Reports of batches up to the largest that fits; memory is taken to grow in proportion.

    Raises DoesNotFit when one row per device is too much.
    """
    unit = config.mesh.replica * config.mesh.fsdp
    fits: dict[int, dict[str, Any]] = {}
    too_large, rows = None, 1
    for _ in range(_ROUNDS):
        config.train.batch_rows = rows * unit
        try:
            fits[rows] = measure(config)
            say(_text(fits[rows]))
        except DoesNotFit as error:
            say(f"{rows * unit} rows: {error}")
            if not fits:
                raise
            too_large = rows
        following = _guess(fits, too_large)
        if following in fits or following == too_large:
            break
        rows = following
    return list(fits.values())


def _guess(fits: dict[int, dict[str, Any]], too_large: int | None) -> int:
    """Rows per device to try next."""
    largest = max(fits)
    if len(fits) == 1:
        return 2 * largest if too_large is None else (largest + too_large) // 2
    low, high = sorted(fits)[0], largest
    memory = {rows: fits[rows]["memory"]["peak"] for rows in (low, high)}
    each = max((memory[high] - memory[low]) / (high - low), 1.0)
    room = fits[high]["memory"]["chip"] * (1 - _SPARE) - memory[high]
    guess = high + int(room / each)
    # Where memory did not grow in proportion, halfway between what fits and what does not.
    return guess if too_large is None else min(guess, (high + too_large) // 2)


def _line(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "mesh": report["mesh"],
        "remat": report["remat"],
        "rows": report["rows"],
        "peak": report["memory"]["peak"],
        "rows_per_second": rows_per_second(report),
        "mfu": report["roofline"]["mfu"],
    }


def _text(report: dict[str, Any]) -> str:
    mesh = " × ".join(f"{axis} {n}" for axis, n in report["mesh"].items() if n > 1)
    return (
        f"{mesh}, remat {report['remat']}, {report['rows']} rows: peak "
        f"{report['memory']['peak'] / GIB:.2f} GiB, at most {rows_per_second(report):.1f} rows/s, "
        f"MFU {report['roofline']['mfu']:.1%}"
    )
