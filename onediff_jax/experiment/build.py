"""From a config to the parts of an experiment: model, optimizer, layout, encoders, data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from onediff_jax.data.bundle import Encoded, encode_bundle
from onediff_jax.data.cache import Cache, Cached, size_of
from onediff_jax.data.codec import PictureCodec
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.pipeline import (
    BatchIterator,
    Draws,
    mix_groups,
    row_batches,
    stream_fields,
)
from onediff_jax.data.prepared.dataset import PreparedData
from onediff_jax.data.rows import RowPacker
from onediff_jax.data.text_hash import TextEncoder
from onediff_jax.data.world_bundles import WORLD_VERSION, WorldBundles
from onediff_jax.experiment.checks import check_config, check_entry, complete
from onediff_jax.experiment.inputs import make_inputs
from onediff_jax.experiment.own_tasks import tasks_of, with_own_tasks
from onediff_jax.experiment.schema import BY_PATH, section_fields
from onediff_jax.flow.times import TimeSampling
from onediff_jax.models.lora import LoRA, add_lora, split_lora
from onediff_jax.models.nextdit import NextDiT, NextDiTConfig
from onediff_jax.tasks.definitions import GROUPS, TaskSet
from onediff_jax.tasks.depth import Normalisation

if TYPE_CHECKING:
    from onediff_jax.experiment.encoders import OnlineText

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_READING = ("workers", "threads", "prefetch")  # fields of data that are arguments of row_batches
# Training scenes are 0 … data.scenes − 1; held-out scenes start here, far beyond any of them.
HELD_OUT = 2**30
_PROMPT = 200  # characters of a long prompt


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts that a config describes. Everything is checked when it is made."""

    config: ConfigDict
    model_config: NextDiTConfig
    layout: RowLayout
    codec: PictureCodec
    text_encoder: TextEncoder  # prompts → embeddings (b, l, d), mask (b, l)
    online_text: "OnlineText | None"  # rows carry token ids, which it embeds
    prepared: PreparedData | None  # None: the embedded world
    tasks: TaskSet  # the built-in ones, and those of data.own_tasks
    cache: Cache  # of the embedded world's examples
    packer: RowPacker
    sizes: dict[str, tuple[tuple[int, int], ...]]  # task group → picture sizes in pixels
    depth: Normalisation | None  # what grey means in depth maps; None where that differs
    times: TimeSampling
    draws: Draws
    graphdef: nnx.GraphDef
    init_params: Callable[[], Any]  # what is trained; not jitted
    shapes: Any  # ShapeDtypeStruct of every parameter that is trained
    lora: LoRA | None  # adapters alone are trained, beside the frozen weights of init_from
    frozen_shapes: Any  # of those weights; None: everything is trained

    def bundles(self, task: str, *, held_out: bool = False, scenes: int | None = None) -> Any:
        """Random-access pictures of a task from the config's data; `scenes` is the world's."""
        data = self.config.data
        if self.prepared is not None:
            return self.prepared.bundles(task, held_out=held_out, seed=self.config.seed)
        return WorldBundles(
            task,
            self.sizes[self.tasks.task(task).group],
            seed=data.seed,
            level=data.level,
            first=HELD_OUT if held_out else 0,
            count=scenes or data.scenes,
            max_frames=min(slot.frames for slot in self.slots(task)),
            tasks=self.tasks,
            views=self.cache,
        )

    @functools.cached_property
    def online_pictures(self) -> Any | None:
        """encoders.OnlinePictures, which encodes the pixels of rows; None: rows have latents."""
        if self.prepared is None or not self.prepared.online:
            return None
        from onediff_jax.experiment.encoders import OnlinePictures

        return OnlinePictures(self.config.data.encoder, self.layout, dtype=self.config.model.dtype)

    def slots(self, task: str) -> tuple[Slot, ...]:
        """The slots that the examples of a task go into."""
        if self.prepared is not None:
            return self.prepared.slots(task)
        found = self.tasks.task(task)
        return self.layout.slots_for(found.group, found.min_frames)

    def encoded(self, task: str, *, held_out: bool = False) -> Any:
        """The same as latents. What is rendered is kept in memory: the examples where all of them
        fit, else the views they are made of; what is stored is read.
        """
        if self.prepared is not None:
            return self.prepared.examples(task, held_out=held_out)
        encode = functools.partial(encode_bundle, codec=self.codec)
        bundles = self.bundles(task, held_out=held_out)
        cache = self.cache if self._examples_fit else Cache(0)
        return Cached(bundles, encode, cache, (task, held_out))

    @functools.cached_property
    def _examples_fit(self) -> bool:
        """Whether memory holds every example of the world at once. Where it does not, examples are
        gone before they come again, and views, which up to ten tasks share, make better use of it.
        """
        data, patch = self.config.data, self.model_config.patch_size
        each = 0
        for task in (name for name, weight in data.tasks.items() if weight):
            slot = self.slots(task)[0]
            numbers = slot.tokens * patch**2 * self.model_config.in_channels
            frames = tuple(np.zeros(numbers, np.float16) for _ in range(slot.frames))
            each += size_of(Encoded(task, _PROMPT * " ", frames))
        return data.scenes * each <= self.cache.size

    def batches(self, *, held_out: bool = False, **kwargs) -> BatchIterator:
        """The training stream (or the same of held-out scenes); kwargs as in `row_batches`."""
        config = self.config
        tasks = {name: weight for name, weight in config.data.tasks.items() if weight}
        sources = {name: self.encoded(name, held_out=held_out) for name in tasks}
        kwargs.setdefault("batch_size", config.train.batch_rows * config.train.accumulate)
        reading = {name: config.data[name] for name in _READING}
        trays = {name: self.layout.tray(self.slots(name)[0]) for name in tasks}
        block = complete("data", config.data.to_dict())["block"] if self.prepared else 0
        groups = mix_groups(sources, tasks, config.seed, trays, block=block)
        options = {"seed": config.seed, "tasks": self.tasks} | reading | kwargs
        return row_batches(groups, self.packer, self.draws, **options)

    def stream_fields(self) -> dict[str, Any]:
        """What determines the order and content of the stream."""
        config = self.config
        data, text = (_of_stream(config, section) for section in ("data", "text"))
        if self.prepared is not None:
            encoder = self.codec.identity if self.prepared.online else "as in the folders"
            data |= {"folders": self.prepared.fields(), "encoder": encoder}
        else:
            data |= {"world_version": WORLD_VERSION}
        return stream_fields(
            self.layout,
            {
                "seed": config.seed,
                "data": data,
                "text": text,
                "draws": dataclasses.asdict(self.draws),
                "rows_per_step": config.train.batch_rows * config.train.accumulate,
            },
        )


def _of_stream(config: ConfigDict, section: str) -> dict[str, Any]:
    """The fields of a section that change the stream."""
    fields, name = section_fields(section), config.data.name
    values = complete(section, config[section].to_dict())
    return {k: v for k, v in values.items() if fields[k].stream and fields[k].only in ("", name)}


def make_layout(rows: tuple) -> RowLayout:
    """The layout of config.rows: (group, count, frames, tokens per frame) per entry."""
    slots = []
    for entry in rows:
        check_entry(BY_PATH["rows"], entry)
        group, count, frames, tokens = entry
        if group not in GROUPS:
            raise ValueError(f"unknown task group {group!r} in rows; choose from {GROUPS}")
        if count <= 0:
            raise ValueError(f"rows entry {entry} must have a positive count")
        slots += [Slot(group, frames, tokens)] * count
    return RowLayout(tuple(slots))


def make_experiment(config: ConfigDict, *, with_data: bool = True) -> Experiment:
    """Checks the whole config and builds what it describes; allocates nothing on devices.

    Args:
      with_data: False for a model that is only sampled: prepared folders need not exist then, and
        the experiment has no examples of them.

    Raises ValueError that names the field, its value and the choices.
    """
    check_config(config)
    if with_data:
        config = with_own_tasks(config)
    tasks = tasks_of(config)
    model = config.model
    fields = [f.name for f in dataclasses.fields(NextDiTConfig)]
    model_config = NextDiTConfig(**{name: model[name] for name in fields})
    layout = make_layout(config.rows)
    inputs = make_inputs(config, layout, tasks, with_data=with_data)
    _check_slots(config, layout, tasks)
    flow = config.flow
    options = {
        "dtype": DTYPES[model.dtype],
        "attention": model.attention,
        "remat": model.remat,
        "unroll": model.unroll or model.depth,
    }

    lora = _make_lora(config)

    def make(rngs: nnx.Rngs) -> NextDiT:
        module = NextDiT(model_config, rngs=rngs, **options)
        if lora:
            add_lora(module, lora, rngs=rngs)
        return module

    def init_params():
        params = nnx.to_pure_dict(nnx.state(make(nnx.Rngs(config.seed)), nnx.Param))
        return split_lora(params)[0] if lora else params

    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    shapes, frozen = nnx.to_pure_dict(state), None
    if lora:
        shapes, frozen = split_lora(shapes)
        frozen_dtype = DTYPES[config.lora.frozen_dtype]
        frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, frozen_dtype), frozen)

    return Experiment(
        config=config,
        model_config=model_config,
        layout=layout,
        codec=inputs.codec,
        text_encoder=inputs.text_encoder,
        online_text=inputs.online_text,
        prepared=inputs.prepared,
        tasks=tasks,
        cache=Cache(_cache_bytes(config)),
        packer=RowPacker(
            *(layout, inputs.row_text, model_config.patch_size, tasks),
            weighted=inputs.prepared is not None and inputs.prepared.weighted,
            channels=model_config.in_channels,
        ),
        sizes=inputs.sizes,
        depth=inputs.depth,
        times=TimeSampling(flow.distribution, flow.mean, flow.std, flow.shift, flow.ray_shift),
        draws=_make_draws(config),
        graphdef=graphdef,
        init_params=init_params,
        shapes=shapes,
        lora=lora,
        frozen_shapes=frozen,
    )


def _cache_bytes(config: ConfigDict) -> float:
    """What one process may keep of the embedded world's examples."""
    if config.data.name != "world":
        return 0.0
    return config.data.cache_gib * 2**30 / max(config.data.workers, 1)


def _make_draws(config: ConfigDict) -> Draws:
    train = config.train
    if train.token_only_share and config.text.kind == "cached":
        raise ValueError(
            f"train.token_only_share={train.token_only_share}, but text.kind='cached' knows whole "
            "prompts and the empty one; it must be 0.0, or text.kind another"
        )
    return Draws(config.flow.clean_share, train.caption_dropout, train.token_only_share)


def _make_lora(config: ConfigDict) -> LoRA | None:
    """The adapters of config.lora; None where it is not given."""
    fields = config.get("lora")
    if fields is None:
        return None
    if not config.init_from:
        raise ValueError("lora trains adapters of given weights: init_from must name them")
    known = {field.name for field in dataclasses.fields(LoRA)}
    fields = complete("lora", fields.to_dict())
    return LoRA(**{name: value for name, value in fields.items() if name in known})


def _check_slots(config: ConfigDict, layout: RowLayout, tasks: TaskSet) -> None:
    for name, weight in config.data.tasks.items():
        task = tasks.task(name)
        if weight and not any(
            s.group == task.group and s.frames >= task.min_frames for s in layout.slots
        ):
            raise ValueError(
                f"no slot fits task {name}: it needs group {task.group!r} and at least "
                f"{task.min_frames} frames; rows={config.rows}"
            )


def param_count(shapes: Any) -> int:
    """Numbers in all parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
