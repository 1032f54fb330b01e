"""Sampling many requests at once, packed in rows: one compiled program for all tasks and shapes."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.data.rows import Placed, RowPacker
from onediff_jax.experiment.build import Experiment
from onediff_jax.flow.sampler import euler, euler_step, guided
from onediff_jax.flow.schedule import euler_schedule
from onediff_jax.parallel.mesh import BATCH_AXES, batch_devices
from onediff_jax.parallel.program import Program
from onediff_jax.parallel.sharding import on_mesh
from onediff_jax.sampling.encode import encode
from onediff_jax.sampling.request import Request, make_plan

Frames = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A request as it goes into a row: its frames as latents, those to generate without content."""

    bundle: Encoded
    generate: tuple[bool, ...]
    negative_prompt: str
    seed: int

    def noise(self) -> Encoded:
        """The starting noise, in the place of the frames."""
        rng = np.random.default_rng(self.seed)
        frames = [rng.standard_normal(f.shape, np.float32) for f in self.bundle.frames]
        return dataclasses.replace(self.bundle, frames=tuple(frames))


class Sampler:
    """Generates requests, packed in rows of slots as in training.

    Args:
      experiment: its model and encoders.
      rows: rows per call of the compiled program.
      steps, guidance: of the Euler loop; guidance ≤ 1 is off.
      layout: of the rows; None: that of training.
      mesh: where the parameters lie, when on several devices; its processes all call the sampler
        alike, and `rows` is rounded up to what can be split.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        rows: int,
        steps: int,
        guidance: float = 1.0,
        layout: RowLayout | None = None,
        mesh: Mesh | None = None,
    ):
        if rows <= 0 or steps <= 0:
            raise ValueError(f"{rows=} and {steps=} must be positive")
        if not 0 <= guidance < np.inf:
            raise ValueError(f"{guidance=} must not be negative; 1 is off")
        self._experiment, self._rows, self._steps = experiment, rows, steps
        self._guidance, self._layout = guidance, layout or experiment.layout
        packer, tasks = experiment.packer, experiment.tasks
        self._packer = packer
        if layout is not None:
            self._packer = RowPacker(layout, packer.text_encoder, packer.patch, tasks)
        self._bare = RowPacker(self._layout, _no_text, packer.patch, tasks)
        self._mesh = mesh if mesh is not None and mesh.size > 1 else None
        if mesh is None or mesh.size == 1:
            self._program = _jitted(experiment.graphdef, self._layout, guidance <= 1)
        else:
            self._rows += -rows % batch_devices(mesh)
            run = functools.partial(_run, experiment.graphdef, self._layout, guidance <= 1)
            split = on_mesh(functools.partial(_run_split, run), mesh)
            whole = NamedSharding(mesh, P())
            self._program = Program(jax.jit(split, out_shardings=whole), "sampling")

    def __call__(
        self,
        params: Any,
        requests: Sequence[Request],
        progress: Callable = lambda iterable: iterable,
        watch: Callable[[int, list[Frames | None]], Any] | None = None,
        watch_every: int = 1,
        stepwise: bool = False,
    ) -> list[Frames]:
        """All frames (h, w, c) float32 of every request, in order.

        Args:
          params: of the experiment's model.
          progress: wraps the iteration over calls of the program (such as tqdm).
          stepwise: a call is one step, for progress to show and for any number of steps; else a
            call is the whole loop.
          watch: called as (steps done, frames per request) after every `watch_every` steps with
            what the frames are going to be as far as it shows; None for requests of other rows.

        Raises ValueError when a request does not fit its task, or no slot.
        """
        asked = [self._encoded(request) for request in requests]
        packed = pack([one.bundle for one in asked], self._layout.slots)
        starts = range(0, len(packed), self._rows)
        length = 1 if stepwise or watch else self._steps
        results: list = [None] * len(requests)
        for start, first in progress(
            [(s, i) for s in starts for i in range(0, self._steps, length)]
        ):
            if first == 0:
                rows = packed[start : start + self._rows]
                rows += [packed[0]] * (self._rows - len(rows))
                batch = self._batch([[None if i is None else asked[i] for i in r] for r in rows])
                sigmas, latents = batch.pop("sigmas"), batch.pop("noise")
                if self._mesh is None:
                    batch, latents = jax.device_put((batch, latents))
                elif length < self._steps:  # as the program gives them back
                    latents = jax.device_put(latents, NamedSharding(self._mesh, P()))
            part, before = sigmas[first : first + length + 1], latents
            latents = self._program(params, latents, batch, part, np.float32(self._guidance))
            last = first + length == self._steps
            if watch is not None and ((first + 1) % watch_every == 0 or last):
                shown = latents if last else self._foreseen(before, latents, part)
                watch(first + 1, self._unpack(shown, rows, asked, [None] * len(requests)))
            if last:
                self._unpack(latents, rows, asked, results)
        return results

    def _encoded(self, request: Request) -> _Asked:
        plan = make_plan(request, self._experiment.tasks)
        bundle = encode(request, plan, self._experiment)
        return _Asked(bundle, plan.generate, request.negative_prompt, request.seed)

    def _unpack(self, latents: Any, rows: list, asked: list[_Asked], into: list) -> list:
        for row, tokens in zip(rows, np.asarray(latents), strict=True):
            for slot, index in enumerate(row):
                if index is not None:
                    shapes = [f.shape[:2] for f in asked[index].bundle.frames]
                    into[index] = self._packer.unpack(tokens, slot, shapes)
        return into

    def _foreseen(self, before: Any, after: Any, sigmas: np.ndarray) -> np.ndarray:
        """What the last step's velocity leads to at σ = 0."""
        before, after = np.asarray(before), np.asarray(after)
        now, then = (s[:, self._layout.chunk_frame][..., None, None] for s in sigmas)
        return after + np.where(now > then, then / np.maximum(now - then, 1e-9), 0) * (
            after - before
        )

    def _batch(self, rows: list[list[_Asked | None]]) -> dict[str, np.ndarray]:
        """The packed rows, with `noise` (given frames in it clean) and `sigmas` (n + 1, r, f)."""
        batch = self._packer.batch([[_placed(a, a.bundle) if a else None for a in r] for r in rows])
        if self._experiment.online_text:
            batch = self._experiment.online_text.embed(batch)
        bare = [[_placed(a, a.noise(), "") if a else None for a in row] for row in rows]
        noise = self._bare.batch(bare)["tokens"]
        expanded = batch["generate"][:, self._layout.chunk_frame][..., None, None]
        batch["noise"] = np.where(expanded, noise, batch["tokens"])
        if self._guidance > 1:
            negative = [a.negative_prompt if a else "" for row in rows for a in row]
            known = {p: n for n, p in enumerate(dict.fromkeys(negative))}
            text, mask = self._experiment.text_encoder(list(known))
            where = np.array([known[p] for p in negative]).reshape(len(rows), -1)
            batch["null_text"], batch["null_mask"] = text[where], mask[where]
        per_slot = np.array([[self._sigmas(a) for a in row] for row in rows])  # (r, s, n + 1)
        batch["sigmas"] = np.moveaxis(per_slot[:, self._layout.frame_slot], -1, 0)
        batch["given_sigma"] = batch["sigmas"][-2]
        return {name: a for name, a in batch.items() if name not in ("clean", "task")}

    def _sigmas(self, asked: _Asked | None) -> np.ndarray:
        if asked is None:
            return np.zeros(self._steps + 1, np.float32)
        frames = zip(asked.bundle.frames, asked.generate, strict=True)
        tokens = sum(f.shape[0] * f.shape[1] for f, wanted in frames if wanted)
        return np.asarray(euler_schedule(tokens / self._packer.patch**2, self._steps)[0])


def _placed(asked: _Asked, bundle: Encoded, prompt: str | None = None) -> Placed:
    return Placed(bundle, asked.generate, True, bundle.prompt if prompt is None else prompt)


def _no_text(prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Stands for a text encoder where rows hold no prompt."""
    return np.zeros((len(prompts), 1, 1), np.float32), np.zeros((len(prompts), 1), bool)


@functools.lru_cache(maxsize=64)
def _jitted(graphdef: nnx.GraphDef, layout: RowLayout, plain: bool) -> Callable:
    """The compiled program of a network and a layout, shared by all samplers."""
    return jax.jit(functools.partial(_run, graphdef, layout, plain))


def _run(
    graphdef: nnx.GraphDef,
    layout: RowLayout,
    plain: bool,
    params: Any,
    latents: jax.Array,
    batch: dict[str, jax.Array],
    sigmas: jax.Array,
    guidance: jax.Array,
) -> jax.Array:
    """The steps of `sigmas` (n + 1, r, f) on packed rows; `plain`: without guidance."""
    model = nnx.merge(graphdef, params)
    prompt = tuple(batch[k] for k in ("text", "text_mask", "positions", "token_mask"))
    negative = prompt if plain else (batch["null_text"], batch["null_mask"], *prompt[2:])

    def network(latents, timesteps, text, text_mask, positions, token_mask):
        return model.rows(
            latents, positions, timesteps, text, text_mask, layout=layout, token_mask=token_mask
        )

    def expand(a):
        return a[:, layout.chunk_frame][..., None, None]

    velocity = guided(network, prompt, negative, guidance, off=plain)
    step = euler_step(velocity, batch["tokens"], batch["generate"], batch["given_sigma"], expand)
    return euler(step, latents, sigmas)


def _run_split(run: Callable, params: Any, latents: jax.Array, batch: dict, *rest) -> jax.Array:
    """The same with the rows split over the devices."""
    split = functools.partial(jax.lax.with_sharding_constraint, shardings=P(BATCH_AXES))
    return run(params, split(latents), {k: split(a) for k, a in batch.items()}, *rest)


def pack(bundles: Sequence[Encoded], slots: Sequence[Slot]) -> list[list[int | None]]:
    """Rows of indices of bundles, one per slot; None where nothing was left that fits.

    The largest slot chooses first, the largest bundle that fits it.

    Raises ValueError when a bundle fits no slot.
    """

    def need(index):
        frames = bundles[index].frames
        h, w = np.max([f.shape[:2] for f in frames], axis=0)
        return len(frames), int(h) * int(w) // 4

    def fits(index, slot):
        frames, tokens = need(index)
        return frames <= slot.frames and tokens <= slot.tokens

    order = sorted(range(len(bundles)), key=need, reverse=True)
    by_size = sorted(range(len(slots)), key=lambda s: (slots[s].frames, slots[s].tokens))
    waiting: dict[tuple[int, int], list[int]] = {}
    for index in order:
        if not any(fits(index, slot) for slot in slots):
            raise ValueError(
                f"{bundles[index].task} bundle of {need(index)[0]} frames × "
                f"{need(index)[1]} tokens fits no slot of {sorted(set(slots), key=str)}"
            )
        waiting.setdefault(need(index), []).append(index)
    rows = []
    while any(waiting.values()):
        row: list[int | None] = [None] * len(slots)
        for s in reversed(by_size):
            for shape in sorted(waiting, reverse=True):
                if waiting[shape] and fits(waiting[shape][0], slots[s]):
                    row[s] = waiting[shape].pop(0)
                    break
        rows.append(row)
    return rows
