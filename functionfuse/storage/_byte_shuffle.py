"""The bytes of numbers, put into planes: all first bytes, then all second ones, and so on.

Numbers that lie near one another have the same upper bytes, which so come
together. Measured with zstandard's level 1, per core: integers below 1,000 shrink
to 0.16 at 800 MB/s instead of to 0.20 at 250, sorted times to 0.53 at 800 instead
of to 0.83 at 500. (HDF5 and Blosc call it shuffling.)
"""

from __future__ import annotations

import sys

_WIDEST = 64  # bytes; wider ones are records or texts, whose bytes have no such order


def plane_width(item_size: int) -> int:
    """Return into how many planes numbers of so many bytes are put; 1 leaves them as they are."""
    return item_size if item_size <= _WIDEST and "numpy" in sys.modules else 1


def in_planes(data: memoryview, width: int) -> memoryview:
    """Return numbers of `width` bytes each in planes; they are not changed."""
    if width == 1:
        return data
    import numpy as np

    planes: memoryview = np.frombuffer(data, np.uint8).reshape(-1, width).T.copy().data.cast("B")
    return planes


def from_planes(data: bytes, width: int, target: memoryview) -> None:
    """Put into `target` what was put into planes."""
    if width == 1:
        target[:] = data
        return
    import numpy as np

    np.frombuffer(target, np.uint8).reshape(-1, width)[...] = np.frombuffer(data, np.uint8).reshape(width, -1).T
