"""The settings of the loss, the steps and the optimizer."""

from onediff_jax.experiment.field import ANY, BELOW_ONE, NOT_NEGATIVE, POSITIVE, SHARE, Field, Range
from onediff_jax.flow.times import DISTRIBUTIONS

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

FIELDS = (
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
        rounding=True,
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
)
