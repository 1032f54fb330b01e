"""Turns a run into a folder that diffusers loads, with torch and diffusers alone.

    python -m onediff_jax.export --source=runs/t2i_multitask --out=exports/t2i_multitask --verify

    DiffusionPipeline.from_pretrained("exports/t2i_multitask", trust_remote_code=True)

The folder has the released layout, tensor for tensor, and the PyTorch code. It is a --source of the
other commands too. Memory stays near one stacked parameter, whatever the size of the model. A LoRA
run gives the merged weights, or its adapters alone with --lora_only. A folder of the released
layout as --source gets the code; --adapter=FILE:0.8 adds adapters to it, several if repeated;
--push=OWNER/NAME uploads what was written.
"""

import dataclasses
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from flax import traverse_util
from ml_collections import ConfigDict

from onediff_jax import exits
from onediff_jax.data.buckets import bucket_size
from onediff_jax.evaluation.held_out import examples
from onediff_jax.experiment.build import Experiment, param_count
from onediff_jax.exporting.card import (
    SAMPLES,
    check_license,
    chosen_steps,
    find_evaluation,
    front_matter,
    sections,
)
from onediff_jax.exporting.describe import index_fields
from onediff_jax.exporting.encoders import (
    check_encoders,
    check_text,
    check_vae,
    copy_part,
    write_encoders,
)
from onediff_jax.exporting.place import ExportError, beside, check_out
from onediff_jax.exporting.push import Push
from onediff_jax.exporting.weights import Weights, open_source
from onediff_jax.files import read_object, recover_folder, replace_folder, write_json
from onediff_jax.interop import torch_files
from onediff_jax.interop.lora import FORMATS, write_adapter
from onediff_jax.interop.pretrained import RUN_FILE, hashes_of, write_transformer
from onediff_jax.interop.safetensors_io import check_dtype
from onediff_jax.interop.verify import Case, random_case, verify
from onediff_jax.interop.weights import weight_bytes
from onediff_jax.models.lora import LoRA
from onediff_jax.run.workdir import versions

FLAGS = flags.FLAGS

_ADAPTER_CARD = """---
library_name: diffusers
tags: [onediffusion, lora]
{front}---
Adapters (LoRA) of step {step} for the transformer of {base}.

    pipe = DiffusionPipeline.from_pretrained(BASE, trust_remote_code=True)
    pipe.load_lora_weights(FOLDER)

It needs torch, diffusers (0.32 or newer) and peft, and a base that carries its code: a folder of
the released layout gets it by `python -m onediff_jax.export --source=FOLDER --out=BASE`.
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written, and how. See the flags of the command."""

    step: int | None = None
    ema: bool = True
    dtype: str = "float32"
    max_shard_gb: float = 10.0
    text_encoder: str | None = None
    lora_only: bool = False
    lora_format: str = "diffusers"
    adapter: list[str] = dataclasses.field(default_factory=list)
    overwrite: bool = False
    verify: bool = False
    evaluation: str | None = None
    license: str = ""
    push: str | None = None
    private: bool = False
    revision: str | None = None

    def __post_init__(self):
        check_dtype(self.dtype)
        check_license(self.license)
        if not self.max_shard_gb > 0:
            raise ValueError(f"max_shard_gb={self.max_shard_gb} must be positive")
        if self.lora_only and self.verify:
            raise ValueError("lora_only writes no transformer that verify could run")
        if self.lora_only and self.adapter:
            raise ValueError("lora_only writes the run's own adapters, not those of --adapter")
        if self.lora_format not in FORMATS:
            raise ValueError(f"lora_format={self.lora_format!r} must be one of {FORMATS}")
        if not self.push and (self.private or self.revision):
            raise ValueError("private and revision go with push=OWNER/NAME")


def export(
    source: str | Path, out: str | Path, options: Options, say: Callable[[str], Any] = print
) -> None:
    """Exports a checkpoint of the workdir `source`, or a folder, to the folder `out`.

    The folder is written beside `out` and renamed when it is complete; an earlier export is
    replaced only then. Raises ExportError, and the other ValueErrors of what it reads.
    """
    source, out = Path(source).resolve(), Path(out).resolve()
    push = Push(options.push, options.private, options.revision) if options.push else None
    if push:
        push.check()
    if recover_folder(out):
        say(f"{out}: the earlier export is back, which a killed one had put aside")
    check_out(source, out, options.overwrite)
    weights = open_source(source, step=options.step, ema=options.ema, with_data=options.verify)
    adapters = _trained_adapters(weights, source) if options.lora_only else None
    if weights.run and not options.lora_only:
        check_encoders(weights.run.experiment, options.text_encoder)
    evaluation = _evaluation(source, weights, options)
    say(weights.says)
    added = weights.add_adapters(options.adapter)
    size = weight_bytes(weights.shapes, options.dtype) * (not options.lora_only)
    with beside(out, size) as folder:
        if adapters is not None:
            _write_adapters(folder, adapters, weights.base, options)
        else:
            _write_pipeline(folder, source, out.name, weights, options, added, evaluation)
            if options.verify:
                _verify(folder, weights, options.dtype, say)
        replace_folder(folder, out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    say(f"wrote {out}: {size / 1e9:.3f} GB, {options.dtype}")
    if push:
        say(f"pushed to {push.upload(out, f'Export of {out.name}')}")


@dataclasses.dataclass(frozen=True)
class _Adapters:
    """What a LoRA run trained, of the weights `base`."""

    trained: dict[str, Any]
    lora: LoRA
    kernel: Callable[[tuple[str, ...]], Any] | None
    base: str
    step: int


def _trained_adapters(weights: Weights, source: Path) -> _Adapters:
    run = weights.run
    if run is None or run.adapters is None or run.experiment.lora is None:
        raise ExportError(f"lora_only was asked of {source}, which did not train adapters")
    lora, base = run.experiment.lora, run.experiment.config.init_from
    return _Adapters(run.adapters, lora, run.base, base, run.step)


def _write_adapters(folder: Path, adapters: _Adapters, weights: str, options: Options) -> None:
    write_adapter(
        folder,
        adapters.trained,
        adapters.lora,
        dtype=options.dtype,
        form=options.lora_format,
        kernel=adapters.kernel,
        base=weights,
        base_name=adapters.base,
    )
    front = front_matter(adapters.base, options.license, relation="adapter")
    card = _ADAPTER_CARD.format(base=adapters.base, step=adapters.step, front=front)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_pipeline(
    folder: Path,
    source: Path,
    name: str,
    weights: Weights,
    options: Options,
    added: list,
    evaluation: Path | None,
) -> None:
    """All of the folder: encoders, code, weights, card, and where it came from."""
    experiment, network, run = weights.experiment, weights.network, weights.run
    if run:
        vae, text = write_encoders(folder, run.experiment, options.text_encoder)
        index = torch_files.copy_into(folder, vae=vae, text=text)
        torch_files.write_scheduler(folder)
    else:
        index = _copy_folder(source, folder, weights)
        kinds = torch_files.kinds_of(index, folder)
        vae, text = kinds["vae"], kinds["text_encoder"]
    record = _record(weights, options)
    if added:
        record["adapters"] = added
    if chosen := chosen_steps(evaluation):
        record["steps"] = chosen
    described = index_fields(experiment, record.get("steps", {})) if experiment else {}
    released = weights.released | torch_files.transformer_config()
    if run:
        factor = run.experiment.codec.factor
        height, width = bucket_size("1:1", run.experiment.layout.slots[0].tokens)
        released |= {
            "input_size": [1, height // factor, width // factor],
            "model_max_length": run.experiment.config.text.max_length,
            "attention_softcap": network.attention_softcap,
        }
    write_transformer(
        folder / "transformer",
        network,
        weights.shapes,
        weights.leaf,
        released=released,
        dtype=options.dtype,
        max_shard_bytes=int(options.max_shard_gb * 1e9),
    )
    side = [8 * n for n in released.get("input_size", (1, 96, 96))[1:]]
    trained = f"{record['step']:,} steps of {', '.join(described['tasks'])}" if experiment else ""
    torch_files.write_model_card(
        folder,
        name=name,
        parameters=_round(param_count(weights.shapes)),
        training=trained or "the weights of another system",
        size=tuple(side),
        vae=vae,
        text=text,
        multiple=8 * network.patch_size,
        softcap=network.attention_softcap,
        tasks=described.get("tasks"),
        defaults=described.get("defaults"),
        sections=sections(folder, run.experiment.config, evaluation) if run else "",
        front=front_matter(
            run.experiment.config.init_from if run else "",
            options.license,
            samples=(folder / SAMPLES).is_file(),
        ),
    )
    write_json(folder / "model_index.json", index | described)
    if record:
        write_json(folder / RUN_FILE, record | {"files": hashes_of(folder)})


def _evaluation(source: Path, weights: Weights, options: Options) -> Path | None:
    """What the card's figures come from."""
    if weights.run and not options.adapter:
        step, ema = weights.run.step, options.ema
        return find_evaluation(source, options.evaluation, step=step, ema=ema)
    if options.evaluation:
        raise ExportError("--evaluation goes with a run as --source, exported as it is")
    return None


def _copy_folder(source: Path, folder: Path, weights: Weights) -> dict[str, Any]:
    """Gives `folder` the components of `source` but the transformer, checked, and the code."""
    index = read_object(source / "model_index.json")
    kinds = torch_files.kinds_of(index, source)
    if kinds["vae"] == "autoencoder_kl":
        check_vae(source / "vae", weights.network.in_channels)
    if kinds["text_encoder"] == "t5":
        check_text(source, weights.network.caption_channels)
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        if (source / part).is_dir():
            copy_part(source / part, folder / part)
    if not (folder / "scheduler").is_dir():
        torch_files.write_scheduler(folder)
    return index | torch_files.copy_into(folder, vae=kinds["vae"], text=kinds["text_encoder"])


def _record(weights: Weights, options: Options) -> dict[str, Any]:
    """What onediff_jax.json says: the run's config, step and versions."""
    if not weights.run:
        return dict(weights.record)
    experiment = weights.run.experiment
    return {
        "config": json.loads(_without_lora(experiment.config).to_json_best_effort()),
        "step": weights.run.step,
        "weights": "ema" if options.ema else "params",
        "pictures": {
            "sizes": experiment.sizes,
            "depth": experiment.depth and dataclasses.asdict(experiment.depth),
        },
        "versions": versions(),
    }


def _without_lora(config: ConfigDict) -> ConfigDict:
    """The config under which the exported weights are those of an ordinary run."""
    plain = ConfigDict(config.to_dict())
    if "lora" in plain:
        del plain["lora"]
    plain.init_from = ""
    return plain


def _verify(folder: Path, weights: Weights, dtype: str, say: Callable[[str], Any]) -> None:
    network = weights.network
    cases = [random_case(network)]
    if weights.run:
        cases.append(real_case(weights.run.experiment))
    paths = traverse_util.flatten_dict(weights.shapes)
    params = {path: jnp.asarray(weights.leaf(path)) for path in paths}
    params = traverse_util.unflatten_dict(params)
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


def _round(count: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def define_flags() -> None:
    """Not at import, so that the functions here can be imported beside other commands."""
    flags.DEFINE_string("source", None, "Workdir of a run, or a released folder.", required=True)
    flags.DEFINE_string("out", None, "Folder to write.", required=True)
    flags.DEFINE_integer("step", None, "Of the checkpoint; default the newest.")
    flags.DEFINE_boolean("ema", True, "The moving average rather than the raw weights.")
    flags.DEFINE_string("dtype", "float32", "Of the weights: float32, bfloat16 or float16.")
    flags.DEFINE_float("max_shard_gb", 10.0, "Size of a weight file, in 10⁹ bytes.")
    flags.DEFINE_string("text_encoder", None, "Folder of the T5 encoder and tokenizer, if cached.")
    flags.DEFINE_boolean("lora_only", False, "The adapters of a LoRA run alone.")
    flags.DEFINE_enum("lora_format", "diffusers", FORMATS, "Of --lora_only: with peft, or ComfyUI.")
    flags.DEFINE_multi_string("adapter", [], "FILE or FILE:WEIGHT to add; repeatable.")
    flags.DEFINE_string("evaluation", None, "Figures and samples of the card; SOURCE/evaluation.")
    flags.DEFINE_string("license", "", "Of the card, as the hub names it, e.g. apache-2.0.")
    flags.DEFINE_string("push", None, "OWNER/NAME on the Hugging Face hub to upload it to.")
    flags.DEFINE_boolean("private", False, "Of --push: a new repository is private.")
    flags.DEFINE_string("revision", None, "Of --push: a branch, made where it does not exist.")
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
        export(FLAGS.source, FLAGS.out, Options(**{name: getattr(FLAGS, name) for name in names}))
    except (ValueError, OSError) as error:
        exits.fail(error)


if __name__ == "__main__":
    with exits.foreseen():
        define_flags()
        app.run(main)
