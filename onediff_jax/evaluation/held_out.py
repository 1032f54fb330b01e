"""Held-out examples of every task and direction, as requests to the sampler."""

import dataclasses
from collections.abc import Iterable

from onediff_jax.data.bundle import Bundle, Encoded, encode_bundle
from onediff_jax.experiment.build import Experiment
from onediff_jax.sampling.request import Request, request_of_example


@dataclasses.dataclass(frozen=True)
class Example:
    """One held-out bundle and what is asked of it."""

    direction: str
    bundle: Bundle
    encoded: Encoded
    generate: tuple[bool, ...]

    def request(self, seed: int) -> Request:
        """The example as a request; `seed` sets the starting noise."""
        return request_of_example(self.direction, self.encoded, self.generate, seed)


def examples(
    experiment: Experiment,
    per_direction: int,
    directions: Iterable[str] | None = None,
    *,
    start: int = 0,
) -> list[Example]:
    """Held-out bundles `start` … of each direction of the tasks that the config trains; where there
    are fewer, counting goes on from the first.

    Raises ValueError for a direction that does not exist or is not trained; lists those that are.
    """
    trained = {name for name, weight in experiment.config.data.tasks.items() if weight}
    tasks = experiment.tasks
    available = {d.name: t.name for t, d in tasks.directions() if t.name in trained}
    chosen = list(available) if directions is None else list(directions)
    if unknown := [name for name in chosen if name not in available]:
        raise ValueError(f"unknown directions {unknown}; this run knows {list(available)}")
    found = []
    for task in dict.fromkeys(available[name] for name in chosen):
        source = experiment.bundles(task, held_out=True, scenes=max(start + per_direction, 1))
        bundles = [source[(start + i) % len(source) if start else i] for i in range(per_direction)]
        encoded = [encode_bundle(b, experiment.codec) for b in bundles]
        for name in (name for name in chosen if available[name] == task):
            for bundle, latents in zip(bundles, encoded, strict=True):
                mask = tasks[task].denoise_mask(name, len(bundle.frames))
                found.append(Example(name, bundle, latents, tuple(map(bool, mask))))
    return found
