"""The compilers of machines that are not here: libtpu, and jax's CUDA plugin."""

import importlib.util

LIBTPU = "libtpu==0.0.42.1"  # what jax[tpu] of jax 0.10.2 asks for
CUDA = "jax[cuda13]"
_PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
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
# A run on a GPU tries kernels for every product and keeps the quickest. Without one XLA cannot try,
# and its Triton kernels are not certain to compile with the shapes it would guess.
UNTRIED: dict[str, bool | int] = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}


def check_compiler(platform: str) -> None:
    """Raises ValueError with the command that installs it where it is missing."""
    if platform == "tpu" and importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"compiling for a TPU needs libtpu, which runs nothing here: pip install {LIBTPU}"
        )
    if platform == "gpu" and not any(map(_exists, _PLUGINS)):
        raise ValueError(
            "compiling for a GPU needs jax's CUDA plugin, which runs nothing here: "
            f"pip install '{CUDA}' tokamax"
        )


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
