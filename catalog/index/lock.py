"""The lock between the processes that ask: who folds is alone with the index, who only reads is not."""

from __future__ import annotations

import fcntl
import os
import time
from types import TracebackType

from catalog.store import regular


class Held(Exception):
    """An index that cannot be used here and now, through no fault of its own."""


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
    Held
        If there is something else than a file, it may not be opened for writing, or its file system has no locks; by
        `wait`, if others hold it for long.

    Notes
    -----
    One way to hold it turns into the other with a moment in between in which it
    is free, and another process may get it.
    """

    def __init__(self, path: str, mode: int = 0o666) -> None:
        self._path = path
        self._is_held = False
        try:
            self._handle = regular.open_file(path, os.O_RDWR | os.O_CREAT, mode)
        except OSError as error:  # another user's
            raise Held(f"{path} cannot be opened for writing: {error.strerror}") from error

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

    def wait(self, began: float, patience: float) -> None:
        """Pause between two attempts, the first of which was at `began`; `patience` is how long all may take, in s."""
        if time.monotonic() > began + patience:
            raise Held(f"another process has held {self._path} for {patience:.0f} s")
        time.sleep(0.001)

    def _taken(self, how: int) -> bool:
        try:
            fcntl.flock(self._handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # NFS without a lock service, some FUSE file systems
            raise Held(f"{self._path} cannot be locked there: {error.strerror}") from error
        self._is_held = True
        return True
