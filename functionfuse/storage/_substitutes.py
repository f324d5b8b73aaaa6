"""What cloudpickle would hand back as something else: open files as texts, memory views as bytes."""

from __future__ import annotations

import io
import operator
import pickle
import sys
from collections.abc import Callable
from typing import Any


def _open_file(file: io.TextIOWrapper) -> Any:
    for name in ("stdout", "stderr"):  # whoever reads it has its own
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise pickle.PicklingError("an open file would come back as a text at most: return its path or what it holds")


def _view(view: memoryview) -> Any:
    # Of builtins alone, so that plain pickle reads it; over memory of its own.
    data = view.tobytes()
    if (view.format, view.ndim) == ("B", 1):
        return memoryview, (data if view.readonly else bytearray(data),)
    flat = memoryview(data if view.readonly else bytearray(data))
    cast = operator.methodcaller("cast", view.format, *([] if view.ndim == 1 else [view.shape]))
    cast(flat)  # it may refuse a format that is not of this machine
    return cast, (flat,)


SUBSTITUTES: dict[type, Callable[[Any], Any]] = {io.TextIOWrapper: _open_file, memoryview: _view}
