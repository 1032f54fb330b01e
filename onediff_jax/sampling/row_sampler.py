"""Sampling many bundles at once, packed in rows: one compiled program for all tasks and shapes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.layout import Slot
from onediff_jax.data.rows import Placed
from onediff_jax.experiment.build import Experiment
from onediff_jax.flow.sampler import euler
from onediff_jax.flow.schedule import euler_schedule
from onediff_jax.parallel.mesh import BATCH_AXES, batch_devices
from onediff_jax.parallel.program import Program
from onediff_jax.parallel.sharding import on_mesh


@dataclasses.dataclass(frozen=True)
class Request:
    """A bundle of which some frames are to be generated; those frames' content is ignored.

    Attributes:
      bundle: frames and prompt.
      generate: per frame.
      seed: of the starting noise: the result does not depend on the other requests.
    """

    bundle: Encoded
    generate: tuple[bool, ...]
    seed: int


class RowSampler:
    """Generates requests with the training layout.

    Args:
      experiment: its model, layout and encoders.
      rows: rows per call of the compiled program.
      steps, guidance: of the Euler loop; guidance ≤ 1 is off.
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
        mesh: Mesh | None = None,
    ):
        if rows <= 0 or steps <= 0:
            raise ValueError(f"{rows=} and {steps=} must be positive")
        self._experiment, self._rows, self._steps = experiment, rows, steps
        self._guidance = guidance
        self._program = jax.jit(self._run)
        if mesh is not None and mesh.size > 1:
            self._rows += -rows % batch_devices(mesh)
            split = on_mesh(self._run_split, mesh)
            whole = NamedSharding(mesh, P())
            self._program = Program(jax.jit(split, out_shardings=whole), "sampling")
        empty, empty_mask = experiment.text_encoder([""])
        self._null = (empty[0], empty_mask[0])

    def __call__(
        self,
        params: Any,
        requests: Sequence[Request],
        progress: Callable = lambda iterable: iterable,
    ) -> list[list[np.ndarray]]:
        """All frames (h, w, 16) float32 of every request, in order."""
        rows = pack(requests, self._experiment.layout.slots)
        results: list = [None] * len(requests)
        for start in progress(range(0, len(rows), self._rows)):
            part = rows[start : start + self._rows]
            part += [rows[0]] * (self._rows - len(part))
            batch = self._batch([[None if i is None else requests[i] for i in row] for row in part])
            tokens = np.asarray(self._program(params, batch))
            for row, out in zip(part, tokens, strict=True):
                for slot, index in enumerate(row):
                    if index is None:
                        continue
                    shapes = [f.shape[:2] for f in requests[index].bundle.frames]
                    results[index] = self._experiment.packer.unpack(out, slot, shapes)
        return results

    def _batch(self, rows: list[list[Request | None]]) -> dict[str, np.ndarray]:
        packer, layout = self._experiment.packer, self._experiment.layout
        packed, noise, sigmas = [], [], []
        for row in rows:
            packed.append(
                packer([r and Placed(r.bundle, r.generate, True, r.bundle.prompt) for r in row])
            )
            noise.append(
                packer([r and Placed(_noise(r), r.generate, True, "") for r in row])["tokens"]
            )
            per_slot = np.stack([self._sigmas(r) for r in row], axis=1)
            sigmas.append(per_slot[:, layout.frame_slot])
        batch = {k: np.stack([p[k] for p in packed]) for k in packed[0]}
        if self._experiment.online_text:
            batch = self._experiment.online_text.embed(batch)
        return {**batch, "noise": np.stack(noise), "sigmas": np.stack(sigmas, axis=1)}

    def _sigmas(self, request: Request | None) -> np.ndarray:
        if request is None:
            return np.zeros(self._steps + 1, np.float32)
        patch = self._experiment.model_config.patch_size
        sides = [
            f.shape[:2] for f, g in zip(request.bundle.frames, request.generate, strict=True) if g
        ]
        tokens = sum(h * w for h, w in sides) / patch**2
        return np.asarray(euler_schedule(tokens, self._steps)[0])

    def _run_split(self, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        """The same with the rows split over the devices: all but `sigmas` start with them."""
        parts = {
            k: a if k == "sigmas" else jax.lax.with_sharding_constraint(a, P(BATCH_AXES))
            for k, a in batch.items()
        }
        return self._run(params, parts)

    def _run(self, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        layout = self._experiment.layout
        model = nnx.merge(self._experiment.graphdef, params)
        fixed = {k: batch[k] for k in ("positions", "text", "text_mask", "token_mask")}
        guidance = self._guidance
        if guidance > 1.0:
            null = dict(fixed)
            null["text"] = jnp.broadcast_to(self._null[0], fixed["text"].shape)
            null["text_mask"] = jnp.broadcast_to(self._null[1], fixed["text_mask"].shape)
            fixed = {k: jnp.concatenate([null[k], fixed[k]]) for k in fixed}

        def velocity(x, timesteps):
            if guidance > 1.0:
                x, timesteps = jnp.concatenate([x, x]), jnp.concatenate([timesteps, timesteps])
            v = model.rows(
                x,
                fixed["positions"],
                timesteps,
                fixed["text"],
                fixed["text_mask"],
                layout=layout,
                token_mask=fixed["token_mask"],
            )
            if guidance <= 1.0:
                return v
            without, with_text = jnp.split(v, 2)
            return without + guidance * (with_text - without)

        def expand(a):
            return a[:, layout.chunk_frame][..., None, None]

        return euler(
            velocity, batch["noise"], batch["tokens"], batch["generate"], batch["sigmas"], expand
        )


def pack(requests: Sequence[Request], slots: Sequence[Slot]) -> list[list[int | None]]:
    """Rows of request indices, one per slot; None where nothing was left that fits.

    The largest slot chooses first, the largest bundle that fits it.

    Raises ValueError when a bundle fits no slot.
    """

    def need(index):
        frames = requests[index].bundle.frames
        h, w = np.max([f.shape[:2] for f in frames], axis=0)
        return len(frames), int(h) * int(w) // 4

    def fits(index, slot):
        frames, tokens = need(index)
        return frames <= slot.frames and tokens <= slot.tokens

    order = sorted(range(len(requests)), key=need, reverse=True)
    by_size = sorted(range(len(slots)), key=lambda s: (slots[s].frames, slots[s].tokens))
    waiting: dict[tuple[int, int], list[int]] = {}
    for index in order:
        if not any(fits(index, slot) for slot in slots):
            raise ValueError(
                f"{requests[index].bundle.task} bundle of {need(index)[0]} frames × "
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


def _noise(request: Request) -> Encoded:
    """The request's starting noise, in the place of its frames."""
    rng = np.random.default_rng(request.seed)
    frames = [rng.standard_normal(f.shape, np.float32) for f in request.bundle.frames]
    return dataclasses.replace(request.bundle, frames=tuple(frames))
