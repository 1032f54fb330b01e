"""Tasks of one's own in a config: data.own_tasks, which prepared folders bring with them."""

from typing import Any

from ml_collections import ConfigDict

from onediff_jax.data.prepared.manifest import read_manifest
from onediff_jax.tasks.definitions import TaskSet
from onediff_jax.tasks.own import definitions_of, merged, own_tasks


def tasks_of(config: ConfigDict) -> TaskSet:
    """The built-in tasks, and those that the config defines.

    Raises ValueError for definitions that cannot be.
    """
    return own_tasks(config.data.own_tasks.to_dict(), "data.own_tasks")


def with_own_tasks(config: ConfigDict) -> ConfigDict:
    """The config with what its prepared folders define: a run is then whole without them.

    Raises ValueError (PreparedError) where folders, or the config, define one name differently, or
    a folder is not finished.
    """
    stated = definitions_of(tasks_of(config))
    parts: dict[str, Any] = {"data.own_tasks": stated}
    if config.data.name == "prepared" and "folders" in config.data:
        for entry in config.data.folders:
            path = entry if isinstance(entry, str) else entry[0]
            found = read_manifest(path, verify=False)["plan"].get("own_tasks", {})
            parts[str(path)] = definitions_of(own_tasks(found, str(path)))
    together = merged(parts)
    if together == stated:
        return config
    own_tasks(together)  # raises where names of two folders stand in each other's way
    filled = config.copy_and_resolve_references().unlock()
    filled.data.own_tasks = ConfigDict(together)
    return filled.lock()
