"""Adapters (LoRA) as files that diffusers, peft and ComfyUI read, and back."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from onediff_jax.interop.config import PretrainedError
from onediff_jax.interop.names import to_name, to_place
from onediff_jax.interop.safetensors_io import SafetensorsWriter
from onediff_jax.models.loading import read_tensors
from onediff_jax.models.lora import LoRA

STEM, PEFT_STEM, COMFYUI_STEM = "pytorch_lora_weights", "adapter_model", "comfyui_lora"
ADAPTER_FILES = tuple(f"{stem}.safetensors" for stem in (STEM, PEFT_STEM, COMFYUI_STEM))
FORMATS = ("diffusers", "comfyui")
PREFIXES = ("transformer.", "base_model.model.", "diffusion_model.")
_BASE = "base_sha256"


def write_adapter(
    folder: Path,
    adapters: dict[str, Any],
    lora: LoRA,
    *,
    dtype: str,
    form: str = "diffusers",
    base: str = "",
    base_name: str = "",
) -> Path:
    """Writes the adapters of a run into an existing folder; returns the main file.

    "diffusers": pytorch_lora_weights.safetensors, transformer.layers.0.attention.wq.lora_A.weight
    (rank, in) and lora_B (out, rank), for diffusers; and adapter_model.safetensors with
    adapter_config.json, the same for peft. They have no alpha: B is multiplied by alpha/rank, so
    that what reads them adds B·A as it is (an alpha equal to the rank).
    "comfyui": comfyui_lora.safetensors, diffusion_model.layers.0.attention.wq.lora_down.weight,
    lora_up and alpha.

    Args:
      adapters: nested dict of `lora_a` (depth, in, rank) and `lora_b` (depth, rank, out).
      dtype: of the file.
      base, base_name: hash and name of the weights they were trained on; stored in the file.

    Raises ValueError for another form.
    """
    if form not in FORMATS:
        raise ValueError(f"lora_format={form!r} must be one of {FORMATS}")
    notes = {"modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "onediffusion/lora"}
    notes |= {"modelspec.title": folder.name, _BASE: base, "base": base_name}
    notes |= {"ss_network_dim": str(lora.rank), "ss_network_alpha": f"{lora.alpha:g}"}
    if form == "comfyui":
        tensors = {}
        for module, a, b in _modules(adapters):
            tensors[f"diffusion_model.{module}.lora_down.weight"] = a
            tensors[f"diffusion_model.{module}.lora_up.weight"] = b
            tensors[f"diffusion_model.{module}.alpha"] = np.float32(lora.alpha).reshape(())
        return _write(folder, COMFYUI_STEM, tensors, dtype, notes)
    plain = {
        f"{module}.lora_{letter}.weight": matrix
        for module, a, b in _modules(adapters)
        for letter, matrix in (("A", a), ("B", b * np.float32(lora.scale)))
    }
    peft = {f"base_model.model.{name}": tensor for name, tensor in plain.items()}
    _write(folder, PEFT_STEM, peft, dtype, notes)
    config = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.rank,
        "target_modules": sorted(lora.targets),
        "base_model_name_or_path": base_name or None,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return _write(folder, STEM, {f"transformer.{n}": t for n, t in plain.items()}, dtype, notes)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Adapters of a file.

    Attributes:
      file: it was read from.
      parts: leaf path → layer → A (rank, in) and B (out, rank) float32, alpha/rank in B.
      base: hash of the weights they were trained on; "" where the file does not say.
    """

    file: Path
    parts: dict[tuple[str, ...], dict[int | None, tuple[np.ndarray, np.ndarray]]]
    base: str

    def add_to(self, path: tuple[str, ...], kernel: np.ndarray, weight: float) -> np.ndarray:
        """A parameter (of all layers) with weight · B·A added, float32.

        Raises PretrainedError where the matrices do not fit.
        """
        if path not in self.parts:
            return kernel
        kernel = np.array(kernel, np.float32)
        for layer, (a, b) in self.parts[path].items():
            target = kernel if layer is None else kernel[layer : layer + 1][0]
            if target.shape != (a.shape[1], b.shape[0]) or a.shape[0] != b.shape[1]:
                raise PretrainedError(
                    f"{self.file}: {to_name(path, layer)} is {target.shape[::-1]} in the network,"
                    f" and its adapter {b.shape} · {a.shape}"
                )
            target += np.float32(weight) * (b @ a).T
        return kernel


def read_adapter(path: str | Path, shapes: dict[str, Any]) -> Adapter:
    """Adapters of a file, or of a folder that holds one, in any of the forms above.

    Args:
      shapes: the network's parameters: every adapter must be one of its matrices'.

    Raises PretrainedError that names what is missing, unknown or of no known form.
    """
    file = _find(Path(path))
    try:
        tensors = read_tensors(file.parent, file.stem)
        notes = _notes(file)
    except (ValueError, OSError) as error:
        raise PretrainedError(f"adapter {path} cannot be read: {error}") from error
    modules: dict[str, dict[str, np.ndarray]] = {}
    unknown = []
    for name, tensor in tensors.items():
        module, key = _split(name)
        if key is None:
            unknown.append(name)
        else:
            modules.setdefault(module, {})[key] = np.asarray(tensor, np.float32)
    leaves: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(shapes)
    scales, parts = _scales(file, notes), {}
    for module, found in modules.items():
        place = to_place(f"{module}.weight", 2)
        depth = leaves[place.path].shape[0] if place.path in leaves else 0
        inside = place.layer is None or place.layer < depth
        if not {"A", "B"} <= found.keys() or place.path not in leaves or not inside:
            unknown.append(module)
            continue
        rank = found["A"].shape[0]
        alpha = found["alpha"].item() if "alpha" in found else scales(module, rank)
        parts.setdefault(place.path, {})[place.layer] = (found["A"], found["B"] * (alpha / rank))
    if unknown or not parts:
        raise PretrainedError(
            f"adapter {file} does not fit this network: {sorted(unknown)[:5] or 'it is empty'}"
        )
    return Adapter(file, parts, notes.get(_BASE, ""))


def _modules(adapters: dict[str, Any]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, A (rank, in) and B (out, rank) of every adapted matrix."""
    leaves = traverse_util.flatten_dict(adapters)
    for path, stacked in leaves.items():
        if path[-1] == "lora_a":
            pairs = zip(np.asarray(stacked), np.asarray(leaves[*path[:-1], "lora_b"]), strict=True)
            for layer, (a, b) in enumerate(pairs):
                module = to_name((*path[:-1], "kernel"), layer).removesuffix(".weight")
                yield module, a.T, b.T


def _write(folder: Path, stem: str, tensors: dict, dtype: str, notes: dict[str, str]) -> Path:
    shapes = {name: tensor.shape for name, tensor in sorted(tensors.items())}
    with SafetensorsWriter(
        folder, shapes, dtype, max_shard_bytes=2**62, stem=stem, notes=notes
    ) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return folder / f"{stem}.safetensors"


def _find(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in ADAPTER_FILES if (path / name).is_file()]
        if not found:
            raise PretrainedError(f"adapter {path} holds none of {ADAPTER_FILES}")
        return found[0]
    if path.suffix != ".safetensors" or not path.is_file():
        raise PretrainedError(f"adapter {path} must be a safetensors file, or a folder with one")
    return path


def _split(name: str) -> tuple[str, str | None]:
    """The module of a tensor, and "A", "B" or "alpha"; None for others."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    ends = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B"}
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    parts = name.removesuffix(".weight").rsplit(".", 1)
    if parts[-1] == "default":  # as peft's state_dict has it
        parts = parts[0].rsplit(".", 1)
    return parts[0], ends.get(parts[-1])


def _notes(file: Path) -> dict[str, str]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return json.loads(opened.read(length)).get("__metadata__", {})


def _scales(file: Path, notes: dict[str, str]):
    """What gives a module's alpha from what lies around the tensors; the rank where nothing is."""
    fields: dict[str, Any] = {}
    if "lora_adapter_metadata" in notes:  # of diffusers
        fields = json.loads(notes["lora_adapter_metadata"])
        fields = {name.removeprefix("transformer."): value for name, value in fields.items()}
    elif file.stem == PEFT_STEM and (file.parent / "adapter_config.json").is_file():
        fields = json.loads((file.parent / "adapter_config.json").read_text(encoding="utf-8"))
    if fields.get("use_dora"):
        raise PretrainedError(f"adapter {file} is of DoRA, which is not supported")
    pattern = fields.get("alpha_pattern") or {}

    def alpha(module: str, rank: int) -> float:
        for name, value in pattern.items():
            if module == name or module.endswith(f".{name}"):
                return float(value)
        value = float(fields.get("lora_alpha") or rank)
        return value * rank**0.5 if fields.get("use_rslora") else value

    return alpha
