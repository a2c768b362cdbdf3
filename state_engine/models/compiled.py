"""A function of tensors that torch compiles, where it can: a compiler that is missing or fails costs the speed, not the work.

Boundary: knows no network; whether compiling pays is for the caller to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class Compiled(Generic[P, R]):
    """Calls a compiled function; after a failure of the compiler, the function itself.

    The last bits of what it returns may be others than those of the function.

    Args:
        function: of tensors, whose sizes may change from call to call.
        on_remark: told when it goes on without compiling.
    """

    def __init__(self, function: Callable[P, R], on_remark: Callable[[str], None] = lambda text: None) -> None:
        self._function, self._on_remark = function, on_remark
        self._compiled: Callable[P, R] | None = torch.compile(function, dynamic=True)

    def __call__(self, *given: P.args, **named: P.kwargs) -> R:
        """Call it."""
        if self._compiled is not None:
            try:
                return self._compiled(*given, **named)
            except (torch.OutOfMemoryError, MemoryError):
                raise  # the pass does not fit, compiled or not
            except Exception as error:  # noqa: BLE001 - compilers fail in many ways; what the function raises itself comes again below
                self._compiled = None
                why = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        else:
            return self._function(*given, **named)
        found = self._function(*given, **named)
        self._on_remark(f"The network could not be compiled, and computes as it is: {why}")
        return found
