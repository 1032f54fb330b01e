"""From a config and a topology to the report."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from onediff_jax.scaling.chips import Topology
from onediff_jax.scaling.compile import as_if_on, compile_program, devices_of
from onediff_jax.scaling.compilers import check_compiler
from onediff_jax.scaling.costs import costs_of
from onediff_jax.scaling.flops import Flops, model_flops
from onediff_jax.scaling.hlo import parse
from onediff_jax.scaling.program import attention_choices, lower_train_step
from onediff_jax.scaling.report import make_report


def measure(
    config: ConfigDict, topology: Topology, *, hlo: str | None = None, model: Flops | None = None
) -> dict[str, Any]:
    """Compiles the step of `config` for `topology` and reads what came out.

    Args:
      hlo: file for the text of the program.
      model: FLOPs of the step where they are known already.

    Raises ValueError for what does not fit together; DoesNotFit when the chip is too small.
    """
    platform = topology.chip.platform
    check_compiler(platform)
    devices = devices_of(topology, config.mesh.slices)
    with as_if_on(devices[0], platform):
        program = lower_train_step(config, devices)
        kernels = attention_choices(program.experiment, platform)
    compiled = compile_program(program, topology)
    text = compiled.as_text()
    assert text is not None
    if hlo:
        Path(hlo).write_text(text)
    costs = costs_of(parse(text))
    return make_report(program, compiled, costs, model or model_flops(config), topology, kernels)
