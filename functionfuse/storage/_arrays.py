"""How NumPy arrays are pickled that NumPy itself would copy into the stream and of which it forgets the byte order.

Python's buffers know no times, and nothing that is not contiguous. NumPy pickles
such arrays as bytes, which it turns into this machine's byte order when it reads
them. Pickled as arrays of raw bytes that are viewed as what they are, they keep
theirs, and times leave the stream like all others. No library is needed here: who has an array has imported NumPy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def array_reducers() -> dict[type, Callable[[Any], Any]]:
    """Return the reducer of arrays, if there can be any."""
    array = getattr(sys.modules.get("numpy"), "ndarray", None)  # None while NumPy is being imported
    return {} if array is None else {array: _reduce}


def _reduce(array: Any) -> Any:
    dtype = array.dtype
    is_copied = _holds_times(dtype) or not (dtype.isnative or array.flags.forc)
    if is_copied and dtype.itemsize and not dtype.hasobject:
        return type(array).view, (array.view(f"V{dtype.itemsize}"), dtype)
    return array.__reduce_ex__(5)


@lru_cache(maxsize=256)
def _holds_times(dtype: Any) -> bool:
    base = dtype.base
    return base.kind in "mM" or any(_holds_times(base[name]) for name in base.names or ())
