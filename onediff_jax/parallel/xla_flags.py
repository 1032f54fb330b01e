"""What to tell XLA, by platform. The only place where compiler options are written."""

import functools
import os

# Share of a GPU's memory that jax takes when it starts: three quarters unless told. What is left is
# for CUDA itself, NCCL's buffers and cuDNN.
GPU_MEMORY = 0.92
_MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")

# TPU v5p and v6e run collectives one after another with everything else unless told to run them
# beside it; v5e does so by itself.
TPU: dict[str, bool | int | str] = {
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_enable_async_all_gather": True,
    # Sums of gradients by the sparse cores of v5p and v6e, beside the products; v5e has none. On
    # v6e:16x16 it takes the bound of a step from 207 ms to 180.
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": True,
}
# YNNPACK is quick at products and slow at what XLA fuses around them: a step of 14 M parameters and
# 512 tokens takes 0.87× the time with it for products alone.
CPU: dict[str, bool | int | str] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    "xla_cpu_prefer_vector_width": 512,
}
GPU: dict[str, bool | int | str] = {"xla_gpu_enable_latency_hiding_scheduler": True}


def compiler_options(platform: str) -> dict[str, bool | int | str]:
    """Options for `jax.jit(…, compiler_options=…)` or `.compile(…)` on "cpu", "gpu" or "tpu"."""
    if platform == "cpu":
        return {name: value for name, value in CPU.items() if _is_known(name, value)}
    return {"tpu": TPU, "gpu": GPU, "cuda": GPU}.get(platform, {})


@functools.cache
def _is_known(name: str, value: bool | int | str) -> bool:
    """Whether this version of XLA has an option: experimental ones come and go."""
    import jax  # not before the environment is set

    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def set_memory_fraction() -> None:
    """For GPUs, before jax looks at its devices, and unless the environment says it already."""
    if not any(name in os.environ for name in _MEMORY_VARIABLES):
        os.environ[_MEMORY_VARIABLES[0]] = str(GPU_MEMORY)
