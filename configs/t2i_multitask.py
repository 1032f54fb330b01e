"""Every task of OneDiffusion at once, on the embedded world.

    python -m onediff_jax.main --config=configs/t2i_multitask.py            the preset is chosen
    python -m onediff_jax.main --config=configs/t2i_multitask.py:tiny       or named

Presets: tiny (2 CPU cores, minutes), base (one GPU), 2b8 (the released shape, a pod), auto (the
largest that fits the devices found; it says what it picked).
"""

from ml_collections import ConfigDict, config_dict

PRESETS = ("auto", "tiny", "base", "2b8")


def get_config(preset: str = "auto") -> ConfigDict:
    """The complete experiment; every field can be set by --config.section.field=value."""
    if preset not in PRESETS:
        raise ValueError(f"unknown {preset=}; choose from {PRESETS}")
    chosen = _largest_that_fits() if preset == "auto" else preset
    config = {"tiny": _tiny, "base": _base, "2b8": _2b8}[chosen]()
    config.preset = chosen
    return config.lock()


def _largest_that_fits() -> str:
    """The preset for the devices found: state is 20 bytes per parameter, split over them."""
    import jax

    devices = jax.devices()
    if devices[0].platform == "cpu":
        chosen = "tiny"
    else:
        gib = (devices[0].memory_stats() or {}).get("bytes_limit", 0) * len(devices) / 2**30
        chosen = "2b8" if gib >= 120 else "base" if gib >= 12 else "tiny"
    print(
        f"preset auto: {chosen}, for {len(devices)} × {devices[0].device_kind}. "
        f"Choose another with --config=configs/t2i_multitask.py:NAME, NAME one of {PRESETS[1:]}."
    )
    return chosen


def _tiny() -> ConfigDict:
    """Two CPU cores, ten minutes: 2 M parameters, 64 × 64 pictures."""
    c = ConfigDict()
    c.name = "t2i_multitask"
    c.preset = "tiny"
    c.seed = 0
    c.init_from = ""  # folder or hub id of the released layout to start from; "" = from scratch

    c.model = ConfigDict()
    c.model.hidden_size = 192  # channels
    c.model.depth = 4  # layers
    c.model.num_heads = 8
    c.model.num_kv_heads = 4
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
    c.text.kind = "hashed"  # words; t5: the T5 of text.folder
    c.text.folder = ""
    c.text.max_length = 48  # words per prompt

    # Task group, slots, frames per slot, tokens per frame (1 token = 16 × 16 pixels).
    c.rows = (("t2i", 2, 1, 16), ("i2i", 6, 2, 16), ("identity", 1, 3, 16), ("multiview", 1, 6, 16))

    c.data = ConfigDict()
    c.data.name = "world"
    c.data.seed = 0
    c.data.level = "simple"  # simple or rich
    c.data.scenes = 3000  # per task
    c.data.aspects = ("1:1",)  # width:height
    c.data.workers = 0  # reading processes; 0: the trainer itself reads
    c.data.threads = 1  # readers in each
    c.data.prefetch = 16  # batches
    c.data.own_tasks = ConfigDict()  # defined beside the built-in ones; folders bring theirs
    c.data.cache_gib = 1.0  # of rendered examples, all reading processes together
    c.data.tasks = ConfigDict()  # weight within the task's group
    c.data.tasks.text2image = 1.0
    c.data.tasks.deblurring = 1.0
    c.data.tasks.image_inpainting = 1.0
    c.data.tasks.super_resolution = 1.0
    c.data.tasks.canny2image = 1.0
    c.data.tasks.depth2image = 8.0
    c.data.tasks.hed2img = 1.0
    c.data.tasks.pose2image = 1.0
    c.data.tasks.semanticmap2image = 2.0
    c.data.tasks.boundingbox2image = 1.0
    c.data.tasks.image_editing = 1.0
    c.data.tasks.faceid = 1.0
    c.data.tasks.subject_driven = 1.0
    c.data.tasks.multiview = 1.0

    c.flow = ConfigDict()
    c.flow.distribution = "logit_normal"  # or uniform
    c.flow.mean = 0.0
    c.flow.std = 1.0
    c.flow.shift = 3.0
    c.flow.clean_share = 0.9  # of bundles, whose given frames are clean
    c.flow.condition_sigma = 0.2  # largest σ told for a clean frame
    c.flow.ray_shift = 30.0  # of ray maps, whose σ is uniform before it; None: as pictures
    c.flow.ray_weight = 0.1  # of ray maps in the loss, beside 1 of pictures

    c.train = ConfigDict()
    c.train.steps = 1800
    c.train.batch_rows = 4  # per step, all devices together
    c.train.accumulate = 1  # such batches per step
    c.train.products = "auto"  # operands while training; auto: bfloat16 on CPUs quick at it
    c.train.caption_dropout = 0.1  # share of prompts that are empty, for guidance
    c.train.token_only_share = 0.1  # share of prompts that lose their caption and keep the token
    c.train.max_skipped = 20  # steps in a row without a finite gradient before it stops
    c.train.on_spike = "report"  # or skip, stop, rewind: what an outlying loss does
    c.train.spike_factor = 10.0  # × the running median of the task: an outlying loss

    c.optim = ConfigDict()
    c.optim.name = "muon"  # or adamw, adafactor, lion, sgd
    c.optim.learning_rate = 5e-3  # peak
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
    c.log.held_out_every = 1000  # steps
    c.log.held_out_batches = 8
    c.log.sample_every = 1000  # steps
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
    return c


def _base() -> ConfigDict:
    """One GPU: 307 M parameters, 256 × 256 pictures; shares as in the long run of tiny."""
    c = ConfigDict()
    c.name = "t2i_multitask"
    c.preset = "base"
    c.seed = 0
    c.init_from = ""  # folder or hub id of the released layout to start from; "" = from scratch

    c.model = ConfigDict()
    c.model.hidden_size = 1152  # channels
    c.model.depth = 16  # layers
    c.model.num_heads = 16
    c.model.num_kv_heads = 4
    c.model.multiple_of = 256  # feed-forward width is rounded up to it
    c.model.ffn_dim_multiplier = config_dict.placeholder(float)
    c.model.caption_channels = 512
    c.model.in_channels = 16
    c.model.patch_size = 2  # latents per token side
    c.model.norm_eps = 1e-5
    c.model.attention_softcap = 30.0  # logits; 0 is not "off", None is
    c.model.dtype = "bfloat16"  # of activations: float32 or bfloat16
    c.model.attention = "auto"  # reference, chunked; splash (TPU); tokamax, cudnn (GPU)
    c.model.remat = "attention"  # none, feed_forward, mixed, attention, kernels, full
    c.model.unroll = 1  # layers unrolled

    c.text = ConfigDict()
    c.text.kind = "hashed"  # words; t5: the T5 of text.folder
    c.text.folder = ""
    c.text.max_length = 128  # words per prompt

    # Task group, slots, frames per slot, tokens per frame (1 token = 16 × 16 pixels).
    c.rows = (
        ("t2i", 1, 1, 256),
        ("i2i", 2, 2, 256),
        ("identity", 1, 4, 256),
        ("multiview", 1, 8, 256),
    )

    c.data = ConfigDict()
    c.data.name = "world"
    c.data.seed = 0
    c.data.level = "rich"  # simple or rich
    c.data.scenes = 20000  # per task
    c.data.aspects = ("1:1", "4:3", "3:4")  # width:height
    c.data.workers = 0  # reading processes; 0: the trainer itself reads
    c.data.threads = 8  # readers in each
    c.data.prefetch = 16  # batches
    c.data.own_tasks = ConfigDict()  # defined beside the built-in ones; folders bring theirs
    c.data.cache_gib = 4.0  # of rendered examples, all reading processes together
    c.data.tasks = ConfigDict()  # weight within the task's group
    c.data.tasks.text2image = 1.0
    c.data.tasks.deblurring = 2.0
    c.data.tasks.image_inpainting = 1.5
    c.data.tasks.super_resolution = 2.0
    c.data.tasks.canny2image = 1.0
    c.data.tasks.depth2image = 2.0
    c.data.tasks.hed2img = 1.0
    c.data.tasks.pose2image = 1.0
    c.data.tasks.semanticmap2image = 2.0
    c.data.tasks.boundingbox2image = 1.0
    c.data.tasks.image_editing = 1.0
    c.data.tasks.faceid = 1.0
    c.data.tasks.subject_driven = 1.0
    c.data.tasks.multiview = 1.0

    c.flow = ConfigDict()
    c.flow.distribution = "logit_normal"  # or uniform
    c.flow.mean = 0.0
    c.flow.std = 1.0
    c.flow.shift = 3.0
    c.flow.clean_share = 0.9  # of bundles, whose given frames are clean
    c.flow.condition_sigma = 0.2  # largest σ told for a clean frame
    c.flow.ray_shift = 30.0  # of ray maps, whose σ is uniform before it; None: as pictures
    c.flow.ray_weight = 0.4  # of ray maps in the loss, beside 1 of pictures

    c.train = ConfigDict()
    c.train.steps = 200000
    c.train.batch_rows = 16  # per step, all devices together
    c.train.accumulate = 1  # such batches per step
    c.train.products = "dtype"  # operands while training; auto: bfloat16 on CPUs quick at it
    c.train.caption_dropout = 0.1  # share of prompts that are empty, for guidance
    c.train.token_only_share = 0.1  # share of prompts that lose their caption and keep the token
    c.train.max_skipped = 100  # steps in a row without a finite gradient before it stops
    c.train.on_spike = "report"  # or skip, stop, rewind: what an outlying loss does
    c.train.spike_factor = 10.0  # × the running median of the task: an outlying loss

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # or muon, adafactor, lion, sgd
    c.optim.learning_rate = 3e-4  # peak
    c.optim.schedule = "cosine"  # constant, cosine, linear, late_cosine, wsd, rsqrt
    c.optim.warmup_steps = 2000
    c.optim.end_factor = 0.02  # of the peak, at the end
    c.optim.decay_share = 0.2  # of the steps, at the end, in which wsd falls
    c.optim.b1 = 0.9
    c.optim.b2 = 0.95
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01
    c.optim.clip_norm = 1.0
    c.optim.moments_dtype = "float32"  # of the first moment: float32 or bfloat16

    c.ema = ConfigDict()
    c.ema.max_decay = 0.9999
    c.ema.power = 2 / 3
    c.ema.offload = False  # keeps it in the host's memory: 4 bytes per parameter

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 2000
    c.checkpoint.every_minutes = 10.0
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every = 20000  # steps; 0 = none for good
    c.checkpoint.local_folder = ""  # e.g. /local/ssd: frequent saves on the disk of each host
    c.checkpoint.local_every = 100  # steps
    c.checkpoint.accept_changes = (
        False  # True: other code, versions, data or weights stop no restart
    )

    c.log = ConfigDict()
    c.log.every_steps = 50
    c.log.held_out_at = (50,)  # steps
    c.log.held_out_every = 5000  # steps
    c.log.held_out_batches = 8
    c.log.sample_every = 5000  # steps
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
    return c


def _2b8() -> ConfigDict:
    """A pod: the released shape, 2.8 B parameters, trained as in the mixed stage of the paper
    (configs/paper.py:stage2_multitask), which is over all but pictures and rows."""
    c = ConfigDict()
    c.name = "t2i_multitask"
    c.preset = "2b8"
    c.seed = 0
    c.init_from = ""  # folder or hub id of the released layout to start from; "" = from scratch

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
    c.model.attention = "auto"  # reference, chunked; splash (TPU); tokamax, cudnn (GPU)
    c.model.remat = "full"  # none, feed_forward, mixed, attention, kernels, full
    c.model.unroll = 1  # layers unrolled

    c.text = ConfigDict()
    c.text.kind = "hashed"  # words; t5: the T5 of text.folder
    c.text.folder = ""
    c.text.max_length = 300  # words per prompt

    # Task group, slots, frames per slot, tokens per frame (1 token = 16 × 16 pixels).
    c.rows = (
        ("t2i", 1, 1, 1024),
        ("i2i", 1, 2, 1024),
        ("identity", 1, 4, 256),
        ("multiview", 1, 8, 256),
    )

    c.data = ConfigDict()
    c.data.name = "world"
    c.data.seed = 0
    c.data.level = "rich"  # simple or rich
    c.data.scenes = 20000  # per task
    c.data.aspects = ("1:1", "4:3", "3:4")  # width:height
    c.data.workers = 0  # reading processes; 0: the trainer itself reads
    c.data.threads = 16  # readers in each
    c.data.prefetch = 8  # batches
    c.data.own_tasks = ConfigDict()  # defined beside the built-in ones; folders bring theirs
    c.data.cache_gib = 4.0  # of rendered examples, all reading processes together
    c.data.tasks = ConfigDict()  # weight within the task's group
    c.data.tasks.text2image = 1.0
    c.data.tasks.deblurring = 1.0
    c.data.tasks.image_inpainting = 1.0
    c.data.tasks.super_resolution = 1.0
    c.data.tasks.canny2image = 1.0
    c.data.tasks.depth2image = 1.0
    c.data.tasks.hed2img = 1.0
    c.data.tasks.pose2image = 1.0
    c.data.tasks.semanticmap2image = 1.0
    c.data.tasks.boundingbox2image = 1.0
    c.data.tasks.image_editing = 1.0
    c.data.tasks.faceid = 1.0
    c.data.tasks.subject_driven = 1.0
    c.data.tasks.multiview = 1.0

    c.flow = ConfigDict()
    c.flow.distribution = "logit_normal"  # or uniform
    c.flow.mean = 0.0
    c.flow.std = 1.0
    c.flow.shift = 3.0
    c.flow.clean_share = 0.0  # of bundles whose given frames are clean; the paper has none
    c.flow.condition_sigma = 0.1  # largest σ told for a clean frame
    c.flow.ray_shift = config_dict.placeholder(float)  # of ray maps; None: as pictures
    c.flow.ray_weight = 1.0  # of ray maps in the loss, beside 1 of pictures

    c.train = ConfigDict()
    c.train.steps = 1000000
    c.train.batch_rows = 64  # per step, all devices together
    c.train.accumulate = 1  # such batches per step
    c.train.products = "dtype"  # operands while training; auto: bfloat16 on CPUs quick at it
    c.train.caption_dropout = 0.1  # share of prompts that are empty, for guidance
    c.train.token_only_share = 0.1  # share of prompts that lose their caption and keep the token
    c.train.max_skipped = 100  # steps in a row without a finite gradient before it stops
    c.train.on_spike = "report"  # or skip, stop, rewind: what an outlying loss does
    c.train.spike_factor = 10.0  # × the running median of the task: an outlying loss

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # or muon, adafactor, lion, sgd
    c.optim.learning_rate = 5e-4  # peak
    c.optim.schedule = "constant"  # constant, cosine, linear, late_cosine, wsd, rsqrt
    c.optim.warmup_steps = 10000
    c.optim.end_factor = 1.0  # of the peak, at the end
    c.optim.decay_share = 0.2  # of the steps, at the end, in which wsd falls
    c.optim.b1 = 0.9
    c.optim.b2 = 0.95
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01
    c.optim.clip_norm = 1.0
    c.optim.moments_dtype = "float32"  # of the first moment: float32 or bfloat16

    c.ema = ConfigDict()
    c.ema.max_decay = 0.9999
    c.ema.power = 2 / 3
    c.ema.offload = False  # keeps it in the host's memory: 4 bytes per parameter

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 2500
    c.checkpoint.every_minutes = 30.0
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every = 50000  # steps; 0 = none for good
    c.checkpoint.local_folder = ""  # e.g. /local/ssd: frequent saves on the disk of each host
    c.checkpoint.local_every = 100  # steps
    c.checkpoint.accept_changes = (
        False  # True: other code, versions, data or weights stop no restart
    )

    c.log = ConfigDict()
    c.log.every_steps = 50
    c.log.held_out_at = (1000,)  # steps
    c.log.held_out_every = 5000  # steps
    c.log.held_out_batches = 8
    c.log.sample_every = 5000  # steps
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
    return c
