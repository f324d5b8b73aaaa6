"""The storage as the catalog sees it: segments of the journal, footers, and folders of results."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

from catalog.errors import DamagedFooter, NotABlob
from catalog.format import ids
from catalog.format.footer import footer_from, utc_text
from catalog.format.names import candidates, decode, from_text, to_text
from catalog.format.record import Record

if TYPE_CHECKING:
    from catalog.journal.compaction import Compacted, FoldedJournal
    from catalog.store.upkeep import Upkeep

#: What a compacted part of the journal ends in.
COMPACTED_SUFFIX = ".parquet"

_SHA1_SIZE = 20


@dataclass(frozen=True)
class Found:
    """A blob that was looked at.

    Attributes
    ----------
    event_id : str
        The id of the save that put it there: the blob's, unless it was moved or copied to another name by hand.
    record : Record
        What its footer says, under the names by which it goes; of the older format the little that there is.
    format : int
        Version of the blob's format; 0 is the older one.
    size : int
        Bytes that it takes, side files included.
    line : str
        The line that the journal has of it, or would have.
    is_named : bool
        Whether it says itself that this is its name.
    """

    event_id: str
    record: Record
    format: int
    size: int
    line: str
    is_named: bool = False


@dataclass(frozen=True)
class Segment:
    """A journal segment, as it was listed.

    Attributes
    ----------
    name, path : str
        Its file's name, and where it is.
    size : int
        Bytes.
    mtime_ns : int
        When it was last appended to, by the file system's clock.
    state : {"growing", "open", "closed"}
        Of a growing segment all events but the last came true; of an open one perhaps none, of a closed one all.
    """

    name: str
    path: str
    size: int
    mtime_ns: int
    state: Literal["growing", "open", "closed"] = "growing"


class Unreadable(Exception):
    """There is a file, and it does not say what it is."""


class Compactor(Protocol):
    """Compacts a journal."""

    def pays(self) -> bool:
        """Tell whether there is enough to do; looks at names and sizes only."""

    def some(self) -> None:
        """Compact a part: a question has to wait for it."""

    def all(self) -> Compacted:
        """Compact all that can be."""


class Folder(ABC):
    """A storage.

    Attributes
    ----------
    root : str
        Its absolute path, or its URL.
    is_remote : bool
        Whether it is reached over a network: nothing is looked at without need, and the index cannot lie in it. Whoever
        tells of an event there a second time, in a line or a compacted part, knows that it came true.
    looks_through : bool
        Whether the folders of a remote storage are looked through.
    """

    root: str
    is_remote = False
    looks_through = True

    def opened(self, looks_through: bool = False) -> Folder:
        """Return the storage as one question sees it, which wants the folders to be looked through, or not."""
        return self

    @abstractmethod
    def exists(self) -> bool:
        """Tell whether there is anything."""

    @abstractmethod
    def has_catalog(self) -> bool:
        """Tell whether there is a catalog: journal, index or identity."""

    @abstractmethod
    def is_writable(self) -> bool:
        """Tell whether journal and index may be written by this user, as far as that is known."""

    @abstractmethod
    def identity(self) -> str:
        """Return what tells this storage from any other."""

    def known_identity(self) -> str | None:
        """Return the identity, if this process knows it without looking."""
        return None

    @abstractmethod
    def real_root(self) -> str:
        """Return where it is, the same however that was written."""

    @abstractmethod
    def segments(self) -> list[Segment]:
        """Return every journal segment that is not compacted, oldest first."""

    @abstractmethod
    def compacted(self) -> list[str]:
        """Return the names of the journal's Parquet files, oldest first; listed after the segments."""

    @abstractmethod
    def read(self, wanted: Iterable[tuple[Segment, int]]) -> Iterator[tuple[Segment, bytes, int]]:
        """Yield what segments hold from their positions on, in whole lines.

        Parameters
        ----------
        wanted : iterable of (Segment, int)
            Segments, and bytes from their beginnings.

        Yields
        ------
        tuple of (Segment, bytes, int)
            The segment, whole lines without the last one's end, and the bytes from the beginning to behind them.

        Raises
        ------
        FileNotFoundError
            If one was compacted meanwhile.
        """

    @abstractmethod
    def open_compacted(self, name: str) -> IO[bytes]:
        """Open one of the journal's Parquet files; `FileNotFoundError` if it was merged into another meanwhile."""

    @abstractmethod
    def append(self, lines: Iterable[str]) -> None:
        """Write events that came true already, as a segment of their own."""

    @abstractmethod
    def compaction(self, index: FoldedJournal) -> Compactor:
        """Return what compacts the journal, by an index that is up to date."""

    def look(self, workflow: str, task: str) -> Found | None:
        """Return what is stored under a name, None if nothing is.

        Returns
        -------
        Found or None
            What its footer says, or the little that a file of the older format tells.

        Raises
        ------
        Unreadable
            If there is a file that is no blob, a damaged one, or one that a newer version wrote.
        """
        for folder in candidates(workflow):
            for file in candidates(task):
                found = self.look_at(folder, file)
                if found is not None:
                    return found
        return None

    @abstractmethod
    def look_at(self, folder: str, file: str) -> Found | None:
        """Return what a file holds, None if it is not there; raises as `look` does."""

    def each(self, look: Callable[[Any], Found | None], items: Sequence[Any]) -> list[Found | Unreadable | None]:
        """Return what `look` returns for each of the items, or that it cannot be read."""
        return [attempt(look, item) for item in items]

    @abstractmethod
    def upkeep(self) -> Upkeep:
        """Return what verifies and repairs the storage."""

    @abstractmethod
    def workflows(self) -> list[tuple[str, int]]:
        """Return every workflow's folder and when its entries last changed, ns since 1970."""

    @abstractmethod
    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a workflow's folder that can be results."""

    @abstractmethod
    def fetched(self, folder: str, names: Sequence[str]) -> AbstractContextManager[list[str]]:
        """Have files below a folder on this machine, for the time of a block.

        Parameters
        ----------
        folder : str
            Relative to the storage.
        names : sequence of str
            Relative to that folder, with no step upwards.

        Returns
        -------
        context manager of list of str
            Their paths, in the same order.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        Unreadable
            If it lies elsewhere, since it is a link.
        """

    def id_at(self, folder: str, file: str) -> str | None:
        """Return the id of the blob in a file; None if there is none that can be read."""
        try:
            found = self.look_at(folder, file)
        except Unreadable:
            return None
        return found.record.blob_id if found else None


def attempt(look: Callable[[Any], Found | None], item: Any) -> Found | Unreadable | None:
    """Return what `look` returns or raises."""
    try:
        return look(item)
    except Unreadable as error:
        return error


def is_compacted(name: str) -> bool:
    """Tell whether a file of the journal's folder is a compacted part of it."""
    return name.endswith(COMPACTED_SUFFIX) and name[0] != "."


class File(Protocol):
    """A file that is open for reading.

    Attributes
    ----------
    size : int
        Bytes.
    modified_ns : int
        When it was written, ns since 1970.
    """

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def modified_ns(self) -> int:
        """When it was written, ns since 1970."""

    def tail(self, count: int) -> bytes:
        """Return the last bytes, all if there are fewer."""

    def head(self) -> bytes:
        """Return the first byte, or none."""


class OpenFile:
    """A file of a disk.

    Parameters
    ----------
    handle : int
        Its descriptor.
    """

    def __init__(self, handle: int) -> None:
        status = os.fstat(handle)
        self._handle = handle
        self.size = status.st_size
        self.modified_ns = status.st_mtime_ns

    def tail(self, count: int) -> bytes:
        """Return the last bytes."""
        return os.pread(self._handle, count, max(0, self.size - count))

    def head(self) -> bytes:
        """Return the first byte."""
        return os.pread(self._handle, 1, 0)


def found_in(opened: File, folder: str, file: str) -> Found:
    """Return what an open file holds, by its end alone.

    Parameters
    ----------
    opened : File
        The file.
    folder, file : str
        Where it lies.

    Returns
    -------
    Found
        What its footer says, or the little that a file of the older format tells.

    Raises
    ------
    Unreadable
        If it is no blob, or its footer is damaged.
    NewerFormat
        If a newer version wrote it.
    """
    size = opened.size
    try:
        footer = footer_from(opened.tail, size)
        record = footer.record
    except NotABlob:
        return _found_older(opened, folder, file)
    except DamagedFooter as error:
        raise Unreadable from error
    whole = size + record.side_size
    own = {"event": "save", "format": footer.format, "size": whole, "logical_size": whole + record.saved_by_packing}
    members = {**record, **own}
    for name in ("event_id", "time"):  # an event's own, no record's
        members.pop(name, None)
    workflow, task = decode(folder), decode(file)
    if workflow in (None, from_text(record.workflow)) and task in (None, from_text(record.task)):
        return Found(record.blob_id, record, footer.format, whole, json.dumps(members), is_named=True)
    # It stands under another name than it was saved under: where it is, counts.
    workflow, task = _name(folder, record.workflow), _name(file, record.task)
    milliseconds = int(record.blob_id.replace("-", "")[:12], 16)
    event_id = ids.id_at(milliseconds, _digest(folder, file, record.blob_id.encode()))
    line = json.dumps({**members, "event_id": event_id, "workflow": workflow, "task": task})
    return Found(event_id, replace(record, workflow=workflow, task=task), footer.format, whole, line)


def _name(file_name: str, otherwise: str) -> str:
    name = decode(file_name)
    return otherwise if name is None else to_text(name)


def _digest(folder: str, file: str, content: bytes) -> bytes:
    place = f"{folder}/{file}/".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(place + content, digest_size=16).digest()


def _found_older(opened: File, folder: str, file: str) -> Found:
    """Return what is known of a file of the older format: a pickle and its SHA-1, which is not computed here."""
    tail = opened.tail(_SHA1_SIZE + 1)
    if len(tail) <= _SHA1_SIZE or tail[:1] != b"." or opened.head() != b"\x80":
        raise Unreadable
    checksum = tail[1:]
    modified = max(0, opened.modified_ns)  # an id tells of no time before 1970
    blob_id = ids.id_at(modified // 1_000_000, _digest(folder, file, checksum))
    line: dict[str, Any] = {
        "event": "save",
        "format": 0,
        "size": opened.size,
        "blob_id": blob_id,
        "workflow": _name(folder, to_text(folder)),
        "task": _name(file, to_text(file)),
        "saved_at": utc_text(modified / 1e9),
        "checksum": f"sha1:{checksum.hex()}",
        "serializers": ["pickle"],
    }
    record = Record(line, blob_id, line["workflow"], line["task"], ("pickle",), line["checksum"])
    return Found(blob_id, record, 0, opened.size, json.dumps(line))
