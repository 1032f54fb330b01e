"""Train: python -m onediff_jax.main --config=configs/t2i_multitask.py[:preset] [--workdir=DIR].

Fields of the config are set by --config.section.field=value; docs/settings.md lists them, and
--print shows what they make together. Started several times, on one host or
on many, the processes train together; docs/running.md says how they find each other.
"""

import argparse
import hashlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from onediff_jax import exits
from onediff_jax.parallel.cluster import find_cluster
from onediff_jax.parallel.cpu import features
from onediff_jax.parallel.xla_flags import set_memory_fraction

# Before tensorflow, which writes the event files, is imported: it has much to say about itself.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def main(arguments: Sequence[str] | None = None) -> None:
    """Hands over to train; bad input ends with one message, every end with a code of `exits`."""
    parser = argparse.ArgumentParser(
        prog="python -m onediff_jax.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", help="folder of the run; default runs/<config.name>")
    parser.add_argument(
        "--print",
        action="store_true",
        help="show the resolved experiment (fields, parameters, rows, memory) and end",
    )
    parser.add_argument(
        "--exit_when_stopped",
        type=int,
        default=0,
        metavar="CODE",
        help="exit code when SIGTERM ended the run before its last step: launchers start it again",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse a damaged checkpoint instead of going on from the one before",
    )
    parser.add_argument(
        "--accept_changes",
        action="store_true",
        help="go on although code, versions, weights or data are others than at the last start",
    )
    parser.add_argument(
        "--extend",
        action="store_true",
        help="train.steps may be more than at the last start although the learning rate depends on "
        "it: the run goes on from its checkpoint, on the new curve",
    )
    options, of_config = parser.parse_known_args(arguments)
    keep_compiled()
    set_memory_fraction()
    try:
        if options.print:
            show(of_config)
            return
        finished = run(
            of_config,
            options.workdir,
            strict=options.strict,
            accept_changes=options.accept_changes,
            extend=options.extend,
        )
    except Exception as error:
        kind = exits.of_error(error)
        if isinstance(error, ValueError | PermissionError) or kind in (exits.STORAGE, exits.WORKER):
            _fail(f"error: {error}", kind.code)
        _fail(traceback.format_exc(), (exits.LOST if _met_others() else exits.FAULT).code)
    if not finished:
        sys.exit(options.exit_when_stopped)


def run(of_config: Sequence[str], workdir: str | None, **options: bool) -> bool:
    """Trains; whether it came to the last step. Raises ValueError for bad input.

    Args:
      of_config: flags of the config.
      workdir: of the run; None for runs/<config.name>.
      options: as in `run.loop.train`.
    """
    from onediff_jax.experiment.config_flag import read_config

    if cluster := find_cluster(os.environ):
        from onediff_jax.parallel.processes import start

        start(cluster)  # first: a config may look at the devices
    config = read_config(of_config)
    from absl import logging

    from onediff_jax.parallel.program import RecompileError
    from onediff_jax.run.incidents import SpikeError
    from onediff_jax.run.loop import NotFiniteError, train

    logging.set_verbosity(logging.WARNING)
    try:
        state = train(config, workdir or f"runs/{config.name}", **options)
    except (NotFiniteError, SpikeError, RecompileError) as error:
        _fail(f"error: {error}")
    return int(state.step) >= config.train.steps


def show(of_config: Sequence[str]) -> None:
    """Prints what would be trained. Raises ValueError for bad input."""
    from onediff_jax.experiment.config_flag import read_config

    config = read_config(of_config)
    from onediff_jax.experiment.show import describe

    print(describe(config))


def keep_compiled() -> None:
    """Programs that were compiled once are kept for later starts, in $XDG_CACHE_HOME/onediff_jax
    (~/.cache without it); JAX_COMPILATION_CACHE_DIR names another folder, empty: none.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onediff_jax"
    # What XLA compiled for one CPU may not run on another that shares the home folder.
    kind = hashlib.sha256(" ".join(features()).encode()).hexdigest()[:12]
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / f"{platform.machine()}-{kind}"))


def _met_others() -> bool:
    """Whether this is one of several processes, by now."""
    jax = sys.modules.get("jax")  # what fails before it is imported must not wait for it
    return jax is not None and jax.distributed.is_initialized()


def _fail(message: str, code: int = exits.BAD_INPUT.code) -> NoReturn:
    """Ends with a message; at once where there are others, for whom an orderly end would wait."""
    print(message, file=sys.stderr, flush=True)
    if not _met_others():
        sys.exit(code)
    sys.stdout.flush()
    time.sleep(1)  # the end of process 0 ends the others, who may have the same to say
    os._exit(code)


if __name__ == "__main__":
    main()
