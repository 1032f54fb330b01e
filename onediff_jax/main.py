"""Train: python -m onediff_jax.main --config=configs/t2i_multitask.py[:preset] [--workdir=DIR]."""

import contextlib
import io
import os
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

# Before tensorflow, which writes the event files, is imported: it has much to say about itself.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file, with :preset.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config.name>.")


def main(argv: list[str]) -> None:
    """Hands over to train; bad input ends with one message and exit code 1."""
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        sys.exit(f"error: unexpected arguments {argv[1:]}; fields are set by --config.x.y=value")
    config = _CONFIG.value
    from onediff_jax.train import NotFiniteError, train

    try:
        train(config, _WORKDIR.value or f"runs/{config.name}")
    except (ValueError, NotFiniteError) as error:
        sys.exit(f"error: {error}")


def parse_flags(argv: list[str]) -> list[str]:
    """The arguments that are not flags; bad flags end with one message and exit code 1."""
    path = _config_path(argv)
    if path is None and not any(re.fullmatch(r"--?help\w*", a) for a in argv):
        sys.exit("error: --config=FILE is required, e.g. --config=configs/t2i_multitask.py")
    if path is not None and not Path(path.split(":")[0]).is_file():
        sys.exit(f"error: --config={path}: there is no such file")
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError):  # what ml_collections raises for a field it lacks
        with contextlib.redirect_stdout(io.StringIO()):
            config = flags.FLAGS["config"].parser.parse(path)
        unknown = [_unknown_field(config, a) for a in argv if re.match(r"--?config\.", a)]
        if not any(unknown):
            raise
        sys.exit(f"error: {next(filter(None, unknown))}")
    except (flags.Error, ValueError, TypeError) as error:
        # A config's own error comes with its traceback; the last line says what is wrong.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        says = lines[-1] if "Traceback" in str(error) else lines[0]
        sys.exit(f"error: {re.sub(r'^[A-Za-z]+Error: ', '', says)}")


def _config_path(argv: list[str]) -> str | None:
    """The value of --config=FILE or --config FILE."""
    for argument, following in zip(argv, [*argv[1:], None], strict=True):
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
            return f"unknown field --config.{name}; {known} has {sorted(section)}"
        section, known = section[part], f"{known}.{part}"
    return None


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
