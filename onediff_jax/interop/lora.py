"""Adapters (LoRA) as files that diffusers, peft and ComfyUI read, and back."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from onediff_jax.interop.config import PretrainedError
from onediff_jax.interop.names import to_name, to_place
from onediff_jax.interop.safetensors_io import SafetensorsWriter
from onediff_jax.models.loading import read_tensors
from onediff_jax.models.lora import TARGETS, LoRA

STEM, PEFT_STEM, COMFYUI_STEM = "pytorch_lora_weights", "adapter_model", "comfyui_lora"
ADAPTER_FILES = tuple(f"{stem}.safetensors" for stem in (STEM, PEFT_STEM, COMFYUI_STEM))
FORMATS = ("diffusers", "comfyui")
PREFIXES = ("transformer.", "base_model.model.", "diffusion_model.")
_BASE = "base_sha256"
_TORCH_NAMES = {"y_embedder": "y_embedder.1"}  # of the targets that have another name there
_ENDS = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B"}
_ENDS |= {"lora_magnitude_vector": "length", "dora_scale": "length"}


def write_adapter(
    folder: Path,
    adapters: dict[str, Any],
    lora: LoRA,
    *,
    dtype: str,
    kernel: Callable[[tuple[str, ...]], Any] | None = None,
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
    The lengths of DoRA are lora_magnitude_vector (out,), and dora_scale (out, 1) in ComfyUI's form.

    Args:
      adapters: nested dict of `lora_a` (depth, in, rank), `lora_b` (depth, rank, out) and, of
        DoRA, `lora_m` (depth, out), multiples of the lengths of the base's columns.
      kernel: path → a matrix of the base, which DoRA needs.
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
        for module, _, part in _modules(adapters, kernel):
            tensors[f"diffusion_model.{module}.lora_down.weight"] = part.a
            tensors[f"diffusion_model.{module}.lora_up.weight"] = part.b
            tensors[f"diffusion_model.{module}.alpha"] = np.float32(lora.alpha).reshape(())
            if part.length is not None:
                tensors[f"diffusion_model.{module}.dora_scale"] = part.length[:, None]
        return _write(folder, COMFYUI_STEM, tensors, dtype, notes)
    plain, ranks = {}, {}
    for module, path, part in _modules(adapters, kernel):
        plain[f"{module}.lora_A.weight"] = part.a
        plain[f"{module}.lora_B.weight"] = part.b * np.float32(lora.scale_of(path))
        if part.length is not None:
            plain[f"{module}.lora_magnitude_vector"] = part.length
        if len(part.a) != lora.rank:
            ranks[module] = len(part.a)
    peft = {f"base_model.model.{name}": tensor for name, tensor in plain.items()}
    _write(folder, PEFT_STEM, peft, dtype, notes)
    config = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.rank,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "use_dora": lora.dora,
        "target_modules": sorted(_TORCH_NAMES.get(name, name) for name in lora.targets),
        "base_model_name_or_path": base_name or None,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return _write(folder, STEM, {f"transformer.{n}": t for n, t in plain.items()}, dtype, notes)


@dataclasses.dataclass(frozen=True)
class Part:
    """The adapter of one matrix: a (rank, in), b (out, rank), and of DoRA the lengths (out,) of
    the columns; float32."""

    a: np.ndarray
    b: np.ndarray
    length: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Adapters of a file.

    Attributes:
      file: it was read from.
      parts: leaf path → layer (None outside the layers) → Part, with alpha/rank in b.
      base: hash of the weights they were trained on; "" where the file does not say.
    """

    file: Path
    parts: dict[tuple[str, ...], dict[int | None, Part]]
    base: str

    def check_base(self, base: str) -> None:
        """Raises PretrainedError where the file says that it is for weights of another hash."""
        if self.base and base and self.base != base:
            raise PretrainedError(
                f"adapter {self.file} was trained on weights with hash {self.base[:12]}…, and "
                f"these have {base[:12]}…"
            )

    def add_to(
        self, path: tuple[str, ...], kernel: np.ndarray, weight: float, base: np.ndarray
    ) -> np.ndarray:
        """A parameter (of all layers) with weight · what the adapter adds to it, float32.

        That is B·A; of DoRA, what the columns of `base` + B·A at their lengths are more than it:
        `base` is the parameter before any adapter was added.

        Raises PretrainedError where the matrices do not fit.
        """
        if path not in self.parts:
            return kernel
        kernel = np.array(kernel, np.float32)
        for layer, part in self.parts[path].items():
            target = kernel if layer is None else kernel[layer : layer + 1][0]
            self._check(path, layer, part, target.shape)
            added = (part.b @ part.a).T
            if part.length is not None:
                plain = np.asarray(base if layer is None else base[layer], np.float32)
                lengths = np.linalg.norm(plain + added, axis=0)
                stretch = part.length / np.where(lengths > 0, lengths, 1)
                added = (plain + added) * stretch - plain
            target += np.float32(weight) * added
        return kernel

    def _check(self, path: tuple, layer: int | None, part: Part, shape: tuple[int, ...]) -> None:
        fits = shape == (part.a.shape[1], part.b.shape[0]) and len(part.a) == part.b.shape[1]
        if not fits or (part.length is not None and part.length.shape != shape[1:]):
            raise PretrainedError(
                f"{self.file}: {to_name(path, layer)} is {shape[::-1]} in the network,"
                f" and its adapter {part.b.shape} · {part.a.shape}"
            )

    def start(
        self, lora: LoRA, shapes: dict[str, Any], kernel: Callable[[tuple[str, ...]], Any]
    ) -> dict[str, Any]:
        """The parameters of a run that goes on from these adapters, as `add_lora` makes them.

        Args:
          lora: the run's.
          shapes: of the base's parameters.
          kernel: path → one of its matrices, which DoRA needs.

        Raises PretrainedError for targets, ranks or layers that differ, and for DoRA in one alone.
        """
        wanted = {(*TARGETS[name], "kernel"): name for name in lora.targets}
        if wanted.keys() != self.parts.keys():
            ours, theirs = ({".".join(path[:-1]) for path in p} for p in (wanted, self.parts))
            raise PretrainedError(
                f"lora.init_adapter={self.file} and lora.targets differ: only in the file are "
                f"{sorted(theirs - ours)}, only in lora.targets {sorted(ours - theirs)}"
            )
        leaves = {}
        kernels: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(shapes)
        for path, name in wanted.items():
            *stack, width, out = kernels[path].shape
            layers, rank = range(*stack) if stack else (None,), lora.rank_of(name)
            if missing := [layer for layer in layers if layer not in self.parts[path]]:
                raise PretrainedError(
                    f"lora.init_adapter={self.file} has no {to_name(path, missing[0])}"
                )
            parts = [self.parts[path][layer] for layer in layers]
            for layer, part in zip(layers, parts, strict=True):
                self._check(path, layer, part, (width, out))
                where = f"lora.init_adapter={self.file}: {to_name(path, layer)}"
                if len(part.a) != rank:
                    raise PretrainedError(f"{where} has rank {len(part.a)}, and {name} here {rank}")
                if (part.length is not None) != lora.dora:
                    raise PretrainedError(
                        f"{where} is {'' if part.length is not None else 'not '}of DoRA, and "
                        f"lora.dora={lora.dora}"
                    )
            scale = np.float32(lora.scale_of(path))
            stacked = {"lora_a": [p.a.T for p in parts], "lora_b": [p.b.T / scale for p in parts]}
            if lora.dora:
                lengths = np.linalg.norm(np.asarray(kernel(path), np.float32), axis=-2)
                stacked["lora_m"] = [
                    part.length / np.where(length > 0, length, 1)
                    for part, length in zip(parts, lengths.reshape(-1, out), strict=True)
                ]
            for leaf, values in stacked.items():
                leaves[*path[:-1], leaf] = np.stack(values) if stack else values[0]
        return traverse_util.unflatten_dict(leaves)


def read_adapter(path: str | Path, shapes: dict[str, Any]) -> Adapter:
    """Adapters of a file, or of a folder that holds one, in any of the forms above.

    Args:
      shapes: the network's parameters: every adapter must be one of its matrices'.

    Raises PretrainedError that names what is missing, unknown or of no known form.
    """
    file = find_adapter(path)
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
        rank, length = found["A"].shape[0], found.get("length")
        alpha = found["alpha"].item() if "alpha" in found else scales(module, rank)
        parts.setdefault(place.path, {})[place.layer] = Part(
            found["A"], found["B"] * (alpha / rank), None if length is None else length.reshape(-1)
        )
    if unknown or not parts:
        raise PretrainedError(
            f"adapter {file} does not fit this network: {sorted(unknown)[:5] or 'it is empty'}"
        )
    return Adapter(file, parts, notes.get(_BASE, ""))


def _modules(
    adapters: dict[str, Any], kernel: Callable[[tuple[str, ...]], Any] | None
) -> Iterator[tuple[str, tuple[str, ...], Part]]:
    """Name, path and adapter of every adapted matrix; alpha/rank is not in b."""
    leaves = traverse_util.flatten_dict(adapters)
    for path in [path for path in leaves if path[-1] == "lora_a"]:
        a, b = (np.asarray(leaves[*path[:-1], name]) for name in ("lora_a", "lora_b"))
        lengths, place = leaves.get((*path[:-1], "lora_m")), (*path[:-1], "kernel")
        if lengths is not None:
            if kernel is None:
                raise ValueError("the lengths of DoRA are of the base's matrices: give `kernel`")
            base = np.asarray(kernel(place), np.float32)
            lengths = np.asarray(lengths) * np.linalg.norm(base, axis=-2)
        for layer in range(len(a)) if a.ndim == 3 else (None,):
            one = (..., slice(None)) if layer is None else layer
            part = Part(a[one].T, b[one].T, None if lengths is None else lengths[one])
            yield to_name(place, layer).removesuffix(".weight"), path, part


def _write(folder: Path, stem: str, tensors: dict, dtype: str, notes: dict[str, str]) -> Path:
    shapes = {name: tensor.shape for name, tensor in sorted(tensors.items())}
    with SafetensorsWriter(
        folder, shapes, dtype, max_shard_bytes=2**62, stem=stem, notes=notes
    ) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return folder / f"{stem}.safetensors"


def find_adapter(path: str | Path) -> Path:
    """The file of adapters that a path names, or that lies in the folder it names.

    Raises PretrainedError where there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in ADAPTER_FILES if (path / name).is_file()]
        if not found:
            raise PretrainedError(f"adapter {path} holds none of {ADAPTER_FILES}")
        return found[0]
    if path.suffix != ".safetensors" or not path.is_file():
        raise PretrainedError(f"adapter {path} must be a safetensors file, or a folder with one")
    return path


def _split(name: str) -> tuple[str, str | None]:
    """The module of a tensor, and "A", "B", "alpha" or "length"; None for others."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    parts = name.removesuffix(".weight").rsplit(".", 1)
    if parts[-1] == "default":  # as peft's state_dict has it
        parts = parts[0].rsplit(".", 1)
    return parts[0], _ENDS.get(parts[-1])


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
    pattern = fields.get("alpha_pattern") or {}

    def alpha(module: str, rank: int) -> float:
        for name, value in pattern.items():
            if module == name or module.endswith(f".{name}"):
                return float(value)
        value = float(fields.get("lora_alpha") or rank)
        return value * rank**0.5 if fields.get("use_rslora") else value

    return alpha
