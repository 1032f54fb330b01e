"""The PyTorch files that every exported folder carries, and the small parts that go with them.

The other modules of this package are copied, not imported: they need torch and diffusers alone, so
that `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` runs without onediff_jax.
This one needs neither. An exported folder:

    model_index.json                what copy_into returns, written by the caller
    README.md                       write_model_card
    pipeline.py  flow_torch.py  cameras_torch.py  pictures_torch.py
    transformer/                    nextdit.py, config.json (with TRANSFORMER_CONFIG), weights
    vae/                            AutoencoderKL's files, or write_light_codec
    text_encoder/  tokenizer/       T5's files, or write_hashed_text (which has no tokenizer)
    scheduler/                      write_scheduler
"""

import json
import shutil
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PIPELINE_FILES = ("pipeline.py", "flow_torch.py", "cameras_torch.py", "pictures_torch.py")
WEIGHTS = "diffusion_pytorch_model.safetensors"

# What transformer/config.json must hold besides the fields of the model: the released class name,
# and where diffusers' AutoModel finds the class.
TRANSFORMER_CONFIG = {"_class_name": "NextDiT", "auto_map": {"AutoModel": "nextdit.NextDiT"}}

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


def copy_into(folder, *, vae: str = "autoencoder_kl", text: str = "t5") -> dict:
    """Copies the PyTorch files into a folder and returns its model_index.json as a dictionary.

    Weights and configurations are the caller's (see the module's docstring for the layout); any
    file of the same name is replaced, nothing else is touched, and missing folders are made.

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
    copies = [(name, folder) for name in PIPELINE_FILES]
    copies.append(("nextdit.py", folder / "transformer"))
    if vae == "light":
        copies.append(("light_codec.py", folder / "vae"))
    if text == "hashed":
        copies.append(("hashed_text.py", folder / "text_encoder"))
    for name, target in copies:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / name, target / name)
    return {
        # A list names the file too: that is how diffusers finds the class in the folder.
        "_class_name": ["pipeline", "OneDiffusionPipeline"],
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": list(text_encoder),
        "tokenizer": list(tokenizer),
        "transformer": ["nextdit", "NextDiT"],
        "vae": list(_VAES[vae]),
    }


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
        softcap="no cap" if softcap is None else f"{softcap:g}·tanh(x/{softcap:g})",
    )
    (Path(folder) / "README.md").write_text(card, encoding="utf-8")


def _write_component(target: Path, class_name: str, config: dict, arrays: dict):
    from safetensors.numpy import save_file

    _write_json(target / "config.json", {"_class_name": class_name, **config})
    save_file(arrays, target / WEIGHTS, metadata={"format": "pt"})


def _write_json(path: Path, content: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
