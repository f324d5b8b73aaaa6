"""The lock between the processes that ask: who folds is alone with the index, who only reads is not."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from catalog.format.ids import new_id
from catalog.store import regular_files

_MARK = 36  # bytes: an id
_PATIENCE = 5.0  # seconds to wait for other processes' questions, nearly all of which take milliseconds


class IndexUnavailable(Exception):
    """An index that cannot be used here and now, through no fault of its own."""


class LockTimeout(IndexUnavailable):
    """Others hold its lock, and for long."""


class Lock:
    """A lock file that is open, and held or not.

    Parameters
    ----------
    path : str
        The file; it is made if it is missing.
    mode : int
        Who may then do what with it, as far as the umask lets them.

    Raises
    ------
    IndexUnavailable
        If there is something else than a file, it may not be opened for writing, or its file system has no locks.

    Notes
    -----
    One way to hold it turns into the other with a moment in between in which it
    is free, and another process may get it.
    """

    def __init__(self, path: str, mode: int = 0o666) -> None:
        self._path = path
        self._is_held = False
        try:
            self._handle = regular_files.open_file(path, os.O_RDWR | os.O_CREAT, mode)
        except OSError as error:  # another user's
            raise IndexUnavailable(f"{path} cannot be opened for writing: {error.strerror}") from error

    def __enter__(self) -> Lock:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let it go, and close the file."""
        try:
            self.free()  # closing is not enough: a child forked meanwhile has the file open too
        finally:
            os.close(self._handle)

    def take(self) -> bool:
        """Hold it alone, if nobody else holds it."""
        return self._taken(fcntl.LOCK_EX)

    def share(self) -> bool:
        """Hold it together with others, if nobody holds it alone."""
        return self._taken(fcntl.LOCK_SH)

    def free(self) -> None:
        """Let it go."""
        if self._is_held:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            self._is_held = False

    def mark(self) -> bytes:
        """Return the mark of the last who wrote what is locked."""
        return os.pread(self._handle, _MARK, 0)

    def leave_mark(self) -> None:
        """Leave a mark of one's own, before writing: a coarse clock of a file system does not tell of every write."""
        with suppress(OSError):  # a full disk: writing will say so
            os.pwrite(self._handle, new_id().encode(), 0)

    def wait_for(self, attempt: Callable[[], bool]) -> None:
        """Attempt something, such as `share`, until it succeeds; `LockTimeout` if others hold the lock for long."""
        began = time.monotonic()
        while not attempt():
            if time.monotonic() > began + _PATIENCE:
                raise LockTimeout(f"another process has held {self._path} for {_PATIENCE:.0f} s")
            time.sleep(0.001)

    def _taken(self, how: int) -> bool:
        try:
            fcntl.flock(self._handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # NFS without a lock service, some FUSE file systems
            raise IndexUnavailable(f"{self._path} cannot be locked there: {error.strerror}") from error
        self._is_held = True
        return True
