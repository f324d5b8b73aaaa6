"""A file on a disk that is open for reading."""

from __future__ import annotations

import os


class LocalFile:
    """A file that is open for reading.

    Parameters
    ----------
    handle : int
        Its descriptor, which is closed behind a ``with`` block.
    """

    __slots__ = ("_status", "handle", "size")

    piece = 1 << 20

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._status = os.fstat(handle)
        self.size = self._status.st_size

    @property
    def modified_ns(self) -> int:
        """When it was written, ns since 1970."""
        return self._status.st_mtime_ns

    @property
    def tag(self) -> str:
        """What tells it from another."""
        return tag_of(self._status)

    def tail(self, count: int) -> bytes:
        """Return the last bytes, all of them if there are fewer."""
        return os.pread(self.handle, count, max(0, self.size - count))

    def read(self, position: int, count: int) -> bytes:
        """Return bytes from a position on."""
        return os.pread(self.handle, count, position)

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)


def tag_of(status: os.stat_result) -> str:
    """Return what changes when a file is written anew."""
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
