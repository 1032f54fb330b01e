"""The settings of the network, its prompts and its pictures."""

from onediff_jax.data.buckets import ASPECTS
from onediff_jax.data.prepared.split import SPLITS
from onediff_jax.data.world.layout import LEVELS
from onediff_jax.experiment.field import NOT_NEGATIVE, POSITIVE, SEED, SHARE, Field
from onediff_jax.models.attention.dispatch import IMPLEMENTATIONS
from onediff_jax.models.loading import COMPUTE_DTYPES
from onediff_jax.models.remat import REMATS

DATA = ("world", "prepared")
ENCODE = ("stored", "online")
TEXT = ("hashed", "cached", "t5")

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
    Field("model.dtype", "str", "Precision of activations.", COMPUTE_DTYPES, rounding=True),
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
        "Memory for the embedded world, shared out among the reading processes of a host: for the "
        "views that several tasks share, and for whole examples where all of them fit; what was "
        "used least recently is rendered again.",
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
)
