"""What makes a saved pipeline carry the code of its class and of its components' classes."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

from .own_code import OwnCode, file_stem


class PipelineCode(OwnCode):
    """OwnCode for pipelines: model_index.json names the file of every class that has one."""

    components: Any
    register_modules: Any

    def to_json_string(self) -> str:
        """model_index.json; its lists of a file and a class are how diffusers finds the classes."""
        index = json.loads(super().to_json_string())
        index["_class_name"] = [file_stem(type(self)), type(self).__name__]
        for name, model in self._own_models().items():
            index[name] = [file_stem(type(model)), type(model).__name__]
            if getattr(model, "_auto_class", None):
                # AutoModel looks here, not in the subfolder it is asked for.
                index["auto_map"] = {model._auto_class: ".".join(index[name])}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves the pipeline, so that it loads as this one did; see DiffusionPipeline.

        Components wrapped by torch.compile or peft are saved as what they wrap.
        """
        wrapped = {
            name: part for name, part in self.components.items() if part is not unwrapped(part)
        }
        for name, part in self.components.items():
            if part is not None and self.config[name][0] is None:  # was set to None, and again
                self.register_modules(**{name: part})
        for name, model in self._own_models().items():
            if not getattr(model, "_carries_code", False):  # another project's class
                target = Path(save_directory) / name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(inspect.getfile(type(model)), target)
        try:
            for name, part in wrapped.items():
                setattr(self, name, unwrapped(part))
            library: Any = super()
            library.save_pretrained(save_directory, *args, **kwargs)
        finally:
            for name, part in wrapped.items():
                setattr(self, name, part)

    def _own_models(self) -> dict:
        """The components, unwrapped, whose classes are no library's."""
        parts = {name: unwrapped(part) for name, part in self.components.items()}
        libraries = ("diffusers", "transformers", "builtins")
        return {
            name: part
            for name, part in parts.items()
            if type(part).__module__.split(".")[0] not in libraries
        }


def unwrapped(model):
    """The model inside the wrapper of torch.compile (`_orig_mod`) or peft (`get_base_model`)."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model
