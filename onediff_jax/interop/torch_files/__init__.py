"""The PyTorch files that every exported folder carries, and the small parts that go with them.

The other modules of this package are copied, not imported: they need torch and diffusers alone, so
that `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` runs without onediff_jax.
This one needs neither. An exported folder, where * is a hash of the file (see bundling.py):

    model_index.json                what copy_into returns, written by the caller
    README.md                       write_model_card
    pipeline_*.py  pipeline.py      the second one is for `custom_pipeline=folder`
    transformer/                    nextdit_*.py, config.json (with transformer_config()), weights
    vae/                            AutoencoderKL's files, or light_codec_*.py and write_light_codec
    text_encoder/  tokenizer/       T5's files, or hashed_text_*.py and write_hashed_text
    scheduler/                      write_scheduler
"""

import json
from pathlib import Path

import numpy as np

from onediff_jax.files import file_hash, write_json
from onediff_jax.interop.torch_files.bundling import bundle, write

HERE = Path(__file__).parent
WEIGHTS = "diffusion_pytorch_model.safetensors"

SCHEDULER_CONFIG = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}

_VAES = {
    "autoencoder_kl": ("diffusers", "AutoencoderKL"),
    "light": ("light_codec", "LightCodec"),
}
_TEXTS = {
    "t5": (("transformers", "T5EncoderModel"), ("transformers", "T5Tokenizer")),
    "hashed": (("hashed_text", "HashedTextEncoder"), (None, None)),
}


_VAE_CLASSES = {kind: names[1] for kind, names in _VAES.items()}
_TEXT_CLASSES = {kind: names[0][1] for kind, names in _TEXTS.items()}
_CONFIG = "transformer/config.json"
_RECORD = "onediff_jax.json"


def transformer_config() -> dict:
    """What transformer/config.json must hold besides the fields of the model: the released class
    name, and where diffusers' AutoModel finds the class."""
    return {"_class_name": "NextDiT", "auto_map": {"AutoModel": f"{bundle('nextdit')[0]}.NextDiT"}}


def copy_into(folder, *, vae: str = "autoencoder_kl", text: str = "t5") -> dict:
    """Copies the PyTorch files into a folder and returns its model_index.json as a dictionary.

    Weights and configurations are the caller's (see the module's docstring for the layout). Code of
    an earlier export is replaced, nothing else is touched, and missing folders are made.

    Args:
      folder: the exported folder.
      vae: "autoencoder_kl" or "light".
      text: "t5" or "hashed".

    Raises:
      ValueError: another vae or text.
    """
    for name, value, choices in (("vae", vae, _VAES), ("text", text, _TEXTS)):
        if value not in choices:
            raise ValueError(f"{name}={value!r} must be one of {sorted(choices)}")
    folder = Path(folder)
    text_encoder, tokenizer = _TEXTS[text]
    pipeline, nextdit = write("pipeline", folder), write("nextdit", folder / "transformer")
    line = f"from .{pipeline} import OneDiffusionPipeline  # for custom_pipeline=FOLDER\n"
    (folder / "pipeline.py").write_text(line, encoding="utf-8")
    index = {
        # A list names the file too: that is how diffusers finds the class in the folder.
        "_class_name": [pipeline, "OneDiffusionPipeline"],
        "_diffusers_version": "0.32.0",
        # For AutoModel with subfolder="transformer", which looks here, not in the subfolder.
        "auto_map": transformer_config()["auto_map"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": list(text_encoder),
        "tokenizer": list(tokenizer),
        "transformer": [nextdit, "NextDiT"],
        "vae": list(_VAES[vae]),
    }
    if vae == "light":
        index["vae"][0] = write("light_codec", folder / "vae")
    if text == "hashed":
        index["text_encoder"][0] = write("hashed_text", folder / "text_encoder")
    return index


def kinds_of(index: dict, folder) -> dict[str, str]:
    """The kinds of a folder's vae and text_encoder, as copy_into has them, by model_index.json.

    Raises:
      ValueError: one of another class, or none.
    """
    kinds = {}
    for part, table in (("vae", _VAE_CLASSES), ("text_encoder", _TEXT_CLASSES)):
        kinds[part] = next((k for k, known in table.items() if _class_of(index, part) == known), "")
        if not kinds[part]:
            raise ValueError(
                f"{Path(folder) / 'model_index.json'}: {part} is {index.get(part)}, not one of"
                f" {list(table.values())}"
            )
    return kinds


def write_code(folder) -> dict:
    """Gives a pipeline's folder the code, in place of any it had; returns its model_index.json.

    Which vae and text encoder it has is read from model_index.json; that file and auto_map in
    transformer/config.json are written anew, with their other fields as they were.

    Raises:
      ValueError: model_index.json or transformer/config.json is not there or not of this kind.
    """
    folder = Path(folder)
    index, config = (_read_json(folder / name) for name in ("model_index.json", _CONFIG))
    kinds = kinds_of(index, folder)
    new = copy_into(folder, vae=kinds["vae"], text=kinds["text_encoder"])
    fields = ("_class_name", "auto_map", "transformer", "vae", "text_encoder")
    index |= {key: new[key] for key in fields}
    _write_json(folder / _CONFIG, config | transformer_config())
    _write_json(folder / "model_index.json", index)
    if (folder / _RECORD).is_file():  # of our export: it has the hashes of what was written anew
        record = _read_json(folder / _RECORD)
        for name in {_CONFIG, "model_index.json"} & record.get("files", {}).keys():
            record["files"][name] = file_hash(folder / name)
        write_json(folder / _RECORD, record)
    return index


def write_scheduler(folder):
    """Writes the released scheduler's configuration to folder/scheduler."""
    _write_json(Path(folder) / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)


def write_light_codec(folder):
    """Writes the light codec as the component folder/vae (copy_into adds its class)."""
    from onediff_jax.data.codec import LightCodec

    codec = LightCodec()
    config = {"block_size": codec.factor, "latent_channels": codec.channels, "scaling_factor": 1.0}
    arrays = {"basis": codec.basis, "mean": codec.mean, "scale": codec.scale}
    _write_component(Path(folder) / "vae", "LightCodec", config, arrays)


def write_hashed_text(folder, *, dim: int, max_length: int):
    """Writes the hashed text encoder as folder/text_encoder (copy_into adds its class).

    Args:
      dim: caption channels of the transformer.
      max_length: words that captions were padded or cut to in training.
    """
    config = {"dim": dim, "max_length": max_length}
    arrays = {"anchor": np.zeros(1, np.float32)}
    target = Path(folder) / "text_encoder"
    _write_component(target, "HashedTextEncoder", config, arrays)


def write_model_card(
    folder,
    *,
    name: str,
    parameters: str,
    training: str,
    size: tuple[int, int],
    vae: str = "autoencoder_kl",
    text: str = "t5",
    multiple: int = 16,
    softcap: float | None = 30.0,
    tasks: dict[str, dict] | None = None,
    defaults: dict | None = None,
    front: str = "",
    sections: str = "",
):
    """Writes folder/README.md.

    Args:
      name: hub id or folder that the examples load.
      parameters: as in "2.8 B".
      training: a clause, as in "100,000 steps at 256²".
      size: (height, width) in pixels of the pictures it was trained on.
      vae, text: as in copy_into.
      multiple: what both sides must be multiples of.
      softcap: bound of the self-attention logits, None for none.
      tasks, defaults: as in model_index.json; None where they are not known.
      front: more lines of the YAML at its head.
      sections: more Markdown, before the details.
    """
    vaes = {
        "autoencoder_kl": "AutoencoderKL, 16 channels at 1/8 resolution",
        "light": "the light codec, a linear 8×8 block transform without learned weights",
    }
    texts = {"t5": "a T5 encoder", "hashed": "hashed words, without learned weights"}
    card = (HERE / "model_card.md").read_text(encoding="utf-8")
    card = card.format(
        name=name,
        parameters=parameters,
        training=training,
        height=size[0],
        width=size[1],
        multiple=multiple,
        vae=vaes[vae],
        text=texts[text],
        examples=_examples(tasks),
        tasks=_task_table(tasks),
        defaults=_defaults(defaults or {}),
        front=front,
        sections=sections and f"{sections}\n",
        softcap="no cap" if softcap is None else f"{softcap:g}·tanh(x/{softcap:g})",
    )
    (Path(folder) / "README.md").write_text(card, encoding="utf-8")


# Task → how it is called.
_EXAMPLES = {
    "text2image": """
# Text to image. The prompt starts with its task's token; lists make a batch.
image = pipe("[[text2image]] a red cube on a wooden floor").images[0]
""",
    "depth2image": """
# A condition to an image (the condition is the second frame) …
pipe.img2img("[[depth2image]] a red cube", depth)
# … and an image to its condition: generate the second frame, keep the first.
pipe.img2img("[[depth2image]] a red cube", image, denoise_mask=[0, 1])
""",
    "faceid": """
# A person in a new scene, from one or more pictures.
pipe.img2img("[[faceid]] [[img0]] at the beach [[img1]] in an office", [portrait])
""",
    "multiview": """
# New views of a scene: the first view is given, its camera is where the orbit starts.
pipe.multiview(
    "[[multiview]] a red cube", [image], azimuths=[0, 30, 60], elevations=0, distances=1.7
)
# The cameras of pictures of one scene: R and T each, relative to the first.
pipe.estimate_cameras([view0, view1, view2])
""",
}


def _examples(tasks: dict[str, dict] | None) -> str:
    found = [text for task, text in _EXAMPLES.items() if tasks is None or task in tasks]
    directions = [
        direction
        for entry in (tasks or {}).values()
        if "ray" not in entry["frames"] and len(entry["frames"]) > 1
        for direction in entry["directions"]
    ]
    if directions:
        call = f'pipe.run("{directions[0]}", picture, "a red cube")'
        found.append(
            f"\n# Any direction by its name; the token is put before the caption.\n{call}\n"
        )
    return "".join(found).strip("\n")


def _task_table(tasks: dict[str, dict] | None) -> str:
    if not tasks:
        return "It does not say which tasks it was trained on."
    lines = ["| task | frames | directions | prompt |", "|---|---|---|---|"]
    for name, entry in tasks.items():
        frames = ", ".join(entry["frames"]) + (", …" if entry.get("repeats") else "")
        prompt = entry.get("prompt", f"[[{name}]] a caption")
        lines.append(f"| {name} | {frames} | {', '.join(entry['directions'])} | `{prompt}` |")
    return "\n".join(lines)


def _defaults(defaults: dict) -> str:
    steps = defaults.get("num_inference_steps", 50)
    text = f"{steps} steps"
    for direction, number in defaults.get("steps", {}).items():
        text += f", {number} of {direction}"
    text += f", guidance {defaults.get('guidance_scale', 4.0):g}"
    for group, sizes in defaults.get("sizes", {}).items():
        text += f"; {group} at {', '.join(f'{h} × {w}' for h, w in sizes)}"
    return text


def _write_component(target: Path, class_name: str, config: dict, arrays: dict):
    from safetensors.numpy import save_file

    _write_json(target / "config.json", {"_class_name": class_name, **config})
    save_file(arrays, target / WEIGHTS, metadata={"format": "pt"})


def _write_json(path: Path, content: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _class_of(index: dict, part: str) -> str | None:
    entry = index.get(part)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None
