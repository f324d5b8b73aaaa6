"""The one interface to bytes: files below a root, on a disk or in a bucket.

A key is a path relative to the root, with slashes: ``weather/mean``, ``.catalog/journal/<name>``. Whoever has a `Store`
need not know which kind it is; the few things that a place cannot do, it says by a flag.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class Changed(Exception):
    """A file is no longer the one that was asked for: it was written anew."""


class Unreadable(Exception):
    """There is a file, and this user cannot read it, or not to its end."""


@dataclass(frozen=True)
class Entry:
    """A file, as it was listed or looked up.

    Attributes
    ----------
    key : str
        Its path below the root.
    size : int
        Bytes.
    modified : float
        When it was written, by the clock of the place; seconds since 1970, 0 where nothing tells.
    tag : str
        What changes when it is written anew; empty where nothing tells.
    """

    key: str
    size: int
    modified: float
    tag: str


@dataclass(frozen=True)
class Listing:
    """The files whose keys begin in the same way.

    Attributes
    ----------
    entries : list of Entry
        In the order of their keys.
    folders : list of str
        What lies deeper, by the keys up to the next slash; empty where all was listed.
    now : float
        The time by the clock of the place, seconds since 1970; 0 where it does not tell.
    """

    entries: list[Entry]
    folders: list[str]
    now: float


@dataclass(frozen=True)
class Tail:
    """The end of a file.

    Attributes
    ----------
    data : bytes
        Its last bytes; all of them if there are no more.
    size : int
        Bytes of the whole.
    modified : float
        When it was written; seconds since 1970.
    tag : str
        As of `Entry`.
    """

    data: bytes
    size: int
    modified: float
    tag: str


class OpenFile(Protocol):
    """A file that is open for reading, and closed behind a ``with`` block.

    Attributes
    ----------
    size : int
        Bytes.
    modified_ns : int
        When it was written, by the clock of the place; nanoseconds since 1970.
    tag : str
        What tells it from another file of that key.
    piece : int
        Bytes that are best read at once.
    """

    piece: int

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def modified_ns(self) -> int:
        """When it was written, ns since 1970."""

    @property
    def tag(self) -> str:
        """What tells it from another."""

    def tail(self, count: int) -> bytes:
        """Return the last bytes, all if there are fewer; `FileNotFoundError` if it was replaced meanwhile."""

    def read(self, position: int, count: int) -> bytes:
        """Return bytes from a position on: at least one and at most `count`; none at the end."""

    def __enter__(self) -> OpenFile:
        """Return the file itself."""

    def __exit__(self, *_: object) -> None:
        """Close it."""


class Writer(Protocol):
    """A file of which nothing is seen before it is published."""

    def open(self) -> None:
        """Begin it."""

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all of some pieces, a thousand at most, which may be changed as soon as this returns."""

    def sync(self) -> None:
        """Return when all that was written is on the medium."""

    def close(self) -> None:
        """End it; errors that were kept back are raised here."""

    def publish(self) -> bool:
        """Let it appear under its key, in place of the file that is there.

        Returns
        -------
        bool
            Whether that took more than one try, so that it may have replaced what somebody else wrote meanwhile.
        """

    def discard(self) -> bool:
        """Delete it; False if it was published, or is just being, and is not to be deleted."""


class Store(ABC):
    """Files below a root.

    Attributes
    ----------
    root : str
        An absolute path, or a URL; without a slash at the end.
    options : mapping or None
        Keyword arguments of the file system behind a URL; None for a path.
    is_local : bool
        Whether it is a folder of this machine's file system: a look costs microseconds, and the index can lie in it.
    tells_changes : bool
        Whether `span` raises `Changed`; if not, whoever reads several spans compares the tag again.
    """

    root: str
    options: Mapping[str, Any] | None = None
    is_local = False
    tells_changes = True

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, the same however that was written; places that have the same root differ here."""

    # Reading

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return a file; `FileNotFoundError` if there is none."""

    @abstractmethod
    def tail(self, key: str, most: int) -> Tail:
        """Return the last bytes of a file, at most so many; `FileNotFoundError` if there is none."""

    @abstractmethod
    def span(self, key: str, begin: int, end: int, tag: str) -> bytes:
        """Return bytes of a file; `Changed` if it is not the one with that tag, where the place `tells_changes`."""

    @abstractmethod
    def open(self, key: str, is_read_whole: bool = False) -> OpenFile:
        """Open a file for reading.

        Parameters
        ----------
        key : str
            Which.
        is_read_whole : bool
            Whether all of it is going to be read, and not just its end.

        Returns
        -------
        OpenFile
            To be closed, or used as a context manager.

        Raises
        ------
        FileNotFoundError
            If there is none.
        OSError
            If it cannot be read.
        """

    @abstractmethod
    def load(self, key: str, is_mapped: bool = True) -> memoryview:
        """Return all bytes of a file, mapped if that is wanted and possible; `FileNotFoundError` if there is none."""

    @abstractmethod
    def stat(self, key: str) -> Entry | None:
        """Return what is known of a file without reading it, None if there is none."""

    @abstractmethod
    def ls(self, prefix: str, deep: bool = True) -> Listing:
        """List all files whose keys begin with `prefix`, or only those without a further slash."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder.

        Returns
        -------
        list of str
            In no order; hidden ones are left out.

        Raises
        ------
        PermissionError
            If it may not be read.
        """

    @abstractmethod
    def folders(self) -> list[tuple[str, int]]:
        """Return the folders of workflows, and when their entries last changed; ns since 1970, 0 if unknown."""

    @abstractmethod
    def has_folder(self, folder: str) -> bool:
        """Tell whether there is the folder of a workflow, or of the catalog; of no name, whether there is any."""

    @abstractmethod
    def local_files(self, keys: Sequence[str]) -> AbstractContextManager[list[str]]:
        """Have files on this machine, for the time of a block.

        Returns
        -------
        context manager of list of str
            Their paths, in the order of the keys.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        Unreadable
            If a link stands in its place, or on the way.
        """

    def prefetch(self, keys: Iterable[str]) -> AbstractContextManager[None]:
        """Return a context in which files that will be loaded, in about that order, may be fetched before."""
        return nullcontext()

    def map(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Yield what a function that asks the store returns for each item, in their order; several at once if it pays.

        What is left when the iterator is closed, or a call raises, is not begun.
        """
        return map(function, items)

    # Writing

    @abstractmethod
    def prepare(self, folder: str) -> None:
        """Make the folder of a workflow, and the storage itself, with its identity, if it is new.

        Raises
        ------
        CatalogUnusable
            If that cannot be done: something else stands there, or nothing may be written.
        NewerFormat
            If a newer version laid the storage out.
        """

    @abstractmethod
    def is_writable(self) -> bool:
        """Tell whether journal and index may be written by this user, as far as that is known."""

    def require_writable(self, folder: str) -> None:  # noqa: B027 - what only a try can tell is no error
        """Raise `CatalogUnusable` if it is known that nothing can be written into a folder."""

    def note_refusal(self) -> None:  # noqa: B027 - what this user may write on a disk, the disk tells
        """Take note that a write of the catalog was refused: `is_writable` is False from now on."""

    @abstractmethod
    def writer(self, key: str) -> Writer:
        """Return a new file, to be opened, written and then published."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> bool:
        """Write a file, which appears as a whole, over the one that is there; return as `Writer.publish` does."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write a durable file if there is none, as far as the place can tell; `FileExistsError` if there is one."""

    @abstractmethod
    def delete(self, key: str, tag: str = "") -> bool:
        """Delete a file.

        Parameters
        ----------
        key : str
            Which.
        tag : str
            With a tag, only the file that has it.

        Returns
        -------
        bool
            As of `Writer.publish`.

        Raises
        ------
        FileNotFoundError
            If there is none, and the place can tell.
        Changed
            If it is another one: as far as the place can tell, not even if that came just before.
        """

    @abstractmethod
    def copy(self, key: str, to: str, tag: str) -> None:
        """Copy a file within the place; `Changed` if it is not the one with that tag."""

    @abstractmethod
    def move(self, key: str, to: str, tag: str) -> None:
        """Give a file another key; `Changed` if it is not the one with that tag, of which then nothing is lost."""

    @abstractmethod
    def move_all(self, key: str, to: str) -> None:
        """Move a file, or a folder with all that is below it; nothing if it is gone."""

    def require_movable(self, key: str) -> None:  # noqa: B027 - as above
        """Raise the `OSError` that a move would raise, as far as that is known before."""

    @abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Delete the folder of a workflow if nothing is left in it: another process may be saving there."""

    @abstractmethod
    def sync(self, folder: str) -> None:
        """Return when the names of what was published in `folder` are on the medium."""

    @abstractmethod
    def unchanged_for(self, key: str) -> float:
        """Return for how many seconds nothing changed in a file, or in a folder and below; 0 where nothing tells."""

    @abstractmethod
    def now(self) -> float:
        """Return the time by the clock of the place, by which files are dated; seconds since 1970."""
