"""What verification and repair need of a storage beside what questions do: whole files, side files, a quarantine."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol, TypeVar

from catalog.format.names import CATALOG_FOLDER, SIDE_FOLDER
from catalog.journal.base import Publication
from catalog.journal.open import journal_of
from catalog.store import clock, regular
from catalog.store.folder import File, OpenFile
from catalog.store.local import LocalStore

S = TypeVar("S")
T = TypeVar("T")

#: What tells one file from another that has its name: equal ones mean that nothing was written in between.
Stamp = tuple[object, ...]


class CannotBeRead(Exception):
    """There is a file, and this user cannot read it, or not to its end."""


class Changed(Exception):
    """A file is no longer the one that was looked at."""


class Whole(File, Protocol):
    """A file that is open to be read to its end.

    Attributes
    ----------
    piece : int
        Bytes that are best read at once.
    """

    piece: int

    @property
    def stamp(self) -> Stamp:
        """What tells it from another."""

    def read(self, position: int, count: int) -> bytes:
        """Return bytes from a position on: at least one and at most `count`; none at the end."""


def pieces(opened: Whole) -> Iterator[bytes]:
    """Yield the bytes of an open file."""
    position = 0
    while data := opened.read(position, opened.piece) if position < opened.size else b"":
        yield data
        position += len(data)


class Upkeep(ABC):
    """The files of a storage, by their paths relative to it.

    Attributes
    ----------
    quarantine : str
        The folder for what is put aside.
    """

    quarantine: str

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[Whole]:
        """Open a file to read all of it.

        Returns
        -------
        context manager of Whole
            It is closed behind the block.

        Raises
        ------
        FileNotFoundError
            If there is none.
        CannotBeRead
            If it may not be read; also within the block.
        """

    def content(self, path: str) -> bytes:
        """Return all bytes of a file; raises as `open` does."""
        with self.open(path) as opened:
            return b"".join(pieces(opened))

    @abstractmethod
    def stamp(self, path: str) -> Stamp | None:
        """Return what tells a file from another, None if there is none."""

    def map(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Yield what a function returns for each item, in their order."""
        return map(function, items)

    @abstractmethod
    def side_folders(self, folder: str) -> list[str]:
        """Return the names of what lies where a workflow's folder has its side folders."""

    @abstractmethod
    def below(self, path: str) -> list[tuple[str, int]]:
        """Return the name, relative to a folder, and the size in bytes of every file below it."""

    @abstractmethod
    def quiet_for(self, path: str) -> float:
        """Return for how many seconds nothing changed in a file, or in a folder and below; 0 where nothing tells."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file that is not there yet."""

    @abstractmethod
    def tell(self, path: str, line: str, act: Callable[[], None] | None = None) -> None:
        """Tell the journal of what happens to a result, and do it."""

    @abstractmethod
    def check_movable(self, path: str) -> None:
        """Raise the `OSError` that a move would raise, as far as that is known before."""

    @abstractmethod
    def move(self, path: str, to: str, stamp: Stamp) -> None:
        """Move a file; `Changed` if it is not the one with that stamp, which then stays where it is."""

    @abstractmethod
    def move_all(self, path: str, to: str) -> None:
        """Move a file, or a folder with all that is below it; nothing if it is gone."""


class LocalUpkeep(Upkeep):
    """The files of a storage on a disk.

    Parameters
    ----------
    root : str
        The storage's folder.
    """

    quarantine = f"{CATALOG_FOLDER}/quarantine"

    def __init__(self, root: str) -> None:
        self._root = root

    @contextmanager
    def open(self, path: str) -> Iterator[Whole]:
        """Open a file."""
        if not self._is_reached(path):
            raise FileNotFoundError(path)
        try:
            handle = regular.open_file(f"{self._root}/{path}")
        except NotADirectoryError as error:
            raise FileNotFoundError(path) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CannotBeRead(f"it cannot be read: {error.strerror}") from error
        try:
            yield _OpenWhole(handle)
        except OSError as error:
            raise CannotBeRead(str(error)) from error
        finally:
            os.close(handle)

    def stamp(self, path: str) -> Stamp | None:
        """Return device, inode, size and time of the last change."""
        with suppress(FileNotFoundError, NotADirectoryError):
            status = os.lstat(f"{self._root}/{path}")
            if stat.S_ISREG(status.st_mode):
                return _stamp_of(status)
        return None

    def side_folders(self, folder: str) -> list[str]:
        """Return the names of what lies beside the side folders of a workflow."""
        path = f"{self._root}/{folder}/{SIDE_FOLDER}"
        with suppress(PermissionError):
            return [entry.name for entry in regular.entries(path)] if regular.is_folder(path) else []
        return []

    def below(self, path: str) -> list[tuple[str, int]]:
        """Return the files below a folder."""
        found = []
        top = f"{self._root}/{path}"
        for folder, _, names in regular.walk(top) if self._is_reached(path) else ():
            for name in names:
                whole = os.path.join(folder, name)
                with suppress(FileNotFoundError):  # removed since
                    status = os.lstat(whole)
                    if stat.S_ISREG(status.st_mode):
                        found.append((whole[len(top) + 1 :], status.st_size))
        return found

    def quiet_for(self, path: str) -> float:
        """Return for how long nothing changed."""
        top = f"{self._root}/{path}"
        newest = _changed(top)
        for folder, folders, files in regular.walk(top):
            newest = max(newest, *(_changed(os.path.join(folder, name)) for name in (*folders, *files)), newest)
        return (clock.now_ns(self._root) - newest) / 1e9

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        regular.make_folders(self._root, os.path.dirname(path))
        with open(f"{self._root}/{path}", "xb") as file:
            file.write(data)

    def tell(self, path: str, line: str, act: Callable[[], None] | None = None) -> None:
        """Tell the journal of what happens to a result, and do it."""
        journal_of(LocalStore(self._root)).append(Publication(line, path, act and once(act)))

    def check_movable(self, path: str) -> None:
        """Raise what a move would raise."""
        whole = f"{self._root}/{path}"
        folder = os.path.dirname(whole)
        if os.lstat(whole).st_dev != os.lstat(f"{self._root}/{CATALOG_FOLDER}").st_dev:
            raise OSError(errno.EXDEV, "it lies on another file system than the storage's folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "its folder cannot be written", folder)

    def move(self, path: str, to: str, stamp: Stamp) -> None:
        """Move a file."""
        self._rename(path, to)
        if self.stamp(to) != stamp:  # it was overwritten just before
            _give_back(f"{self._root}/{to}", f"{self._root}/{path}")
            raise Changed

    def move_all(self, path: str, to: str) -> None:
        """Move a file or folder."""
        if os.path.lexists(f"{self._root}/{path}"):
            self._rename(path, to)

    def _rename(self, path: str, to: str) -> None:
        if not self._is_reached(path):
            raise NotADirectoryError(errno.ENOTDIR, "a link leads to it out of the workflow's folder", path)
        regular.make_folders(self._root, os.path.dirname(to))
        os.rename(f"{self._root}/{path}", f"{self._root}/{to}")

    def _is_reached(self, path: str) -> bool:
        """Tell whether there is the folder of a path, and no link leads out of the workflow's to it."""
        workflow, _, below = path.partition("/")
        return regular.are_folders(f"{self._root}/{workflow}", os.path.dirname(below))


class _OpenWhole(OpenFile):
    piece = 1 << 20

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        self.stamp = _stamp_of(os.fstat(handle))

    def read(self, position: int, count: int) -> bytes:
        return os.pread(self._handle, count, position)


def once(act: Callable[[], None]) -> Callable[[], bool]:
    """Return what does the same, and says that it took one try."""

    def done() -> bool:
        act()
        return False

    return done


def _stamp_of(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _changed(path: str) -> int:
    # Not only when it was written: what is copied in, before its blob is, keeps the times of the original.
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _give_back(target: str, path: str) -> None:
    """Put a file that was moved by mistake back into its place, unless another has taken it."""
    try:
        os.link(target, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not os.path.lexists(path):
            os.rename(target, path)
        return
    os.unlink(target)
