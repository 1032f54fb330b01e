"""The settings of an experiment: every field of a config, once.

Types, units, ranges and choices, what older runs meant that lack a field, which fields change the
data stream, which may change between two starts of one run: what checks configs, upgrades old ones
(experiment/checks.py) and compares runs asks this table, and docs/settings.md is written from it:

    python -m onediff_jax.experiment.schema > docs/settings.md
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from onediff_jax.data.buckets import ASPECTS
from onediff_jax.data.prepared.split import SPLITS
from onediff_jax.data.world.layout import LEVELS
from onediff_jax.flow.times import DISTRIBUTIONS
from onediff_jax.models.attention.dispatch import IMPLEMENTATIONS
from onediff_jax.models.loading import COMPUTE_DTYPES
from onediff_jax.models.lora import TARGETS
from onediff_jax.models.remat import REMATS

DATA = ("world", "prepared")
ENCODE = ("stored", "online")
TEXT = ("hashed", "cached", "t5")
SCHEDULES = ("constant", "cosine", "linear", "late_cosine", "wsd", "rsqrt")
OPEN_ENDED = ("constant", "rsqrt", "wsd")  # those that take more steps in the same workdir
OPTIMIZERS = ("adamw", "muon", "adafactor", "lion", "sgd")
MOMENTS = ("float32", "bfloat16")
# Weights, moving average and moments in bytes per parameter, by optim.moments_dtype; muon's are of
# matrices (the rest as adamw), adafactor's without the rows and columns of its means.
STATE_BYTES = {
    "adamw": (16, 14),
    "muon": (12, 10),
    "adafactor": (8, 8),
    "lion": (12, 10),
    "sgd": (12, 10),
}
PRODUCTS = ("auto", "dtype", "bfloat16")
ON_SPIKE = ("report", "skip", "stop", "rewind")
ON_HANG = ("report", "exit")
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
SECTIONS = {
    "": "The run",
    "model": "The network and how it is computed",
    "text": "Prompts",
    "data": "Pictures",
    "flow": "Noise levels and the loss",
    "train": "Steps and batches",
    "optim": "The optimizer and the learning rate",
    "ema": "The moving average of the weights, which is what is sampled and exported",
    "checkpoint": "Checkpoints",
    "log": "Metrics, held-out losses, samples, profiles",
    "mesh": "How the devices share the work",
    "lora": "Adapters (only where they are trained; the section may be missing)",
}
OPTIONAL_SECTIONS = ("lora",)


class _Required:
    """Marks a field that every run has stated since the first version."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers a field may have, and how a message and the docs say it."""

    says: str
    holds: Callable[[float], bool]


POSITIVE = Range("positive", lambda value: value > 0)
NOT_NEGATIVE = Range("≥ 0", lambda value: value >= 0)
SHARE = Range("in 0..1", lambda value: 0 <= value <= 1)
BELOW_ONE = Range("in [0, 1)", lambda value: 0 <= value < 1)
SEED = Range("in 0..4294967295", lambda value: 0 <= value < 2**32)
ANY = Range("any finite number", math.isfinite)
AXIS = Range("positive, or −1: the devices that are left", lambda value: value > 0 or value == -1)


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      path: its section and name, e.g. "train.steps".
      kind: "int", "float", "bool", "str"; "names", "steps" (tuples of str and of int); "slots",
        "folders" (tuples of tuples, of config.rows and data.folders,
        where a folder alone has weight 1); "weights" (a section of
        numbers whose names are free); "tasks" (definitions of tasks of one's own).
      says: what it is, for docs/settings.md.
      allowed: the Range of a number; the choices of a str, or of each of several names; None: any.
      unit: of a number.
      lacking: its value in runs that were started before it existed; REQUIRED: all have it.
      none: whether it may be None.
      stream: whether it changes which rows are trained on, and in what order.
      free: whether it may differ between two starts of one run.
      only: the data.name that has it; "": both.
    """

    path: str
    kind: str
    says: str
    allowed: Range | tuple[str, ...] | None = None
    unit: str = ""
    lacking: Any = REQUIRED
    none: bool = False
    stream: bool = False
    free: bool = False
    only: str = ""

    @property
    def section(self) -> str:
        """The section it is in; "" for those of the config itself."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Its name within the section."""
        return self.path.rpartition(".")[2]


FIELDS = (
    Field("name", "str", "Name of the experiment; its default workdir is runs/NAME."),
    Field(
        "preset", "str", "The config file's preset that was chosen; a label.", lacking="", free=True
    ),
    Field(
        "seed",
        "int",
        "Seed of initial weights, noise and the order of the data.",
        SEED,
        stream=True,
    ),
    Field(
        "init_from",
        "str",
        "Folder or hub id of the released layout whose weights are the start; empty: from scratch.",
        lacking="",
    ),
    Field(
        "rows",
        "slots",
        "What a row holds: (task group, slots, frames per slot, tokens per frame), …; a token is "
        "16 × 16 pixels. A batch holds the groups in exactly these proportions.",
        stream=True,
    ),
    Field("model.hidden_size", "int", "Width of the residual stream.", POSITIVE, "channels"),
    Field("model.depth", "int", "Layers.", POSITIVE, "layers"),
    Field("model.num_heads", "int", "Query heads.", POSITIVE, "heads"),
    Field("model.num_kv_heads", "int", "Key and value heads; divides them.", POSITIVE, "heads"),
    Field(
        "model.multiple_of",
        "int",
        "The feed-forward width is rounded up to a multiple of it.",
        POSITIVE,
        "channels",
    ),
    Field(
        "model.ffn_dim_multiplier",
        "float",
        "Factor of the feed-forward width.",
        POSITIVE,
        none=True,
    ),
    Field("model.caption_channels", "int", "Width of text embeddings.", POSITIVE, "channels"),
    Field("model.in_channels", "int", "Channels of latents.", POSITIVE, "channels"),
    Field("model.patch_size", "int", "Side of a token.", POSITIVE, "latents"),
    Field("model.norm_eps", "float", "Added to the variance in normalisations.", POSITIVE),
    Field(
        "model.attention_softcap",
        "float",
        "Self-attention logits become cap · tanh(logits / cap); None turns it off.",
        POSITIVE,
        "logits",
        none=True,
    ),
    Field("model.dtype", "str", "Precision of activations.", COMPUTE_DTYPES),
    Field(
        "model.attention",
        "str",
        "How attention is computed: reference and chunked everywhere, splash on TPUs, tokamax and "
        "cudnn on GPUs; auto chooses by shape and device.",
        IMPLEMENTATIONS,
        lacking="auto",
    ),
    Field(
        "model.remat",
        "str",
        "What the backward pass computes again: none keeps all activations, full the least.",
        REMATS,
    ),
    Field(
        "model.unroll",
        "int",
        "Layers compiled one after another; 0: all, quicker on CPUs and slower to compile.",
        NOT_NEGATIVE,
        "layers",
        free=True,
    ),
    Field(
        "text.kind",
        "str",
        "hashed: words, nothing to download; cached: embeddings that prepare --text stored; t5: "
        "embedded during training by the T5 of text.folder.",
        TEXT,
        lacking="hashed",
        stream=True,
    ),
    Field(
        "text.folder",
        "str",
        "T5 encoder and tokenizer; t5 needs it, cached for prompts that are not in the data.",
        lacking="",
        stream=True,
    ),
    Field(
        "text.max_length",
        "int",
        "Longest prompt.",
        POSITIVE,
        "words or tokens",
        stream=True,
    ),
    Field(
        "data.name",
        "str",
        "world: the embedded synthetic dataset; prepared: folders that prepare wrote.",
        DATA,
        stream=True,
    ),
    Field("data.seed", "int", "Seed of the world's scenes.", SEED, stream=True, only="world"),
    Field(
        "data.level",
        "str",
        "How much is in a scene.",
        tuple(LEVELS),
        stream=True,
        only="world",
    ),
    Field(
        "data.scenes",
        "int",
        "Different examples of each task.",
        POSITIVE,
        "scenes",
        stream=True,
        only="world",
    ),
    Field(
        "data.aspects",
        "names",
        "Shapes of pictures, width:height.",
        tuple(ASPECTS),
        stream=True,
        only="world",
    ),
    Field(
        "data.folders",
        "folders",
        "Prepared folders, each with its weight among those that have a task: (FOLDER, weight), …. "
        "The stream knows them by content: they may be moved.",
        free=True,
        only="prepared",
    ),
    Field(
        "data.encoder",
        "str",
        "light: the light codec, for folders of pixels; else the folder of the autoencoder that "
        "prepare used.",
        free=True,
        only="prepared",
    ),
    Field(
        "data.encode",
        "str",
        "stored: latents, or the light codec's, as prepare wrote them; online: folders of pixels "
        "go through the autoencoder of data.encoder beside the training, so that mirror images, "
        "crops and noise are new each time.",
        ENCODE,
        lacking="stored",
        stream=True,
        only="prepared",
    ),
    Field(
        "data.evaluate_on",
        "str",
        "The split on which losses are watched: held_out, or train where none is held out.",
        SPLITS,
        stream=True,
        only="prepared",
    ),
    Field(
        "data.bucket_cache_gib",
        "float",
        "Room on this machine for copies of files of data.folders that are in object stores; those "
        "used least recently are copied again. At least ten files' worth; up to 16 files of a task "
        "that are being read take room beyond it.",
        POSITIVE,
        "GiB",
        lacking=64.0,
        free=True,
        only="prepared",
    ),
    Field(
        "data.block",
        "int",
        "Records that are neighbours in a folder and come in the same part of a pass, as files of "
        "object stores need: the order is drawn of blocks, and of the records of eight blocks "
        "together. 0: of all records.",
        NOT_NEGATIVE,
        "records",
        lacking=0,
        stream=True,
        only="prepared",
    ),
    Field(
        "data.prior_weight",
        "float",
        "Weight in the loss of examples with is_reg, which only keep what the network knows.",
        NOT_NEGATIVE,
        lacking=1.0,
        only="prepared",
    ),
    Field(
        "data.flip_share",
        "float",
        "Probability that an example is mirrored from left to right, where that leaves it true: no "
        "skeletons, no cameras, no prompt that says a side or of writing. Needs stored pixels.",
        SHARE,
        "of examples",
        lacking=0.0,
        stream=True,
        only="prepared",
    ),
    Field(
        "data.random_crop",
        "bool",
        "Pictures of text2image that are larger than their slot are cropped to it, each time "
        "elsewhere (held-out ones in the middle); else they are refused. Needs stored pixels.",
        lacking=False,
        stream=True,
        only="prepared",
    ),
    Field(
        "data.workers",
        "int",
        "Reading processes; 0: the trainer itself reads.",
        NOT_NEGATIVE,
        "processes",
        lacking=0,
        free=True,
    ),
    Field(
        "data.threads",
        "int",
        "Readers in each process.",
        POSITIVE,
        "threads",
        free=True,
    ),
    Field(
        "data.cache_gib",
        "float",
        "Memory for rendered examples of the embedded world, shared out among the reading "
        "processes of a host; those used least recently are rendered again.",
        NOT_NEGATIVE,
        "GiB",
        lacking=1.0,
        free=True,
        only="world",
    ),
    Field(
        "data.prefetch",
        "int",
        "Batches made ahead.",
        POSITIVE,
        "batches",
        free=True,
    ),
    Field(
        "data.tasks",
        "weights",
        "Weight of each task within its group; 0: the task is known and not trained.",
        NOT_NEGATIVE,
        stream=True,
    ),
    Field(
        "data.own_tasks",
        "tasks",
        "Tasks of one's own, name → frames and directions; prepared folders bring theirs "
        "(docs/own_tasks.md).",
        lacking={},
        stream=True,
    ),
    Field("flow.distribution", "str", "How noise levels σ are drawn.", DISTRIBUTIONS),
    Field("flow.mean", "float", "Of the logit-normal distribution, in logits.", ANY),
    Field("flow.std", "float", "Of the logit-normal distribution, in logits.", POSITIVE),
    Field(
        "flow.shift",
        "float",
        "σ' = s·σ / (1 + (s − 1)·σ): above 1 more time near noise.",
        POSITIVE,
    ),
    Field(
        "flow.clean_share",
        "float",
        "Share of bundles whose given frames are clean, as in sampling; the others have a noise "
        "level per frame, as in the paper.",
        SHARE,
        "of bundles",
        stream=True,
    ),
    Field(
        "flow.condition_sigma",
        "float",
        "Largest σ that the network is told of a clean frame.",
        SHARE,
    ),
    Field(
        "flow.ray_shift",
        "float",
        "Shift of ray maps, whose σ is uniform before it; None: drawn as those of pictures.",
        POSITIVE,
        lacking=None,
        none=True,
    ),
    Field(
        "flow.ray_weight",
        "float",
        "Weight of ray maps in the loss, beside 1 of pictures.",
        NOT_NEGATIVE,
        lacking=1.0,
    ),
    Field(
        "train.steps",
        "int",
        "Length of the run. It may grow in the same workdir: as it is with the schedules constant, "
        "rsqrt and wsd, by --extend with the others.",
        POSITIVE,
        "steps",
    ),
    Field(
        "train.batch_rows",
        "int",
        "Rows per batch, all devices together.",
        POSITIVE,
        "rows",
        stream=True,
    ),
    Field(
        "train.accumulate",
        "int",
        "Batches per step, whose gradients are summed.",
        POSITIVE,
        "batches",
        stream=True,
    ),
    Field(
        "train.products",
        "str",
        "What the operands of products with weights are rounded to while training; sums and "
        "activations keep model.dtype. dtype: nothing more than that. auto: bfloat16 on CPUs with "
        "instructions for it, elsewhere dtype.",
        PRODUCTS,
        lacking="dtype",
    ),
    Field(
        "train.caption_dropout",
        "float",
        "Share of bundles that are shown with an empty prompt, for guidance.",
        SHARE,
        "of bundles",
        stream=True,
    ),
    Field(
        "train.token_only_share",
        "float",
        "Share of bundles whose prompt keeps the task's token, its regions and its item, and loses "
        "the caption: what perception without a caption is asked with. Cached text cannot do it.",
        SHARE,
        "of bundles",
        lacking=0.0,
        stream=True,
    ),
    Field(
        "train.max_skipped",
        "int",
        "Steps in a row without a finite gradient at which the run stops.",
        POSITIVE,
        "steps",
    ),
    Field(
        "train.on_spike",
        "str",
        "What an outlying loss does, beside a line in incidents.jsonl: nothing more (report), the "
        "step is left out (skip), the run stops (stop), or it goes back to the last checkpoint and "
        "leaves the examples behind it out from there (rewind), those behind a loss that is not "
        "finite too.",
        ON_SPIKE,
        lacking="report",
    ),
    Field(
        "train.spike_factor",
        "float",
        "A task's mean loss in a step is outlying above this multiple of its running median.",
        Range("above 1", lambda value: value > 1),
        lacking=10.0,
    ),
    Field(
        "optim.name",
        "str",
        "The update rule; muon is for the matrices of the layers, and all else by adamw.",
        OPTIMIZERS,
        lacking="adamw",
    ),
    Field("optim.learning_rate", "float", "Peak of the learning rate.", POSITIVE),
    Field(
        "optim.schedule",
        "str",
        "How the learning rate goes after the warm-up; late_cosine stays at the peak for the first "
        "half and follows a cosine in the second, wsd stays and falls linearly in the last "
        "decay_share, rsqrt falls with the root of the step and ends nowhere.",
        SCHEDULES,
    ),
    Field(
        "optim.warmup_steps",
        "int",
        "Linear warm-up; less than train.steps.",
        NOT_NEGATIVE,
        "steps",
    ),
    Field("optim.end_factor", "float", "Learning rate at the end.", SHARE, "of the peak"),
    Field(
        "optim.decay_share",
        "float",
        "Last part of the run, in which wsd falls.",
        SHARE,
        "of the steps",
        lacking=0.2,
    ),
    Field("optim.b1", "float", "Decay of the mean of gradients.", BELOW_ONE, "per step"),
    Field("optim.b2", "float", "Decay of the mean of their squares.", BELOW_ONE, "per step"),
    Field("optim.eps", "float", "Added to the root of that mean.", POSITIVE),
    Field("optim.weight_decay", "float", "Decay of matrices; nothing else decays.", NOT_NEGATIVE),
    Field("optim.clip_norm", "float", "Largest norm of the gradient.", POSITIVE),
    Field(
        "optim.moments_dtype",
        "str",
        "Precision of the mean of gradients (adafactor has none); that of squares stays float32.",
        MOMENTS,
        lacking="float32",
    ),
    Field("ema.max_decay", "float", "Longest memory of the average.", SHARE, "per step"),
    Field(
        "ema.power",
        "float",
        "The decay is 1 − (1 + step)^−power until it is max_decay.",
        POSITIVE,
    ),
    Field(
        "ema.offload",
        "bool",
        "Keeps it in the host's memory: 4 bytes per parameter.",
        lacking=False,
        free=True,
    ),
    Field("checkpoint.every_steps", "int", "Saves that often.", POSITIVE, "steps", free=True),
    Field("checkpoint.every_minutes", "float", "And that often.", POSITIVE, "minutes", free=True),
    Field("checkpoint.keep_last", "int", "Recent ones that stay.", POSITIVE, free=True),
    Field(
        "checkpoint.keep_every",
        "int",
        "One stays for good that often; 0: none.",
        NOT_NEGATIVE,
        "steps",
        free=True,
    ),
    Field(
        "checkpoint.local_folder",
        "str",
        "On a disk of each host, for saves beside the checkpoints: a run that is started again on "
        "the same hosts goes on from the newest that all have. Empty: none.",
        lacking="",
        free=True,
    ),
    Field(
        "checkpoint.local_every",
        "int",
        "Saves there that often.",
        POSITIVE,
        "steps",
        lacking=100,
        free=True,
    ),
    Field(
        "checkpoint.accept_changes",
        "bool",
        "Goes on although code, versions, weights or data are others than at the last start.",
        lacking=False,
        free=True,
    ),
    Field("log.every_steps", "int", "Writes metrics that often.", POSITIVE, "steps", free=True),
    Field(
        "log.held_out_at",
        "steps",
        "Steps at which the held-out loss is measured, besides:",
        NOT_NEGATIVE,
        free=True,
    ),
    Field("log.held_out_every", "int", "Measures it that often.", POSITIVE, "steps", free=True),
    Field("log.held_out_batches", "int", "Batches it is over.", POSITIVE, "batches", free=True),
    Field(
        "log.sample_every",
        "int",
        "Draws samples that often; 0: never.",
        NOT_NEGATIVE,
        "steps",
        free=True,
    ),
    Field("log.sample_steps", "int", "Steps of sampling.", POSITIVE, "Euler steps", free=True),
    Field("log.sample_rows", "int", "Rows sampled together.", POSITIVE, "rows", free=True),
    Field(
        "log.sample_examples",
        "int",
        "Samples per direction: one is always of the same example, the others are of others each "
        "time.",
        POSITIVE,
        "examples",
        lacking=1,
        free=True,
    ),
    Field(
        "log.guidance",
        "float",
        "Scale of classifier-free guidance in samples; 1: none.",
        NOT_NEGATIVE,
        free=True,
    ),
    Field(
        "log.evaluate_every",
        "int",
        "Generates and measures a few held-out examples of every direction that often, into the "
        "metrics; 0: never. Sampling is that of log.sample_steps, log.sample_rows, log.guidance.",
        NOT_NEGATIVE,
        "steps",
        lacking=0,
        free=True,
    ),
    Field(
        "log.evaluate_examples",
        "int",
        "Examples per direction of that evaluation.",
        POSITIVE,
        "examples",
        lacking=8,
        free=True,
    ),
    Field(
        "log.prompts",
        "str",
        "File of requests of your own, a JSON object a line (docs/evaluation.md), sampled at step "
        "0 and with the samples, each beside its result at step 0; empty: none.",
        lacking="",
        free=True,
    ),
    Field(
        "log.profile_at",
        "int",
        "Step before which a profile starts; 0: none.",
        NOT_NEGATIVE,
        lacking=0,
        free=True,
    ),
    Field(
        "log.profile_steps",
        "int",
        "Steps it lasts.",
        POSITIVE,
        "steps",
        lacking=3,
        free=True,
    ),
    Field(
        "log.allow_recompile",
        "bool",
        "Whether the train step may be compiled again after the first time; else the run stops.",
        lacking=False,
        free=True,
    ),
    Field(
        "log.on_hang",
        "str",
        "What the watchdog does where nothing moves, beside saying where: exit ends with a code of "
        "its own, so that a launcher starts the run again.",
        ON_HANG,
        lacking="report",
        free=True,
    ),
    Field(
        "log.trackers",
        "names",
        "Where metrics and samples go, beside metrics.jsonl and the workdir.",
        TRACKERS,
        lacking=("tensorboard",),
        free=True,
    ),
    Field(
        "log.webhook",
        "str",
        "URL that gets a JSON object at the start, the end and a failure of the run; empty: none.",
        lacking="",
        free=True,
    ),
    Field("mesh.replica", "int", "Copies of the weights; rows are split.", AXIS, free=True),
    Field("mesh.fsdp", "int", "Parts of every large matrix; rows are split.", AXIS, free=True),
    Field("mesh.tensor", "int", "Parts of heads and hidden units.", AXIS, free=True),
    Field("mesh.sequence", "int", "Parts of the tokens of a row.", AXIS, free=True),
    Field(
        "mesh.slices",
        "int",
        "Parts of the machine joined by a slower network; replicas span them.",
        POSITIVE,
        lacking=1,
        free=True,
    ),
    Field("lora.rank", "int", "Width of an adapter.", POSITIVE, "channels"),
    Field("lora.alpha", "float", "What an adapter adds is multiplied by alpha / rank.", POSITIVE),
    Field(
        "lora.rank_pattern",
        "weights",
        "Widths of the targets that have another: lora.rank_pattern.wq=64.",
        POSITIVE,
        "channels",
        lacking={},
    ),
    Field(
        "lora.targets",
        "names",
        "Matrices that have an adapter; wk_y, wv_y and y_embedder read the prompt.",
        tuple(TARGETS),
    ),
    Field(
        "lora.dora",
        "bool",
        "Whether the lengths of the adapted columns are trained too (DoRA, arXiv 2402.09353).",
        lacking=False,
    ),
    Field(
        "lora.init_adapter",
        "str",
        "Adapter, a file or a folder with one, that training goes on from: of the same base, "
        "targets and ranks. Empty: adapters that change nothing.",
        lacking="",
    ),
    Field("lora.frozen_dtype", "str", "Precision of the weights beside them.", COMPUTE_DTYPES),
)
BY_PATH = {field.path: field for field in FIELDS}


def section_fields(section: str) -> dict[str, Field]:
    """The fields of a section by name; "" for those of the config itself."""
    return {field.name: field for field in FIELDS if field.section == section}


def field_of(path: str) -> Field | None:
    """The field that a path is of or in ("data.tasks.faceid" is in "data.tasks"); None: unknown."""
    if path in BY_PATH:
        return BY_PATH[path]
    if path.startswith("data.own_tasks."):
        return BY_PATH["data.own_tasks"]
    parent = BY_PATH.get(path.rpartition(".")[0])
    return parent if parent is not None and parent.kind == "weights" else None


def is_free(path: str) -> bool:
    """Whether a field may differ between two starts of one run."""
    field = field_of(path)
    return field is not None and field.free


def table() -> str:
    """The text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Every field of a config. `--config.section.field=VALUE` sets one, `--print` shows them",
        "resolved. *stream*: the field changes which rows are trained on, and a checkpoint goes on",
        "with the same value only; *free*: it may change between two starts of one run. Older",
        "runs that lack a field go on with the value named last. This page is written from",
        "`onediff_jax/experiment/schema.py`.",
    ]
    for section, title in SECTIONS.items():
        lines += ["", f"## {f'{section}: ' if section else ''}{title}", ""]
        lines += ["| field | type | values | what | |", "|---|---|---|---|---|"]
        lines += [_line(field) for field in section_fields(section).values()]
        if section == "optim":
            lines += _state_bytes()
    return "\n".join(lines) + "\n"


def _state_bytes() -> list[str]:
    lines = [
        "",
        "Weights, their moving average and the optimizer's moments take, in bytes per parameter",
        "(`--print` says it of a config; muon of matrices, the rest as adamw; optax keeps no",
        "moments in 8 bits):",
        "",
        "| optim.name | " + " | ".join(f"moments in {dtype}" for dtype in MOMENTS) + " |",
        "|---|" + "---|" * len(MOMENTS),
    ]
    return lines + [
        f"| {name} | " + " | ".join(map(str, sizes)) + " |" for name, sizes in STATE_BYTES.items()
    ]


def _line(field: Field) -> str:
    if isinstance(field.allowed, Range):
        values = field.allowed.says + (f" {field.unit}" if field.unit else "")
    else:
        values = ", ".join(field.allowed or ())
    values += ", or None" if field.none else ""
    notes = [f"{field.only} data" if field.only else ""]
    notes += ["stream" if field.stream else "", "free" if field.free else ""]
    notes += ["" if field.lacking is REQUIRED else f"lacking: `{field.lacking!r}`"]
    notes = "; ".join(filter(None, notes))
    return f"| `{field.path}` | {field.kind} | {values} | {field.says} | {notes} |"


if __name__ == "__main__":
    print(table(), end="")
