"""Whether a result that was pickled can be unpickled, too: tried when it is saved, where that is cheap.

Pickling keeps what an object says of itself and calls nothing of it; unpickling
calls classes and functions, which may refuse what was kept. An exception whose
``__init__`` takes two arguments is the usual one.
"""

from __future__ import annotations

import io
import pickle
import traceback
from typing import Any

from functionfuse.errors import UnpicklableResult

#: Bytes of the largest stream that is tried.
LARGEST = 1 << 16


def may_fail(stream: bytes) -> bool:
    """Tell whether a stream is small, and refers to a class or function: numbers, texts and builtin containers do not.

    The byte may be in a text, too; then it is tried for nothing.
    """
    return pickle.STACK_GLOBAL in stream and len(stream) <= LARGEST


def try_to_load(stream: bytes, obj: Any) -> None:
    """Unpickle what an object was pickled to, and forget it.

    Raises
    ------
    UnpicklableResult
        If that fails.
    """
    try:
        _Trial(io.BytesIO(stream)).load()
    except _NotTried:
        return
    except MemoryError:
        raise
    except Exception as error:
        raise UnpicklableResult(
            f"a {type(obj).__qualname__} can be pickled, but not unpickled again: {text_of(error)}"
        ) from error


def text_of(error: BaseException) -> str:
    """Return class and message of an error, also of one whose message cannot be had."""
    return traceback.format_exception_only(error)[-1].strip()


class _NotTried(Exception):
    """There is a class whose objects do something when they go."""


class _Trial(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        # A second object that goes at once might close what the first one needs, or delete its files.
        if isinstance(found, type) and any("__del__" in vars(base) for base in found.__mro__):
            raise _NotTried
        return found
