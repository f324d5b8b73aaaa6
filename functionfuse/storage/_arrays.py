"""How NumPy arrays are pickled whose memory NumPy would copy into the stream: those of times.

Python's buffers know no times, so NumPy pickles such arrays as bytes, and forgets
their byte order. As an array of raw bytes, viewed as times, they leave the stream
like all others. No library is needed here: who has an array has imported NumPy.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable, Mapping
from typing import Any


def dispatch_table(table: Mapping[type, Callable[[Any], Any]] | None = None) -> dict[type, Callable[[Any], Any]] | None:
    """Return a pickler's dispatch table, with arrays added to `table` or the usual one; None if there can be none."""
    numpy = sys.modules.get("numpy")
    array = getattr(numpy, "ndarray", None)  # None while NumPy is being imported
    if array is None:
        return None
    return {**(copyreg.dispatch_table if table is None else table), array: _reduce}


def _reduce(array: Any) -> Any:
    dtype = array.dtype
    if dtype.kind in "mM" or (dtype.names and dtype.itemsize and not dtype.hasobject and _holds_times(dtype)):
        return type(array).view, (array.view(f"V{dtype.itemsize}"), dtype)
    return array.__reduce_ex__(5)


def _holds_times(dtype: Any) -> bool:
    base = dtype.base
    return base.kind in "mM" or any(_holds_times(base[name]) for name in base.names or ())
