"""Train on my folder: pictures with captions, and nothing else to download.

    python -m onediff_jax.prepare --input=PICTURES --format=folder --out=prepared/mine \\
        --resolution=128 \\
        --tasks=text2image,deblurring,image_inpainting,super_resolution,canny2image,hed2img
    python -m onediff_jax.main --config=configs/finetune_folder.py:prepared/mine --workdir=runs/mine

Tasks and slots are those of the folder, also tasks of your own (docs/own_tasks.md).

A small network from scratch, with the light codec and hashed captions: minutes on a CPU teach it
colours and layout of the pictures, and to sharpen and fill them; a GPU and more steps the rest.
To go on from other weights of this shape, export them and give --config.init_from=FOLDER. To
fine-tune the released weights instead: configs/finetune_pretrained.py.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict, config_dict

# What is trained where the folder is not there to ask: task, and slots.
TASKS = (
    *("text2image", "deblurring", "image_inpainting", "super_resolution", "canny2image"),
    "hed2img",
)
SLOTS = (("t2i", 1, 64), ("i2i", 2, 64))
COUNTS = {("t2i", 1): 2, ("i2i", 2): 3}  # slots of a row by group and frames; of others 1


def get_config(folder: str = "prepared/mine") -> ConfigDict:
    """The complete experiment; every field can be set by --config.section.field=value."""
    tasks, slots = _of_folder(folder)
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
    c.rows = tuple((g, COUNTS.get((g, frames), 1), frames, tokens) for g, frames, tokens in slots)

    c.data = ConfigDict()
    c.data.name = "prepared"
    c.data.folders = ((folder, 1.0),)  # prepared folders, each with its weight
    c.data.encoder = "light"  # what prepare used
    c.data.evaluate_on = "train"  # or held_out, when the folder is large enough to spare some
    c.data.workers = 0  # reading processes; 0: the trainer itself reads
    c.data.threads = 2  # readers in each
    c.data.prefetch = 16  # batches
    c.data.own_tasks = ConfigDict()  # defined beside the built-in ones; folders bring theirs
    c.data.tasks = ConfigDict()  # weight within the task's group
    for task in tasks:  # those that the folder has
        c.data.tasks[task] = 1.0

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
    c.log.prompts = ""  # FILE.jsonl of prompts and pictures of one's own
    c.log.guidance = 1.0
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
    return c.lock()


def _of_folder(folder: str) -> tuple:
    """The tasks of a prepared folder, and the slots that hold their examples."""
    file = Path(folder) / "manifest.json"
    if not file.exists():
        return TASKS, SLOTS
    manifest = json.loads(file.read_text())
    slots = manifest.get("training", {}).get("slots", SLOTS)
    return tuple(manifest["tasks"]), tuple(map(tuple, slots))
