"""Fine-tuning for editing by instruction, at 512 × 512.

    python -m onediff_jax.prepare --input=EDITS --format=editing --out=prepared/editing_512 \\
        --resolution=512 --encoder=released --text=released
    python -m onediff_jax.main --config=configs/finetune_editing.py:prepared/editing_512

released/ is a folder of the released layout, or a link to one: transformer, vae, text_encoder,
tokenizer. State takes 56 GB, split over the devices; configs/finetune_pretrained.py:lora needs a
tenth.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict, config_dict

# Every task; those without examples in the folder have weight 0.
TASKS = (
    *("text2image", "deblurring", "image_inpainting", "super_resolution", "canny2image"),
    *("depth2image", "hed2img", "pose2image", "semanticmap2image", "boundingbox2image"),
    *("image_editing", "faceid", "subject_driven", "multiview"),
)


def get_config(folder: str = "prepared/editing_512") -> ConfigDict:
    """The complete experiment; every field can be set by --config.section.field=value."""
    c = ConfigDict()
    c.name = "finetune_editing"
    c.preset = ""
    c.seed = 0
    c.init_from = "released"  # weights to start from, in the released layout

    c.model = ConfigDict()
    c.model.hidden_size = 3840  # channels
    c.model.depth = 16  # layers
    c.model.num_heads = 32
    c.model.num_kv_heads = 8
    c.model.multiple_of = 256  # feed-forward width is rounded up to it
    c.model.ffn_dim_multiplier = config_dict.placeholder(float)
    c.model.caption_channels = 2048
    c.model.in_channels = 16
    c.model.patch_size = 2  # latents per token side
    c.model.norm_eps = 1e-5
    c.model.attention_softcap = 30.0  # logits; 0 is not "off", None is
    c.model.dtype = "bfloat16"  # of activations: float32 or bfloat16
    c.model.attention = "auto"  # reference, chunked; splash (TPU); tokamax, triton, cudnn (GPU)
    c.model.remat = "full"  # none, feed_forward, mixed, attention, kernels, full
    c.model.unroll = 1  # layers unrolled

    c.text = ConfigDict()
    c.text.kind = "cached"  # embeddings that prepare --text stored; or hashed
    c.text.folder = "released"  # their T5, for prompts that are not cached
    c.text.max_length = 300  # tokens per prompt

    # Task group, slots, frames per slot, tokens per frame (1 token = 16 × 16 pixels).
    c.rows = (("i2i", 1, 2, 1024),)

    c.data = ConfigDict()
    c.data.name = "prepared"
    # Prepared folders, each with its weight among those that have a task.
    c.data.folders = ((folder, 1.0),)
    c.data.encoder = "released"  # the autoencoder that prepare used, to show pictures
    c.data.encode = "stored"  # or online: pixels through that autoencoder beside the training
    c.data.evaluate_on = "held_out"  # or train
    c.data.bucket_cache_gib = 64.0  # of copies of folders in object stores
    c.data.block = 0  # neighbours that stay together in the order; 0: none do
    c.data.prior_weight = 1.0  # of the loss of examples with is_reg
    c.data.flip_share = 0.0  # of examples, mirrored where that leaves them true
    c.data.random_crop = False  # of pictures of text2image that are larger than their slot
    c.data.workers = 0  # reading processes; 0: the trainer itself reads
    c.data.threads = 16  # readers in each
    c.data.prefetch = 8  # batches
    c.data.own_tasks = ConfigDict()  # defined beside the built-in ones; folders bring theirs
    c.data.tasks = ConfigDict(dict.fromkeys(TASKS, 0.0))  # weight within the task's group
    c.data.tasks.image_editing = 1.0

    c.flow = ConfigDict()
    c.flow.distribution = "logit_normal"  # or uniform
    c.flow.mean = 0.0
    c.flow.std = 1.0
    c.flow.shift = 3.0
    c.flow.clean_share = 0.7  # of bundles, whose given frames are clean, as in sampling
    c.flow.condition_sigma = 0.1  # largest σ told for a clean frame
    c.flow.ray_shift = config_dict.placeholder(float)  # of ray maps; None: as pictures
    c.flow.ray_weight = 1.0  # of ray maps in the loss, beside 1 of pictures

    c.train = ConfigDict()
    c.train.steps = 20000
    c.train.batch_rows = 64  # per step, all devices together
    c.train.accumulate = 1  # such batches per step
    c.train.products = "dtype"  # operands while training; auto: bfloat16 on CPUs quick at it
    c.train.caption_dropout = 0.1  # share of prompts that are empty, for guidance
    c.train.token_only_share = 0.0  # share of prompts without a caption; cached text has none such
    c.train.max_skipped = 100  # steps in a row without a finite gradient before it stops
    c.train.on_spike = "report"  # or skip, stop, rewind: what an outlying loss does
    c.train.spike_factor = 10.0  # × the running median of the task: an outlying loss

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # or muon, adafactor, lion, sgd
    c.optim.learning_rate = 5e-5  # peak
    c.optim.schedule = "cosine"  # constant, cosine, linear, late_cosine, wsd, rsqrt
    c.optim.warmup_steps = 500
    c.optim.end_factor = 0.1  # of the peak, at the end
    c.optim.decay_share = 0.2  # of the steps, at the end, in which wsd falls
    c.optim.b1 = 0.9
    c.optim.b2 = 0.95
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01
    c.optim.clip_norm = 1.0
    c.optim.moments_dtype = "float32"  # of the first moment: float32 or bfloat16

    c.ema = ConfigDict()
    c.ema.max_decay = 0.999
    c.ema.power = 2 / 3
    c.ema.offload = False  # keeps it in the host's memory: 4 bytes per parameter

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 1000
    c.checkpoint.every_minutes = 30.0
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every = 0  # steps; 0 = none for good
    c.checkpoint.local_folder = ""  # e.g. /local/ssd: frequent saves on the disk of each host
    c.checkpoint.local_every = 100  # steps
    c.checkpoint.accept_changes = (
        False  # True: other code, versions, data or weights stop no restart
    )

    c.log = ConfigDict()
    c.log.every_steps = 50
    c.log.held_out_at = (100,)  # steps
    c.log.held_out_every = 1000  # steps
    c.log.held_out_batches = 8
    c.log.sample_every = 1000  # steps
    c.log.sample_steps = 50  # Euler steps
    c.log.sample_rows = 4  # rows sampled together
    c.log.sample_examples = 2  # per direction: one always the same, others by turns
    c.log.guidance = 4.0
    c.log.evaluate_every = 0  # steps; 0 = no measured samples while training
    c.log.evaluate_examples = 8  # per direction
    c.log.prompts = ""  # .jsonl of requests of your own, sampled with the samples
    c.log.profile_at = 0  # step before which a profile starts; 0 = none
    c.log.profile_steps = 3
    c.log.allow_recompile = False  # of the train step, after the first
    c.log.on_hang = "report"  # or exit, with a code that makes launchers start again
    c.log.trackers = ("tensorboard",)  # also wandb, trackio, mlflow
    c.log.webhook = ""  # URL that is told of start, end and failure

    c.mesh = ConfigDict()
    c.mesh.replica = 1
    c.mesh.fsdp = -1  # −1: the devices left
    c.mesh.tensor = 1
    c.mesh.sequence = 1
    c.mesh.slices = 1  # parts of the machine joined by a slower network; replicas span them
    _as_prepared(c, _manifest(folder))
    return c.lock()


def _as_prepared(c: ConfigDict, manifest: dict) -> None:
    """Sets what follows from the folder: rows of one slot per task group, tasks, encoders."""
    tasks = [name for name, facts in manifest.get("tasks", {}).items() if facts["train"]]
    training = manifest.get("training")
    if not training:
        return
    c.data.tasks = ConfigDict(dict.fromkeys(TASKS, 0.0) | dict.fromkeys(tasks, 1.0))
    c.rows = tuple(
        (group, 1, frames, _rounded(tokens)) for group, frames, tokens in _slots(training)
    )
    c.data.encoder, text = training["encoder"], training["text"]
    c.text.kind = text["kind"] if text["kind"] == "cached" else "t5"  # these weights know T5 alone
    c.text.folder = text["folder"] or c.text.folder
    c.text.max_length = text["max_length"] or c.text.max_length


def _slots(training: dict) -> list:
    """(group, frames, tokens per frame) of the slots that hold the folder's examples."""
    groups = training["groups"].items()
    return training.get("slots") or [[name, g["frames"], g["tokens"]] for name, g in groups]


def _rounded(tokens: int) -> int:
    """Slots of a multiple of 16 tokens: rows are cut into chunks of a common divisor."""
    return tokens if tokens < 64 else -(-tokens // 16) * 16


def _manifest(folder: str) -> dict:
    """What prepare says of the folder; {} where it has not been prepared yet."""
    file = Path(folder) / "manifest.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} cannot be read ({error}): prepare the folder again") from None
