"""What an experiment is, in words: `python -m onediff_jax.main --config=… --print`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from onediff_jax.experiment.build import Experiment, make_experiment, param_count
from onediff_jax.experiment.checks import check_config
from onediff_jax.experiment.slot_use import SlotUse, slot_use, total_share
from onediff_jax.parallel.memory import GIB, device_bytes, estimate, state_bytes
from onediff_jax.parallel.mesh import check_batch, make_mesh
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.scaling.program import shapes_only


def describe(config: ConfigDict) -> str:
    """The resolved experiment: every field, parameters, rows and how full they are, memory.

    Nothing is written, trained or compiled. Prepared folders and encoders that are not on this
    machine are named, and everything that does not depend on them is shown.

    Raises ValueError, as training would, for what does not fit together.
    """
    check_config(config)
    make_optimizer(config.optim, config.train.steps)
    missing = [path for path in _paths(config) if not Path(path).exists()]
    experiment = make_experiment(shapes_only(config) if missing else config, with_data=not missing)
    uses = () if missing else slot_use(experiment)
    lines = ["# fields", *_fields(config.to_dict()), "", "# parameters", *_network(experiment)]
    lines += ["", "# rows", *_rows(experiment, uses)]
    if missing:
        lines.append(f"not on this machine: {', '.join(missing)}; how full slots are is not known")
    lines += ["", "# memory", *_memory(experiment)]
    return "\n".join(lines)


def _paths(config: ConfigDict) -> list[str]:
    """Folders that building the experiment opens."""
    paths = []
    if config.data.name == "prepared":
        paths += [f if isinstance(f, str) else f[0] for f in config.data.folders]
        paths += [config.data.encoder] if config.data.encoder != "light" else []
    if config.text.kind == "t5" and config.text.folder:
        paths.append(config.text.folder)
    return list(dict.fromkeys(paths))


def _fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {value!r}"


def _network(experiment: Experiment) -> list[str]:
    params = param_count(experiment.shapes)
    each = state_bytes(experiment)
    lines = [
        f"{params:,} parameters are trained",
        f"{each} bytes of state per parameter: {params * each / GIB:.2f} GiB",
    ]
    if experiment.frozen_shapes is not None:
        frozen = param_count(experiment.frozen_shapes)
        lines.append(f"{frozen:,} parameters of {experiment.config.init_from} stay as they are")
    return lines


def _rows(experiment: Experiment, uses: tuple[SlotUse, ...]) -> list[str]:
    train, layout = experiment.config.train, experiment.layout
    rows = train.batch_rows * train.accumulate
    slots = len(layout.slots)
    lines = [
        f"{rows} rows per step, each of {layout.tokens:,} tokens in {slots} slots",
        f"{rows * slots:,} examples and {rows * layout.tokens:,} tokens per step",
    ]
    for use in uses:
        lines.append(
            f"{use.group}: {len(use.slots)} slots, about {use.share:.0%} used; the largest example "
            f"has {use.frames} frames of {use.tokens} tokens"
        )
    if uses:
        lines.append(f"all slots: about {total_share(uses):.0%} used")
    return lines


def _memory(experiment: Experiment) -> list[str]:
    config = experiment.config
    try:
        mesh = make_mesh(config.mesh)
        check_batch(mesh, config.train.batch_rows, experiment.layout.chunks)
    except ValueError as error:
        return [f"not on the devices found here: {error}"]
    needed = estimate(experiment, param_count(experiment.shapes), mesh)
    device = mesh.devices.flat[0]
    available = device_bytes(device)
    line = (
        f"at least {needed.total / GIB:.2f} GiB on each of {mesh.devices.size} × "
        f"{device.device_kind}: {needed.state / GIB:.2f} of state, "
        f"{needed.activations / GIB:.2f} of activations"
    )
    if available is None:
        return [line]
    fits = "fits" if needed.total <= available else "does not fit"
    return [line, f"{fits}: a device has {available / GIB:.2f} GiB"]
