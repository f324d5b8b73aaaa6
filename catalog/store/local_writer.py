"""A file that is being written on a disk, of which nothing is seen before it is renamed into its place."""

from __future__ import annotations

import errno
import os
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from catalog.format.names import CATALOG_FOLDER
from catalog.store import clock, regular_files
from catalog.store.sync import sync_path

#: Where temporaries are, inside the storage's folder.
TEMPORARY_FOLDER = f"{CATALOG_FOLDER}/tmp"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_SHARDS = 16  # folders of temporaries: enough to keep processes apart, and no litter of one for each
_ABANDONED = 7 * 24 * 3600 * 1_000_000_000  # nanoseconds since a temporary was last written to
_PATIENCE = 100  # times that a folder may vanish under us before it counts as an error


class LocalWriter:
    """A hidden file that becomes a result when it is complete.

    Parameters
    ----------
    root : str
        The storage's folder.
    key : str
        What it is to be.
    prepare : callable
        Makes the folder of the key anew, where it has vanished.
    """

    __slots__ = ("_handle", "_key", "_name", "_path", "_prepare", "_publishing", "_root")

    def __init__(self, root: str, key: str, prepare: Callable[[], None]) -> None:
        name = _take_name()
        self._root = root
        self._key = key
        self._prepare = prepare
        self._handle = -1
        self._path = f"{root}/{name}"
        self._name = name
        self._publishing = False

    def open(self) -> None:
        """Make the file; not when its name is chosen, so that an interrupt in between finds who will discard it."""
        try:
            self._handle = os.open(self._path, _NEW, 0o666)
        except FileNotFoundError:
            regular_files.make_folders(self._root, os.path.dirname(self._name))
            self._handle = os.open(self._path, _NEW, 0o666)

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all of some pieces."""
        written = os.writev(self._handle, pieces)
        if written < sum(map(len, pieces)):
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(self._handle, rest) :]

    def sync(self) -> None:
        """Return when all that was written is on the medium."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; errors that the file system kept back are raised here."""
        handle, self._handle = self._handle, -1
        os.close(handle)

    def publish(self) -> bool:
        """Rename the file to its key, replacing what is there."""
        for _ in range(_PATIENCE):
            try:
                self._publish(f"{self._root}/{self._key}")
                return False
            except FileNotFoundError:  # the workflow is being removed, or was by hand
                self._prepare()
        self._publish(f"{self._root}/{self._key}")
        return False

    def _publish(self, path: str) -> None:
        self._publishing = True
        try:
            os.replace(self._path, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._move_beside(path)  # the workflow's folder is a link to another file system
            os.replace(self._path, path)
        name, self._name = self._name, ""
        _free_names.append(name)

    def _move_beside(self, path: str) -> None:
        beside = os.path.join(os.path.dirname(path), f".{os.path.basename(self._path)}")
        try:
            shutil.copyfile(self._path, beside)
            sync_path(beside)  # as the original may have been
        except BaseException:
            _unlink_present(beside)
            raise
        os.unlink(self._path)
        self._path = beside

    def discard(self) -> bool:
        """Delete the file; False if it was published and so is no longer there."""
        if not self._name:  # another may have the path by now
            return False
        if self._handle >= 0:
            self.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return not self._publishing
        return True


# Temporaries have folders of their own, of which each process uses one, and a name that is used again as soon as the
# file is published. Measured on ext4: four processes that make them in the workflow's folder wait for its lock and take
# 1.5 times as long; a new name for every file makes the folder grow, at 20 µs a save.
_free_names: deque[str] = deque()


def _take_name() -> str:
    try:
        return _free_names.pop()
    except IndexError:
        return f"{own_folder()}/{os.urandom(6).hex()}"


def own_folder() -> str:
    """Return the folder of this process's temporaries, inside the storage's."""
    return f"{TEMPORARY_FOLDER}/{os.getpid() % _SHARDS:x}"


os.register_at_fork(after_in_child=_free_names.clear)


def _unlink_present(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def sweep(root: str) -> None:
    """Delete temporaries that no writer can be writing any more: killed processes leave them.

    Parameters
    ----------
    root : str
        The storage's folder.
    """
    for folder, _, names in regular_files.walk(f"{root}/{TEMPORARY_FOLDER}"):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError):
                if clock.now_ns(root) - os.lstat(path).st_mtime_ns > _ABANDONED:
                    os.unlink(path)
