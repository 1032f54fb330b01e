"""Train on my folder: pictures with captions, and nothing else to download.

    python -m onediff_jax.prepare --input=PICTURES --format=folder --out=prepared/mine \\
        --resolution=128 \\
        --tasks=text2image,deblurring,image_inpainting,super_resolution,canny2image,hed2img
    python -m onediff_jax.main --config=configs/finetune_folder.py:prepared/mine --workdir=runs/mine

Tasks (your own too: docs/own_tasks.md), rows, encoders and the kind of text are those of the
folder; --print shows them. Several folders, one per kind of data, are trained on together:
--config=configs/finetune_folder.py:prepared/photos,prepared/depth,prepared/views

A small network from scratch, with the light codec and hashed captions: minutes on a CPU teach it
colours and layout of the pictures, and to sharpen and fill them; a GPU and more steps the rest.
To go on from other weights of this shape, export them and give --config.init_from=FOLDER. To
fine-tune the released weights instead: configs/finetune_pretrained.py.
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
# What a row holds of 64 tokens or fewer; of larger pictures one each.
SLOTS = {("t2i", 1): 2, ("i2i", 2): 3}  # by group and frames; of others 1


def get_config(folder: str = "prepared/mine") -> ConfigDict:
    """The complete experiment; every field can be set by --config.section.field=value.

    Args:
      folder: the prepared folder, or several with commas between them.
    """
    folders = tuple(folder.split(","))
    c = ConfigDict()
    c.name = "finetune_folder"
    c.preset = ""
    c.seed = 0
    c.init_from = ""  # weights in the released layout to start from; "" = from scratch

    c.model = ConfigDict()
    c.model.hidden_size = 192  # channels
    c.model.depth = 4  # layers
    c.model.num_heads = 4
    c.model.num_kv_heads = 2
    c.model.multiple_of = 64  # feed-forward width is rounded up to it
    c.model.ffn_dim_multiplier = config_dict.placeholder(float)
    c.model.caption_channels = 64
    c.model.in_channels = 16
    c.model.patch_size = 2  # latents per token side
    c.model.norm_eps = 1e-5
    c.model.attention_softcap = 30.0  # logits; 0 is not "off", None is
    c.model.dtype = "float32"  # of activations: float32 or bfloat16
    c.model.attention = "auto"  # reference, chunked; splash (TPU); tokamax, triton, cudnn (GPU)
    c.model.remat = "none"  # none, feed_forward, mixed, attention, kernels, full
    c.model.unroll = 0  # layers unrolled; 0 = all: faster on CPU, slower to compile

    c.text = ConfigDict()
    c.text.kind = "hashed"  # or cached, of captions that prepare --text embedded
    c.text.folder = ""  # the T5 that embedded them
    c.text.max_length = 48  # words per prompt

    # Task group, slots, frames per slot, tokens per frame (1 token = 16 × 16 pixels).
    # This and other fields below follow the folder once it is prepared: _as_prepared.
    c.rows = (("t2i", 2, 1, 64), ("i2i", 3, 2, 64))

    c.data = ConfigDict()
    c.data.name = "prepared"
    c.data.folders = tuple((name, 1.0) for name in folders)  # prepared folders and their weights
    c.data.encoder = "light"  # what prepare used
    c.data.encode = "stored"  # or online: pixels through that autoencoder beside the training
    c.data.evaluate_on = "train"  # or held_out, when the folder is large enough to spare some
    c.data.bucket_cache_gib = 64.0  # of copies of folders in object stores
    c.data.block = 0  # neighbours that stay together in the order; 0: none do
    c.data.prior_weight = 1.0  # of the loss of examples with is_reg
    c.data.flip_share = 0.0  # of examples, mirrored where that leaves them true
    c.data.random_crop = False  # of pictures of text2image that are larger than their slot
    c.data.workers = 0  # reading processes; 0: the trainer itself reads
    c.data.threads = 2  # readers in each
    c.data.prefetch = 16  # batches
    c.data.own_tasks = ConfigDict()  # defined beside the built-in ones; folders bring theirs
    c.data.tasks = ConfigDict(dict.fromkeys(TASKS, 0.0))  # weight within the task's group
    c.data.tasks.text2image = 1.0
    c.data.tasks.deblurring = 1.0
    c.data.tasks.image_inpainting = 1.0
    c.data.tasks.super_resolution = 1.0
    c.data.tasks.canny2image = 1.0
    c.data.tasks.hed2img = 1.0

    c.flow = ConfigDict()
    c.flow.distribution = "logit_normal"  # or uniform
    c.flow.mean = 0.0
    c.flow.std = 1.0
    c.flow.shift = 3.0
    c.flow.clean_share = 0.7  # of bundles, whose given frames are clean
    c.flow.condition_sigma = 0.2  # largest σ told for a clean frame
    c.flow.ray_shift = config_dict.placeholder(float)  # of ray maps; None: as pictures
    c.flow.ray_weight = 1.0  # of ray maps in the loss, beside 1 of pictures

    c.train = ConfigDict()
    c.train.steps = 2000
    c.train.batch_rows = 4  # per step, all devices together
    c.train.accumulate = 1  # such batches per step
    c.train.products = "auto"  # operands while training; auto: bfloat16 on CPUs quick at it
    c.train.caption_dropout = 0.1  # share of prompts that are empty, for guidance
    c.train.token_only_share = 0.1  # share of prompts that lose their caption; 0 for cached
    c.train.max_skipped = 100  # steps in a row without a finite gradient before it stops
    c.train.on_spike = "report"  # or skip, stop, rewind: what an outlying loss does
    c.train.spike_factor = 10.0  # × the running median of the task: an outlying loss

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # or muon, adafactor, lion, sgd
    c.optim.learning_rate = 2e-3  # peak
    c.optim.schedule = "late_cosine"  # constant, cosine, linear, late_cosine, wsd, rsqrt
    c.optim.warmup_steps = 50
    c.optim.end_factor = 0.02  # of the peak, at the end
    c.optim.decay_share = 0.2  # of the steps, at the end, in which wsd falls
    c.optim.b1 = 0.9
    c.optim.b2 = 0.99
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01
    c.optim.clip_norm = 1.0
    c.optim.moments_dtype = "float32"  # of the first moment: float32 or bfloat16

    c.ema = ConfigDict()
    c.ema.max_decay = 0.995
    c.ema.power = 2 / 3
    c.ema.offload = False  # keeps it in the host's memory: 4 bytes per parameter

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 500
    c.checkpoint.every_minutes = 10.0
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every = 0  # steps; 0 = none for good
    c.checkpoint.local_folder = ""  # e.g. /local/ssd: frequent saves on the disk of each host
    c.checkpoint.local_every = 100  # steps
    c.checkpoint.accept_changes = (
        False  # True: other code, versions, data or weights stop no restart
    )

    c.log = ConfigDict()
    c.log.every_steps = 50
    c.log.held_out_at = (50,)  # steps
    c.log.held_out_every = 500  # steps
    c.log.held_out_batches = 8
    c.log.sample_every = 500  # steps
    c.log.sample_steps = 20  # Euler steps
    c.log.sample_rows = 4  # rows sampled together
    c.log.sample_examples = 2  # per direction: one always the same, others by turns
    c.log.guidance = 1.0
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
    _as_prepared(c, _together([_manifest(name) for name in folders]))
    return c.lock()


def _as_prepared(c: ConfigDict, manifest: dict) -> None:
    """Sets what follows from the folder."""
    tasks = {name: facts for name, facts in manifest.get("tasks", {}).items() if facts["train"]}
    if tasks:
        c.data.tasks = ConfigDict(dict.fromkeys(TASKS, 0.0) | dict.fromkeys(tasks, 1.0))
        enough = all(facts["held_out"] >= 8 for facts in tasks.values())
        c.data.evaluate_on = "held_out" if enough else "train"
    training = manifest.get("training")
    if not training:
        return
    c.rows = tuple(
        (
            group,
            max(1, SLOTS.get((group, frames), 1) * 64 // max(64, tokens)),
            frames,
            _rounded(tokens),
        )
        for group, frames, tokens in _slots(training)
    )
    c.data.encoder, c.text.kind = training["encoder"], training["text"]["kind"]
    if c.text.kind == "cached":
        c.text.folder, c.text.max_length = (training["text"][k] for k in ("folder", "max_length"))
        c.model.caption_channels = manifest["plan"]["encoders"]["text"]["width"]


def _together(manifests: list[dict]) -> dict:
    """One manifest for several folders: their tasks, and slots that hold all their examples."""
    found = [manifest for manifest in manifests if manifest]
    if len(found) < 2:
        return found[0] if found else {}
    tasks: dict[str, dict] = {}
    room: dict[tuple, list] = {}
    for manifest in found:
        for name, facts in manifest["tasks"].items():
            counts = tasks.setdefault(name, {"train": 0, "held_out": 0})
            for split in counts:
                counts[split] += facts[split]
        for group, frames, tokens in _slots(manifest.get("training") or {"groups": {}}):
            slot = room.setdefault((group, frames if group == "i2i" else 0), [group, 0, 0])
            slot[1:] = max(slot[1], frames), max(slot[2], tokens)
    slots = [room[kind] for kind in sorted(room)]
    training = {**found[0]["training"], "slots": slots} if found[0].get("training") else None
    return {**found[0], "tasks": tasks, "training": training}


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
