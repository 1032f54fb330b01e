"""What makes a saved model or pipeline carry the code of its class (standard library only)."""

import json
from pathlib import Path
from typing import Any, ClassVar

# The text of the exported file these classes were loaded from, set at its end; None elsewhere.
CODE: str | None = None


class OwnCode:
    """Writes the file of its class beside the configuration, as it was when the class was loaded.

    Comes before ModelMixin, ConfigMixin or DiffusionPipeline in the bases. What is uploaded by
    `push_to_hub` has the file too: the configuration is written before.
    """

    config: Any  # diffusers' record of the arguments
    # What diffusers' AutoModel is told, for the models that it shall find.
    _auto_class: ClassVar[str | None] = None
    _carries_code: ClassVar[bool] = True

    def save_config(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Writes the file of the class, where it came from one, then the configuration."""
        if CODE is not None:
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{file_stem(type(self))}.py").write_text(CODE, encoding="utf-8")
        library: Any = super()
        library.save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def to_json_string(self) -> str:
        """The configuration; AutoModel's entry is there in every version of diffusers."""
        library: Any = super()
        fields = json.loads(library.to_json_string())
        if self._auto_class:
            name = f"{file_stem(type(self))}.{type(self).__name__}"
            fields["auto_map"] = {self._auto_class: name}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """AutoModel's entry is for finding the class, not for building it: no warning about it."""
        config_dict = {key: value for key, value in config_dict.items() if key != "auto_map"}
        library: Any = super()
        return library.extract_init_dict(config_dict, **kwargs)


def file_stem(kind: type) -> str:
    """The name, without .py, of the file a class was loaded from."""
    return kind.__module__.split(".")[-1]
