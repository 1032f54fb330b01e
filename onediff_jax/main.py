"""Train: python -m onediff_jax.main --config=configs/t2i_multitask.py[:preset] [--workdir=DIR]."""

import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file, with :preset.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config.name>.")


def main(argv: list[str]) -> None:
    """Parses flags and hands over to train; bad input ends with one message and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; fields are set by --config.x.y=z")
    config = _CONFIG.value
    if config is None:
        raise app.UsageError("--config is required, e.g. --config=configs/t2i_multitask.py")
    from onediff_jax.train import NotFiniteError, train

    try:
        train(config, _WORKDIR.value or f"runs/{config.name}")
    except (ValueError, NotFiniteError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
