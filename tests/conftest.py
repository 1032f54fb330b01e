"""Set before jax is imported anywhere: tests are exact on CPU, and compile for their size."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Programs here run a few times: what costs is compiling them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
