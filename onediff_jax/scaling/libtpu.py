"""libtpu, which compiles for TPUs where there is none."""

import importlib.util

VERSION = "libtpu==0.0.42.1"  # what jax[tpu] of jax 0.10.2 asks for
# To be set before jax is imported. libtpu would ask the machine's metadata server what it is, and
# wait; only one process may drive TPUs, but any number may compile.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def check_libtpu() -> None:
    """Raises ValueError with the command that installs it where it is missing."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"compiling for a TPU needs libtpu, which runs nothing here: pip install {VERSION}"
        )
