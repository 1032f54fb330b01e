"""What a run depends on beside its config, by content: compared at every start.

Code, versions, the weights it starts from or stands on, encoders, and prepared folders. Paths do
not count: folders may be moved.
"""

from pathlib import Path
from typing import Any

from onediff_jax.data.prepared.manifest import content_hash
from onediff_jax.experiment.build import Experiment
from onediff_jax.experiment.encoders import part_of
from onediff_jax.files import file_hashes
from onediff_jax.interop.config import transformer_folder
from onediff_jax.interop.lora import find_adapter
from onediff_jax.interop.pretrained import find_folder
from onediff_jax.run.train_step import operands_name
from onediff_jax.run.workdir import WorkdirError, code_hashes, differences, versions

_WEIGHTS = ("*.json", "*.safetensors", "*.model")
_SHOWN = 10  # differing files that a message names
# Part → what it is, for messages.
_WORDS = {
    "code": "the package's code",
    "versions": "versions",
    "base": "the weights of init_from",
    "adapter": "the adapter of lora.init_adapter",
    "text": "the text encoder",
    "pictures": "the autoencoder",
    "data": "the prepared data",
    "products": "what train.products rounds to here",
}


def surroundings(experiment: Experiment, *, starts: bool) -> dict[str, Any]:
    """What the run depends on: {part: {name: hash or version}}, JSON values.

    Args:
      experiment: of the run.
      starts: whether it begins at step 0: only then, and under adapters, init_from is read.

    Raises WorkdirError for a prepared folder whose manifest was changed by hand.
    """
    config = experiment.config
    found: dict[str, Any] = {"code": code_hashes(), "versions": versions()}
    found["products"] = {"operands": operands_name(config)}
    folder = config.init_from
    if folder and (starts or experiment.lora):
        found["base"] = _hashes(transformer_folder(find_folder(folder)))
    if starts and experiment.lora and experiment.lora.init_adapter:
        file = find_adapter(experiment.lora.init_adapter)
        found["adapter"] = file_hashes(file.parent, [file.name])
    if experiment.online_pictures:
        found["pictures"] = _hashes(part_of(config.data.encoder, "vae"))
    if experiment.online_text:
        parts = (part_of(config.text.folder, part) for part in ("text_encoder", "tokenizer"))
        found["text"] = {
            f"{part.name}/{name}": value for part in parts for name, value in _hashes(part).items()
        }
    if experiment.prepared is not None:
        found["data"] = {}
        for number, (prepared, _) in enumerate(experiment.prepared.folders):
            manifest = prepared.manifest
            if content_hash(manifest) != manifest.get("sha256"):
                raise WorkdirError(
                    f"{prepared.path}/manifest.json was changed by hand: its sha256 does not fit "
                    "what it says. Bring it back from a copy, or prepare the folder again."
                )
            found["data"][f"folder {number}"] = manifest["sha256"]
    return found


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line per part that differs between two starts; parts that one of them lacks are left."""
    lines = []
    for part in sorted(old.keys() & new.keys()):
        differ = [_told(part, *entry) for entry in differences(old[part], new[part])]
        if differ:
            more = f", and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
            lines.append(f"{_WORDS.get(part, part)}: {', '.join(differ[:_SHOWN])}{more}")
    return lines


def _told(part: str, name: str, old: Any, new: Any) -> str:
    if part in ("versions", "products"):
        return f"{name} {old} → {new}"
    kind = "is new" if old is None else "is gone" if new is None else "changed"
    return f"{name} {kind}"


def _hashes(folder: Path) -> dict[str, str]:
    names = {file.name for pattern in _WEIGHTS for file in folder.glob(pattern)}
    return file_hashes(folder, names)
