"""Side files that are kept open, so that what is lazy over them outlives an overwrite or a removal of its result.

An open file stays what it is when its name is gone. So a lazy object holds its
files open; another process, to which no descriptor goes along, opens them by
their paths. A process may have so many open files and no more: one that holds
too many already opens by path, too.
"""

from __future__ import annotations

import io
import os
import resource
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any

from functionfuse.errors import SideFileMissing
from functionfuse.serializers._sides import Sides

_READ = os.O_RDONLY | os.O_CLOEXEC
#: What befell a file that was there when its result was read.
GONE = "its result was overwritten or removed since it was read; read it again"


def _most() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (soft if 0 <= soft <= 1 << 16 else 1 << 16) // 4


class Held:
    """Descriptors of files, of all or of none, that are open as long as this is.

    Parameters
    ----------
    paths : iterable of str
        The files.

    Raises
    ------
    SideFileMissing
        If one is gone.

    Notes
    -----
    None are kept open where a quarter of the files that the process may have are
    kept open already, or would be; then they are opened by path each time.
    """

    _free = _most()
    _lock = threading.Lock()

    def __init__(self, paths: Iterable[str]) -> None:
        self._handles: dict[str, int] = {}
        names = list(islice(paths, Held._free + 1))
        with self._lock:
            if len(names) > Held._free:
                return
            Held._free -= len(names)
        try:
            for name in names:
                self._handles[name] = _open(name)
        finally:
            with self._lock:
                Held._free += len(names) - len(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    def __contains__(self, path: str) -> bool:
        return path in self._handles

    @contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """Give a descriptor of a file, to be read by position alone: other threads read it, too."""
        handle = self._handles.get(path)
        if handle is not None:
            yield handle
            return
        handle = _open(path)
        try:
            yield handle
        finally:
            os.close(handle)

    def read(self, path: str) -> bytearray:
        """Return all of a file."""
        with self.opened(path) as handle:
            data = bytearray(os.fstat(handle).st_size)
            read_into(handle, memoryview(data), 0)
        return data

    def __del__(self) -> None:
        for handle in self._handles.values():
            os.close(handle)
        Held._free += len(self._handles)


def read_into(handle: int, data: memoryview, offset: int) -> None:
    """Fill `data` from a position of a file on, as far as the file goes."""
    while data:
        count = os.preadv(handle, [data], offset)
        if not count:
            return  # a checksum tells
        data, offset = data[count:], offset + count


def _open(path: str) -> int:
    try:
        return os.open(path, _READ)
    except FileNotFoundError as error:
        raise SideFileMissing(f"the side file {path} is gone: {GONE}") from error


class HeldSides(Sides):
    """Side files of which some are kept open.

    Parameters
    ----------
    protocols : mapping
        As a serializer is given them.
    names : iterable of str
        The files to be kept open, where they are on a file system.
    """

    def __init__(self, protocols: Mapping[str, Any], names: Iterable[str]) -> None:
        super().__init__(protocols)
        plain = Sides(protocols)
        self._paths = {name: plain.path(name) for name in names} if self.is_local else {}
        self._held = Held(self._paths.values())

    def open(self, name: str, mode: str) -> IO[Any]:
        """Open a side file, from its descriptor if it is kept open."""
        path = self._paths.get(name, "")
        return _View(self._held, path) if path in self._held else super().open(name, mode)  # type: ignore[return-value]


class _View(io.RawIOBase):
    """A file that is open already, to be read as a whole or mapped; it is not closed with this."""

    def __init__(self, held: Held, path: str) -> None:
        self._held = held
        self._path = path

    def fileno(self) -> int:
        with self._held.opened(self._path) as handle:
            return handle

    def readall(self) -> bytes:
        return self._held.read(self._path)  # type: ignore[return-value]  # writable, and copied nowhere
