"""Turns a run into a folder that diffusers loads, with torch and diffusers alone.

    python -m onediff_jax.export --source=runs/t2i_multitask --out=exports/t2i_multitask --verify

    DiffusionPipeline.from_pretrained("exports/t2i_multitask", trust_remote_code=True)

The folder has the released layout, tensor for tensor, and the PyTorch code. It is a --source of the
other commands too. Memory stays near one stacked parameter, whatever the size of the model. A LoRA
run gives the merged weights, or its adapters alone with --lora_only.
"""

import contextlib
import dataclasses
import fcntl
import glob
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from flax import traverse_util
from ml_collections import ConfigDict

from onediff_jax import exits
from onediff_jax.data.buckets import bucket_size
from onediff_jax.data.codec import LightCodec
from onediff_jax.evaluation.held_out import examples
from onediff_jax.experiment.build import Experiment, param_count
from onediff_jax.files import FULL, recover_folder, replace_folder, write_json
from onediff_jax.interop import torch_files
from onediff_jax.interop.lora import write_adapter
from onediff_jax.interop.pretrained import RUN_FILE, hashes_of, write_transformer
from onediff_jax.interop.safetensors_io import check_dtype
from onediff_jax.interop.verify import Case, random_case, verify
from onediff_jax.interop.weights import weight_bytes
from onediff_jax.run.workdir import versions
from onediff_jax.sampling.saved_run import SavedRun

FLAGS = flags.FLAGS
ADAPTER_FILE = "pytorch_lora_weights.safetensors"
_COPIED = ("*.json", "*.safetensors", "*.model")  # of a vae, text encoder or tokenizer


_ADAPTER_CARD = """Adapters (LoRA) of step {step} for the transformer of {base}.

    pipe = DiffusionPipeline.from_pretrained(BASE, trust_remote_code=True)
    pipe.transformer.load_lora_adapter(
        FOLDER, weight_name="pytorch_lora_weights.safetensors", prefix="transformer"
    )

It needs torch, diffusers and peft.
"""


class ExportError(ValueError):
    """An export that cannot be made, with the reason; nothing is left of it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written, and how. See the flags of the command."""

    step: int | None = None
    ema: bool = True
    dtype: str = "float32"
    max_shard_gb: float = 10.0
    text_encoder: str | None = None
    lora_only: bool = False
    overwrite: bool = False
    verify: bool = False

    def __post_init__(self):
        check_dtype(self.dtype)
        if not self.max_shard_gb > 0:
            raise ValueError(f"max_shard_gb={self.max_shard_gb} must be positive")
        if self.lora_only and self.verify:
            raise ValueError("lora_only writes no transformer that verify could run")


def export(
    source: str | Path, out: str | Path, options: Options, say: Callable[[str], Any] = print
) -> None:
    """Exports a checkpoint of the workdir `source` to the folder `out`.

    The folder is written beside `out` and renamed when it is complete; an earlier export is
    replaced only then. Raises ExportError, and the other ValueErrors of what it reads.
    """
    source, out = Path(source).resolve(), Path(out).resolve()
    if recover_folder(out):
        say(f"{out}: the earlier export is back, which a killed one had put aside")
    _check_out(source, out, options.overwrite)
    run = SavedRun(source, options.step, ema=options.ema, with_data=options.verify)
    if options.lora_only and run.adapters is None:
        raise ExportError(f"lora_only was asked of {source}, which did not train adapters")
    weights = "EMA" if options.ema else "raw"
    say(f"{source}: step {run.step:,}, {weights} weights, {param_count(run.shapes):,} parameters")
    with _beside(out, weight_bytes(run.shapes, options.dtype) * (not options.lora_only)) as folder:
        if options.lora_only:
            write_adapter(folder, run.adapters, run.experiment.lora, dtype=options.dtype)
            base = run.experiment.config.init_from
            (folder / "README.md").write_text(_ADAPTER_CARD.format(base=base, step=run.step))
        else:
            _write_pipeline(folder, out.name, run, options)
            if options.verify:
                _verify(folder, run, options.dtype, say)
        replace_folder(folder, out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    say(f"wrote {out}: {size / 1e9:.3f} GB, {options.dtype}")


def _write_pipeline(folder: Path, name: str, run: SavedRun, options: Options) -> None:
    experiment = run.experiment
    config = experiment.config
    vae, text = _write_encoders(folder, experiment, options.text_encoder)
    index = torch_files.copy_into(folder, vae=vae, text=text)
    factor = experiment.codec.factor
    height, width = bucket_size("1:1", experiment.layout.slots[0].tokens)
    network = experiment.model_config
    released = torch_files.transformer_config() | {
        "input_size": [1, height // factor, width // factor],
        "model_max_length": config.text.max_length,
        "attention_softcap": network.attention_softcap,
    }
    write_transformer(
        folder / "transformer",
        network,
        run.shapes,
        run.leaf,
        released=released,
        dtype=options.dtype,
        max_shard_bytes=int(options.max_shard_gb * 1e9),
    )
    torch_files.write_scheduler(folder)
    tasks = [task for task, weight in config.data.tasks.items() if weight]
    torch_files.write_model_card(
        folder,
        name=name,
        parameters=_round(param_count(run.shapes)),
        training=f"{run.step:,} steps of {', '.join(tasks)}",
        size=(height, width),
        vae=vae,
        text=text,
        multiple=factor * network.patch_size,
        softcap=network.attention_softcap,
    )
    record = {
        "config": json.loads(_without_lora(config).to_json_best_effort()),
        "step": run.step,
        "weights": "ema" if options.ema else "params",
        "pictures": {
            "sizes": experiment.sizes,
            "depth": experiment.depth and dataclasses.asdict(experiment.depth),
        },
        "versions": versions(),
    }
    write_json(folder / "model_index.json", index)
    write_json(folder / RUN_FILE, record | {"files": hashes_of(folder)})


def _write_encoders(folder: Path, experiment: Experiment, text_folder: str | None):
    """Writes vae, text_encoder and tokenizer as the run has them; their kinds for copy_into."""
    config = experiment.config
    vae, text = "light", "hashed"
    if isinstance(experiment.codec, LightCodec):
        torch_files.write_light_codec(folder)
    else:
        vae = "autoencoder_kl"
        _copy_part(config.data.encoder, "vae", folder)
    if config.text.kind == "hashed":
        dim, length = config.model.caption_channels, config.text.max_length
        torch_files.write_hashed_text(folder, dim=dim, max_length=length)
    else:
        text = "t5"
        text_folder = text_folder or config.text.folder
        if not text_folder:
            raise ExportError(
                "the run trained on cached captions: name the folder of their T5 encoder and "
                "tokenizer by --text_encoder"
            )
        _copy_part(text_folder, "text_encoder", folder)
        _copy_part(text_folder, "tokenizer", folder)
    return vae, text


def _copy_part(folder: str | Path, part: str, out: Path) -> None:
    from onediff_jax.experiment.encoders import part_of

    found = part_of(folder, part)
    files = sorted({file for pattern in _COPIED for file in found.glob(pattern)})
    if not files:
        raise ExportError(f"{found} holds none of {_COPIED}: it is no {part}")
    (out / part).mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, out / part / file.name)


def _without_lora(config: ConfigDict) -> ConfigDict:
    """The config under which the exported weights are those of an ordinary run."""
    plain = ConfigDict(config.to_dict())
    if "lora" in plain:
        del plain["lora"]
    plain.init_from = ""
    return plain


def _verify(folder: Path, run: SavedRun, dtype: str, say: Callable[[str], Any]) -> None:
    network = run.experiment.model_config
    cases = [random_case(network), real_case(run.experiment)]
    paths = traverse_util.flatten_dict(run.shapes)
    params = traverse_util.unflatten_dict({path: run.leaf(path) for path in paths})
    found = verify(folder / "transformer", network, params, cases, dtype=dtype)
    for difference in found:
        say(f"verify {difference}")
    if not all(difference.good for difference in found):
        raise ExportError("the exported PyTorch model differs from the run's; nothing is kept")


def real_case(experiment: Experiment) -> Case:
    """A held-out example of many frames: those to generate half way to noise, the others clean."""
    tasks = [task for task, weight in experiment.config.data.tasks.items() if weight]
    task = max(map(experiment.tasks.task, tasks), key=lambda task: task.max_frames)
    example = examples(experiment, 1, [task.directions[0].name])[0]
    latents = np.stack(example.encoded.frames)[None].astype(np.float32)
    generate = np.array(example.generate)[None, :, None, None, None]
    noise = np.random.default_rng(0).standard_normal(latents.shape, np.float32)
    cached = experiment.config.text.kind == "cached"  # then the empty prompt is known
    text, mask = experiment.text_encoder(["" if cached else example.encoded.prompt])
    return Case(
        f"held-out {example.direction}",
        np.where(generate, 0.5 * (latents + noise), latents),
        np.where(generate[..., 0, 0, 0], 500.0, 1.0).astype(np.float32),
        np.asarray(text, np.float32),
        np.asarray(mask, bool),
    )


def _check_out(source: Path, out: Path, overwrite: bool) -> None:
    if source.is_relative_to(out):
        raise ExportError(f"out={out} would replace the source {source}")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ExportError(f"out={out} exists; --overwrite replaces it when the new one is complete")
    if not any((out / name).is_file() for name in (RUN_FILE, ADAPTER_FILE)):
        raise ExportError(f"out={out} is not an export, so --overwrite does not replace it")


@contextlib.contextmanager
def _beside(out: Path, needed: int) -> Iterator[Path]:
    """A folder to write into, on the file system of `out`; gone at the end if still there.

    Those of earlier exports to `out` that were killed go first.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob.escape(out.name)}-*.partial"):
            with _locked(left) as nobody_writes:
                if nobody_writes:
                    shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out.parent} cannot be written: {error.strerror}") from error
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ExportError(
                f"{needed / 1e9:.2f} GB are needed in {out.parent}, and {free / 1e9:.2f} are free"
            )
        folder.chmod(0o755)
        with _locked(folder):
            yield folder
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ExportError(f"the disk of {out.parent} is full; nothing is left there") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Locks a folder while the context lasts, or the process; False where it is locked already."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = True
    except OSError:
        ours = False
    try:
        yield ours
    finally:
        os.close(handle)


def _round(count: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def define_flags() -> None:
    """Not at import, so that the functions here can be imported beside other commands."""
    flags.DEFINE_string("source", None, "Workdir of a run.", required=True)
    flags.DEFINE_string("out", None, "Folder to write.", required=True)
    flags.DEFINE_integer("step", None, "Of the checkpoint; default the newest.")
    flags.DEFINE_boolean("ema", True, "The moving average rather than the raw weights.")
    flags.DEFINE_string("dtype", "float32", "Of the weights: float32, bfloat16 or float16.")
    flags.DEFINE_float("max_shard_gb", 10.0, "Size of a weight file, in 10⁹ bytes.")
    flags.DEFINE_string("text_encoder", None, "Folder of the T5 encoder and tokenizer, if cached.")
    flags.DEFINE_boolean("lora_only", False, f"The adapters of a LoRA run alone: {ADAPTER_FILE}.")
    flags.DEFINE_boolean("overwrite", False, "Replace an earlier export.")
    flags.DEFINE_boolean("verify", False, "Compare the PyTorch model with the run's (needs torch).")


def _stopped() -> None:
    print("error: stopped by SIGTERM, nothing is left", file=sys.stderr, flush=True)
    sys.exit(exits.TERMINATED.code)


def main(argv: list[str]) -> None:
    """Parses flags and exports; bad input ends with one message and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.WARNING)  # orbax tells every array
    signal.signal(signal.SIGTERM, lambda *_: _stopped())
    names = [field.name for field in dataclasses.fields(Options)]
    try:
        export(FLAGS.source, FLAGS.out, Options(**{name: FLAGS[name].value for name in names}))
    except (ValueError, OSError) as error:
        exits.fail(error)


if __name__ == "__main__":
    define_flags()
    app.run(main)
