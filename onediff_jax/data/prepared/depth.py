"""What grey means in the depth maps of prepared folders."""

from collections.abc import Iterator, Sequence
from typing import Any

from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.tasks.depth import Normalisation


def depth_of(folders: Sequence[tuple[PreparedFolder, float]]) -> Normalisation | None:
    """What grey means in the depth maps of all folders, in metres; None where it differs."""
    found = set()
    for folder, _ in folders:
        if any("depth" in folder.definitions.task(name).frames for name in folder.tasks):
            found |= set(_readers(folder.manifest["plan"]["source"])) or {None}
    return found.pop() if len(found) == 1 else None


def _readers(description: Any) -> Iterator[Normalisation | None]:
    """The ranges that the readers of depth files in a source's description had."""
    if isinstance(description, dict):
        if "depth_near" in description:
            near, far = description["depth_near"], description["depth_far"]
            if near is None or far is None:
                yield None
            else:
                yield Normalisation(near, far, description["depth_kind"])
        for value in description.values():
            yield from _readers(value)
