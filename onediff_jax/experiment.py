"""From a config to the parts of an experiment: model, optimizer, layout, encoders, data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from onediff_jax.data.buckets import ASPECTS, bucket_size
from onediff_jax.data.bundle import encode_bundle
from onediff_jax.data.pipeline import (
    BatchIterator,
    Cached,
    Draws,
    mix_groups,
    row_batches,
    stream_fields,
)
from onediff_jax.data.rows import RowPacker
from onediff_jax.data.world_bundles import WorldBundles
from onediff_jax.flow.times import TimeSampling
from onediff_jax.models.codec import LightCodec
from onediff_jax.models.layout import RowLayout, Slot
from onediff_jax.models.nextdit import NextDiT, NextDiTConfig
from onediff_jax.models.text_hash import HashedTextEncoder
from onediff_jax.tasks.definitions import GROUPS, get_task

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Training scenes are 0 … data.scenes − 1; held-out scenes start here, far beyond any of them.
HELD_OUT = 2**30


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts that a config describes. Everything is checked when it is made."""

    config: ConfigDict
    model_config: NextDiTConfig
    layout: RowLayout
    codec: LightCodec
    text_encoder: HashedTextEncoder
    packer: RowPacker
    sizes: dict[str, tuple[tuple[int, int], ...]]  # task group → picture sizes in pixels
    times: TimeSampling
    draws: Draws
    graphdef: nnx.GraphDef
    init_params: Callable[[], Any]  # not jitted; shapes by eval_shape

    def bundles(self, task: str, *, held_out: bool = False, scenes: int | None = None) -> Any:
        """Random-access pictures of a task from the config's data."""
        data = self.config.data
        return WorldBundles(
            task,
            self.sizes[get_task(task).group],
            seed=data.seed,
            level=data.level,
            first=HELD_OUT if held_out else 0,
            count=scenes or data.scenes,
            max_frames=max(s.frames for s in self.layout.slots if s.group == get_task(task).group),
        )

    def encoded(self, task: str, **kwargs) -> Cached:
        """The same as latents, kept in memory."""
        encode = functools.partial(encode_bundle, codec=self.codec)
        return Cached(self.bundles(task, **kwargs), encode)

    def batches(self, *, held_out: bool = False, **kwargs) -> BatchIterator:
        """The training stream (or the same of held-out scenes); kwargs as in `row_batches`."""
        config = self.config
        tasks = {name: weight for name, weight in config.data.tasks.items() if weight}
        sources = {name: self.encoded(name, held_out=held_out) for name in tasks}
        kwargs.setdefault("batch_size", config.train.batch_rows * config.train.accumulate)
        kwargs.setdefault("threads", config.data.threads)
        kwargs.setdefault("prefetch", config.data.prefetch)
        groups = mix_groups(sources, tasks, config.seed)
        return row_batches(groups, self.packer, self.draws, seed=config.seed, **kwargs)

    def stream_fields(self) -> dict[str, Any]:
        """What determines the order and content of the stream."""
        config = self.config
        data = {k: v for k, v in config.data.to_dict().items() if k not in ("threads", "prefetch")}
        return stream_fields(
            self.layout,
            {
                "seed": config.seed,
                "data": data,
                "text": config.text.to_dict(),
                "draws": dataclasses.asdict(self.draws),
                "rows_per_step": config.train.batch_rows * config.train.accumulate,
            },
        )


def make_layout(rows: tuple) -> RowLayout:
    """The layout of config.rows: (group, count, frames, tokens per frame) per entry."""
    slots = []
    for entry in rows:
        if len(entry) != 4:
            raise ValueError(f"rows entry {entry} must be (group, count, frames, tokens)")
        group, count, frames, tokens = entry
        if group not in GROUPS:
            raise ValueError(f"unknown task group {group!r} in rows; choose from {GROUPS}")
        if count <= 0:
            raise ValueError(f"rows entry {entry} must have a positive count")
        slots += [Slot(group, frames, tokens)] * count
    return RowLayout(tuple(slots))


def make_experiment(config: ConfigDict) -> Experiment:
    """Checks the whole config and builds what it describes; allocates nothing on devices.

    Raises ValueError that names the field, its value and the choices.
    """
    model = config.model
    if model.dtype not in DTYPES:
        raise ValueError(f"model.dtype={model.dtype!r} must be one of {list(DTYPES)}")
    if config.data.name != "world":
        raise ValueError(f"data.name={config.data.name!r} must be one of ['world']")
    for path in ("data.scenes", "train.steps", "train.batch_rows", "train.accumulate"):
        section, field = path.split(".")
        if config[section][field] <= 0:
            raise ValueError(f"{path}={config[section][field]} must be positive")
    fields = [f.name for f in dataclasses.fields(NextDiTConfig)]
    model_config = NextDiTConfig(**{name: model[name] for name in fields})
    layout = make_layout(config.rows)
    _check_slots(config, layout)
    text_encoder = HashedTextEncoder(model.caption_channels, config.text.max_length)
    sizes = {}
    for slot in layout.slots:
        found = tuple(bucket_size(a, slot.tokens) for a in config.data.aspects)
        sizes[slot.group] = tuple(dict.fromkeys(found))
    flow = config.flow
    options = {
        "dtype": DTYPES[model.dtype],
        "remat": model.remat,
        "unroll": model.unroll or model.depth,
    }

    def make(rngs: nnx.Rngs) -> NextDiT:
        return NextDiT(model_config, rngs=rngs, **options)

    def init_params():
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(config.seed)), nnx.Param))

    return Experiment(
        config=config,
        model_config=model_config,
        layout=layout,
        codec=LightCodec(),
        text_encoder=text_encoder,
        packer=RowPacker(layout, text_encoder, model_config.patch_size),
        sizes=sizes,
        times=TimeSampling(flow.distribution, flow.mean, flow.std, flow.shift),
        draws=Draws(flow.clean_share, config.train.caption_dropout),
        graphdef=nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))[0],
        init_params=init_params,
    )


def _check_slots(config: ConfigDict, layout: RowLayout) -> None:
    if not config.data.aspects:
        raise ValueError(f"data.aspects is empty; choose from {list(ASPECTS)}")
    for name, weight in config.data.tasks.items():
        task = get_task(name)
        if weight and not any(
            s.group == task.group and s.frames >= task.min_frames for s in layout.slots
        ):
            raise ValueError(
                f"no slot fits task {name}: it needs group {task.group!r} and at least "
                f"{task.min_frames} frames; rows={config.rows}"
            )


def param_shapes(experiment: Experiment) -> Any:
    """ShapeDtypeStruct of every parameter."""
    return jax.eval_shape(experiment.init_params)


def param_count(shapes: Any) -> int:
    """Numbers in all parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
