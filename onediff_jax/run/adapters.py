"""Where the adapters of a run start: at nothing, or at those of a file."""

from typing import Any

from onediff_jax.data.prepared.plan import weights_hash
from onediff_jax.experiment.build import Experiment
from onediff_jax.interop.lora import read_adapter
from onediff_jax.interop.model import param_shapes
from onediff_jax.interop.pretrained import checked_transformer
from onediff_jax.interop.weights import open_weights


def initial_adapters(experiment: Experiment) -> dict[str, Any] | None:
    """The adapters of lora.init_adapter as the run's parameters; None where it names none.

    Raises PretrainedError for a file that cannot be read, or is for other weights than init_from,
    other targets or other ranks.
    """
    lora = experiment.lora
    if lora is None or not lora.init_adapter:
        return None
    folder = checked_transformer(experiment.config.init_from)
    shapes = param_shapes(experiment.model_config)
    adapter = read_adapter(lora.init_adapter, shapes)
    if adapter.base:
        adapter.check_base(weights_hash(folder))
    return adapter.start(lora, shapes, open_weights(folder, shapes))
