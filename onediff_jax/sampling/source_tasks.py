"""The tasks that a run or an export knows, without loading it."""

import json
from pathlib import Path

from onediff_jax.tasks.definitions import BUILT_IN, TaskSet
from onediff_jax.tasks.own import own_tasks

# Of a workdir and of an export → where the config is in it.
_FILES = {"config.json": (), "onediff_jax.json": ("config",)}


def tasks_of_source(path: str | Path) -> TaskSet:
    """The tasks of a workdir or an exported folder, read without its weights; the built-in ones
    where the path is neither, which `load_source` says.

    Raises ValueError for definitions that cannot be.
    """
    for name, parts in _FILES.items():
        file = Path(path) / name
        try:
            values = json.loads(file.read_text())
            for part in (*parts, "data"):
                values = values[part]
            return own_tasks(values.get("own_tasks", {}), str(file))
        except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
            continue
    return BUILT_IN
