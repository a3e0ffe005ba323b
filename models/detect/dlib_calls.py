"""The one way into dlib's C++ code: no model is used by two threads at once, and what dlib raises becomes one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..errors import FaceLoomError

# What dlib and its Python layer raise for pictures and arguments they cannot stand.
_DLIB_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError, ArithmeticError)


class DlibModel:
    """A model of dlib that any thread may use. A call that fails drops the model, because dlib leaves it half changed.

    what: its name in errors. make: opens it. copies: how many threads may use it at the same time, each a copy of its own.
    """

    def __init__(self, what: str, make: Callable[[], Any], copies: int = 1) -> None:
        self._what, self._make = what, make
        self._free = threading.BoundedSemaphore(copies)
        self._idle = [make()]  # append and pop are atomic

    def __call__(self, *arguments: Any) -> Any:
        """Call the model; FaceLoomError where dlib fails."""
        return self.call("__call__", *arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call one of the model's methods; FaceLoomError where dlib fails."""
        with self._free:
            try:
                model = self._idle.pop()
            except IndexError:
                model = self._make()
            try:
                result = getattr(model, method)(*arguments)
            except _DLIB_ERRORS as error:
                reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
                raise FaceLoomError(f"dlib's {self._what} failed on this picture ({reason}); try it in another size, or take another "
                                    "detector.") from error
            self._idle.append(model)
            return result
