"""Memory for large results: mapped from a file, or of one's own."""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress

_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python's module names from 3.13 on
_LONGEST_READ = 1 << 30  # Linux reads 2 GiB at a time at most


def mapped(handle: int) -> memoryview:
    """Return a file, mapped: its pages are read when they are looked at, and copied where they are written to.

    Without reserve: Linux would not map a file larger than the memory for writing otherwise, since all of it could be
    written to.
    """
    return memoryview(mmap.mmap(handle, 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE))


def anonymous(size: int) -> memoryview:
    """Return `size` bytes of new memory, in large pages where there are any."""
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _HUGE is not None:
        with suppress(OSError):  # a kernel that was built without
            memory.madvise(_HUGE)
    return memoryview(memory)[:size]


def read_all(handle: int, size: int) -> memoryview:
    """Return the first `size` bytes of a file, fewer if there are fewer, read into new memory."""
    memory = anonymous(size)
    position = 0
    while position < size:
        count = os.preadv(handle, [memory[position : position + _LONGEST_READ]], position)
        if not count:
            break
        position += count
    return memory[:position]
