"""A config from a command line: --config=FILE[:preset] and --config.section.field=value."""

import contextlib
import difflib
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import onediff_jax
from onediff_jax.experiment.checks import other_data
from onediff_jax.experiment.schema import field_of


def read_config(arguments: Sequence[str]) -> ConfigDict:
    """The config that `arguments` describe; there must be no others.

    A field that holds a float, or nothing yet, may be set to None.

    Raises ValueError that names the argument and what there is instead.
    """
    path = _path(arguments)
    if path is None:
        raise ValueError("--config=FILE is required, e.g. --config=configs/t2i_multitask.py")
    given, path = path, find_config(path)
    of_file = {
        given: path,
        f"--config={given}": f"--config={path}",
        f"-config={given}": f"--config={path}",
    }
    arguments = [of_file.get(a, a) for a in arguments]
    nones = [a for a in arguments if re.fullmatch(r"--?config\.[\w.]+=None", a)]
    values = flags.FlagValues()
    argv = ["", *(a for a in arguments if a not in nones)]
    flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)[1:]
    except (AttributeError, KeyError):  # what ml_collections raises for a field it lacks
        with contextlib.redirect_stdout(io.StringIO()):
            parser: Any = values["config"].parser
            config = parser.parse(path)
        unknown = [_unknown_field(config, a) for a in arguments if re.match(r"--?config\.", a)]
        if not any(unknown):
            raise
        raise ValueError(next(filter(None, unknown))) from None
    except (flags.Error, TypeError, ValueError) as error:
        # A config's own error comes with its traceback; the last line says what is wrong.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        says = lines[-1] if "Traceback" in str(error) else lines[0]
        raise ValueError(re.sub(r"^[A-Za-z]+Error: ", "", says)) from None
    if rest:
        raise ValueError(f"unexpected arguments {rest}; fields are set by --config.x.y=value")
    for argument in nones:
        _set_none(flag.value, argument)
    return flag.value


def find_config(path: str) -> str:
    """The config file of `FILE[:preset]`: as it is, or a shipped one where the package is installed
    without its checkout (configs/NAME.py or NAME.py).

    Raises ValueError where neither is there.
    """
    file, colon, preset = path.partition(":")
    shipped = Path(onediff_jax.__file__).parent / "configs"
    for candidate in (Path(file), shipped / Path(file).name):
        if candidate.is_file():
            return f"{candidate}{colon}{preset}"
    raise ValueError(f"--config={path}: there is no such file")


def _set_none(config: ConfigDict, argument: str) -> None:
    if unknown := _unknown_field(config, argument):
        raise ValueError(unknown)
    name = argument.partition("=")[0].split(".", 1)[1]
    *sections, field = name.split(".")
    for section in sections:
        config = config[section]
    if not isinstance(config[field], float | None):
        raise ValueError(f"--config.{name}={config[field]!r} cannot be None")
    config[field] = None


def _path(arguments: Sequence[str]) -> str | None:
    """The value of --config=FILE or --config FILE."""
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        if found := re.fullmatch(r"--?config(=(.*))?", argument):
            return found[2] if found[1] else following
    return None


def _unknown_field(config: ConfigDict, argument: str) -> str | None:
    """What to say about --config.a.b=value when there is no such field; None when there is."""
    name = argument.split("=", 1)[0].split(".", 1)[1]
    section, known = config, "config"
    for part in name.split("."):
        if not isinstance(section, ConfigDict):
            return f"unknown field --config.{name}: {known} is a value, not a section"
        if part not in section:
            field = field_of(name)
            if field is not None and field.only:
                return str(other_data(field))
            near = difflib.get_close_matches(part, list(section), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"unknown field --config.{name}; {known} has {sorted(section)}{hint}"
        section, known = section[part], f"{known}.{part}"
    return None
