"""A program that is compiled once, knowingly."""

from typing import Any

import jax

from onediff_jax.parallel.processes import meet
from onediff_jax.parallel.xla_flags import compiler_options


class RecompileError(RuntimeError):
    """A program was called with arguments that it was not compiled for."""


class Program:
    """A jitted function that is compiled for the first arguments it is called with, and no others.

    Many processes meet between compiling and running: some compile for longer than the collectives
    of the others would wait.

    Args:
      jitted: from jax.jit.
      name: for messages.
      allow_recompile: other arguments are compiled for; otherwise they raise RecompileError.

    Attributes: compiled, how many times.
    """

    def __init__(self, jitted: Any, name: str, *, allow_recompile: bool = False):
        self._jitted, self._name, self._allow = jitted, name, allow_recompile
        self._program: Any = None  # a jax.stages.Compiled, once there is one
        self.compiled = 0

    def __call__(self, *args: Any) -> Any:
        program = self._program or self._compile(args)
        try:
            return program(*args)
        except (TypeError, ValueError) as error:  # raised before anything runs
            if not self._allow:
                raise RecompileError(
                    f"{self._name} would have to be compiled again: {error}"
                ) from error
        return self._compile(args)(*args)

    def _compile(self, args: tuple) -> Any:
        options = compiler_options(jax.default_backend())
        self._program = self._jitted.lower(*args).compile(compiler_options=options or None)
        self.compiled += 1
        meet()
        return self._program
