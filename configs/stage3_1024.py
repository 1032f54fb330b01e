"""Stage 3 of the paper: text-to-image at 1024 × 1024.

    python -m onediff_jax.prepare --input=DATA --format=webdataset --out=prepared/t2i_1024 \
        --resolution=1024 --encoder=sd3 --text=sd3
    python -m onediff_jax.export --source=runs/stage2_multitask --out=exports/stage2_multitask
    python -m onediff_jax.main --config=configs/stage3_1024.py

The paper does not say for how long; 100,000 steps here.
Hardware: the paper used a TPU v3-256; any mesh whose size divides the batch will do. State is
20 bytes a parameter, 56 GB for 2.8 B, split over all devices.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The complete experiment; every field can be set by --config.section.field=value."""
    c = ConfigDict()
    c.name = "stage3_1024"
    c.seed = 0
    c.init_from = "exports/stage2_multitask"  # weights to start from, in the released layout

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
    c.model.remat = "full"  # none, attention, full
    c.model.unroll = 1  # layers unrolled

    c.text = ConfigDict()
    c.text.kind = "cached"  # embeddings that prepare --text stored; or hashed
    c.text.folder = ""  # the T5's folder, to sample prompts that are not cached
    c.text.max_length = 300  # tokens per prompt

    # Task group, slots, frames per slot, tokens per frame (1 token = 16 × 16 pixels).
    c.rows = (("t2i", 1, 1, 4096),)

    c.data = ConfigDict()
    c.data.name = "prepared"
    # Prepared folders, each with its weight among those that have a task.
    c.data.folders = (("prepared/t2i_1024", 1.0),)
    c.data.encoder = "sd3"  # the autoencoder that prepare used, to show pictures
    c.data.evaluate_on = "held_out"  # or train
    c.data.threads = 16  # readers
    c.data.prefetch = 8  # batches
    c.data.tasks = ConfigDict()  # weight within the task's group
    c.data.tasks.text2image = 1.0

    c.flow = ConfigDict()
    c.flow.distribution = "logit_normal"  # or uniform
    c.flow.mean = 0.0
    c.flow.std = 1.0
    c.flow.shift = 3.0
    c.flow.clean_share = 0.0  # of bundles whose given frames are clean; the paper has none
    c.flow.condition_sigma = 0.1  # largest σ told for a clean frame

    c.train = ConfigDict()
    c.train.steps = 100000
    c.train.batch_rows = 256  # per step, all devices together
    c.train.accumulate = 1  # such batches per step
    c.train.caption_dropout = 0.1  # share of prompts
    c.train.max_skipped = 100  # steps in a row without a finite gradient before it stops

    c.optim = ConfigDict()
    c.optim.learning_rate = 5e-4  # peak
    c.optim.schedule = "constant"  # constant, cosine, linear, late_cosine
    c.optim.warmup_steps = 10000  # not stated in the paper, nor is what follows
    c.optim.end_factor = 1.0  # of the peak, at the end
    c.optim.b1 = 0.9
    c.optim.b2 = 0.95
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01
    c.optim.clip_norm = 1.0

    c.ema = ConfigDict()
    c.ema.max_decay = 0.9999
    c.ema.power = 2 / 3

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 2500
    c.checkpoint.every_minutes = 30.0
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every = 50000  # steps; 0 = none for good

    c.log = ConfigDict()
    c.log.every_steps = 50
    c.log.held_out_at = (1000,)  # steps
    c.log.held_out_every = 5000  # steps
    c.log.held_out_batches = 8
    c.log.sample_every = 5000  # steps
    c.log.sample_steps = 50  # Euler steps
    c.log.sample_rows = 4  # rows sampled together
    c.log.guidance = 4.0

    c.mesh = ConfigDict()
    c.mesh.replica = 1
    c.mesh.fsdp = -1  # −1: the devices left
    c.mesh.tensor = 1
    c.mesh.sequence = 1
    return c.lock()
