"""What a storage needs of the place where its bytes go.

A place knows file names and bytes; it knows nothing of pickles, footers or
records. A workflow is a folder, a result a file in it, and what one save's
serializers wrote is a folder of its own below ``bigdata``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from catalog.format.record import Record, SideFile

T = TypeVar("T")


class Source(Protocol):
    """A file that is open for reading."""

    @property
    def size(self) -> int:
        """Bytes."""

    def tail(self, size: int) -> bytes:
        """Return the last `size` bytes, all of them if there are fewer."""

    def __enter__(self) -> Source:
        """Return the file itself."""

    def __exit__(self, *_: object) -> None:
        """Close it."""


class Temporary(Protocol):
    """A file of which nothing is seen before it is published."""

    def open(self) -> None:
        """Begin it."""

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all of some pieces, a thousand at most, which may be changed as soon as this returns."""

    def sync(self) -> None:
        """Return when all that was written is on the medium."""

    def close(self) -> None:
        """End it; errors that were kept back are raised here."""

    def discard(self) -> bool:
        """Delete it; False if it was published, or is just being, and is not to be deleted."""


class Side(Protocol):
    """The side files of one save."""

    @property
    def protocols(self) -> Mapping[str, Any]:
        """What serializers are given to reach them."""

    def expect(self, record: Record | None, verify: bool) -> None:
        """Hold what is read from now on against the digests in a record, if that is wanted."""

    def files(self) -> list[SideFile]:
        """Return name, size and digest of every one, sorted by name."""

    def write(self, filename: str, data: bytes) -> None:
        """Write one."""

    def remove(self, filename: str) -> None:
        """Delete one, or a folder of them; what is gone already is no error."""

    def sync(self) -> None:
        """Return when all of them are on the medium."""

    def discard(self) -> None:
        """Delete all of them."""


@dataclass(frozen=True)
class Change:
    """A file that appears or goes, and what the journal tells of it.

    Attributes
    ----------
    at : tuple of (str, str)
        Folder and file.
    line : str
        The journal's line, which is written first.
    act : callable
        Lets it appear or go; returns whether another try of it may have undone what somebody else did meanwhile.
    undo : callable
        What is done if that fails where nobody waits for it; who waits is told.
    after : callable
        What is done when it is true.
    size : int
        Bytes that are held until then.
    frees : bool
        Whether it makes room: on a full disk it is done first, and then told.
    """

    at: tuple[str, str]
    line: str
    act: Callable[[], bool]
    undo: Callable[[], None]
    after: Callable[[], None]
    size: int = 0
    frees: bool = False


class Place(ABC):
    """Where the bytes of a storage go.

    Attributes
    ----------
    root : str
        A path or URL, as it is shown.
    storage_options : mapping or None
        What else the catalog needs to reach it.
    """

    root: str
    storage_options: Mapping[str, Any] | None = None

    @abstractmethod
    def make_room(self, folder: str) -> None:
        """Make the folder of a workflow, and the storage itself if it is new."""

    @abstractmethod
    def require_writable(self, folder: str) -> None:
        """Raise `StorageUnusable` if it is known that nothing can be saved in the folder of a workflow."""

    @abstractmethod
    def create(self, folder: str, file: str) -> Temporary:
        """Return a new temporary, to be opened, written and then published as that file."""

    @abstractmethod
    def publish(self, temporary: Any, folder: str, file: str) -> bool:
        """Put a temporary into its place, over the file that is there; returns what `Change.act` does."""

    @abstractmethod
    def commit(self, change: Change) -> None:
        """Tell the journal of a change, and do it; return when both are true."""

    @abstractmethod
    def hand_over(self, change: Change, failed: Callable[[BaseException], BaseException]) -> None:
        """Commit a change while the caller goes on, where that is worth while; `failed` names an error's task."""

    def together(self) -> AbstractContextManager[None]:
        """Return a context in which the journal may tell of all that is handed over at once, at its end."""
        return nullcontext()

    @abstractmethod
    def check(self) -> None:
        """Raise what went wrong with what was handed over."""

    @abstractmethod
    def wait(self) -> None:
        """Return when nothing that was handed over is under way any more."""

    @abstractmethod
    def tell(self, line: str, *, waits: bool = True) -> None:
        """Tell the journal of an event that is no change; return when that is durable.

        An event that nobody waits for may be lost, where that shows only later, with a line in the log.
        """

    def each(self, action: Callable[[T], None], items: Iterable[T]) -> None:
        """Do the same to many files."""
        for item in items:
            action(item)

    @abstractmethod
    def sync(self, folder: str) -> None:
        """Return when the names of what was published in `folder` are on the medium."""

    @abstractmethod
    def path(self, folder: str, file: str) -> str:
        """Return the path or URL of a result's file."""

    @abstractmethod
    def has_folder(self, folder: str) -> bool:
        """Tell whether there is such a workflow."""

    @abstractmethod
    def exists(self, folder: str, file: str) -> bool:
        """Tell whether there is such a file."""

    @abstractmethod
    def open(self, folder: str, file: str) -> Source:
        """Open a file for reading; `FileNotFoundError` if there is none."""

    @abstractmethod
    def load(self, folder: str, file: str, is_mapped: bool = True) -> memoryview:
        """Return all bytes of a file; `FileNotFoundError` if there is none."""

    def ahead(self, files: Iterable[tuple[str, str]]) -> AbstractContextManager[None]:
        """Return a context in which files that will be loaded, in about that order, may be fetched before."""
        return nullcontext()

    @abstractmethod
    def files(self, folder: str) -> list[str]:
        """Return the names of all files of a workflow, in no order; hidden ones are left out."""

    @abstractmethod
    def remove(self, folder: str, file: str) -> bool:
        """Delete a file; `FileNotFoundError` if there is none and the place can tell; returns as `Change.act` does."""

    @abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Delete a workflow's folder if nothing is left in it: another process may be saving there."""

    @abstractmethod
    def side_folder(self, folder: str, name: str = "") -> Side:
        """Return the folder for the side files of the save called `name`; of the older format without a name."""
