"""The storage as the catalog sees it: segments, footers and folders on a disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from catalog import ids
from catalog.errors import DamagedFooter, NewerFormat, NotABlob
from catalog.journal import JOURNAL_FOLDER, RETIRED_FOLDER, SEGMENT_SUFFIX
from catalog.names import CATALOG_FOLDER, candidates, decode, from_text, to_text
from catalog.record import footer_from, logical_size_of, size_of, utc_text

#: What a compacted part of the journal ends in.
COMPACTED_SUFFIX = ".parquet"

_READ = os.O_RDONLY | os.O_CLOEXEC
_SHA1_SIZE = 20


@dataclass(frozen=True)
class Found:
    """A blob that was looked at.

    Attributes
    ----------
    event_id : str
        The id of the save that put it there: the blob's, unless it was moved or copied to another name by hand.
    line : str
        The line that the journal has of it, or would have.
    """

    event_id: str
    line: str


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
    """

    name: str
    path: str
    size: int
    mtime_ns: int


class Unreadable(Exception):
    """There is a file, and it does not say what it is."""


class Folder:
    """A storage's folder.

    Parameters
    ----------
    root : str
        Absolute path.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def is_writable(self) -> bool:
        """Tell whether journal and index may be written by this user."""
        folder = f"{self.root}/{CATALOG_FOLDER}"
        return os.access(folder if os.path.isdir(folder) else self.root, os.W_OK | os.X_OK)

    def segments(self) -> list[Segment]:
        """Return every journal segment that is not compacted, oldest first.

        The journal's folder is listed first: a segment that compaction moves meanwhile is seen where it goes to.
        """
        found = {}
        for folder in (JOURNAL_FOLDER, RETIRED_FOLDER):
            for entry in self._entries(folder):
                if entry.name.endswith(SEGMENT_SUFFIX) and entry.name[0] != ".":
                    with suppress(FileNotFoundError):  # compacted meanwhile
                        status = entry.stat()
                        found[entry.name] = Segment(entry.name, entry.path, status.st_size, status.st_mtime_ns)
        return [found[name] for name in sorted(found)]

    def compacted(self) -> list[str]:
        """Return the names of the journal's Parquet files, oldest first.

        Listed until nothing changes meanwhile: where several are being merged, one listing may miss old and new.
        """
        names: list[str] | None = None
        while True:
            before = names
            names = sorted(e.name for e in self._entries(JOURNAL_FOLDER) if is_compacted(e.name))
            if names == before or not names:
                return names

    def lines(self, segment: Segment, position: int, most: int) -> Iterator[tuple[bytes, int]]:
        """Yield what a segment holds from `position` on, in whole lines, with the position behind them.

        Parameters
        ----------
        segment : Segment
            One of `segments`.
        position : int
            Bytes from its beginning.
        most : int
            About how many bytes to yield at once.

        Yields
        ------
        tuple of (bytes, int)
            Whole lines without the last one's end, and the bytes from the beginning to behind them.

        Raises
        ------
        FileNotFoundError
            If it was compacted meanwhile.
        """
        with open(segment.path, "rb") as file:
            left = os.fstat(file.fileno()).st_size - position  # not what is written meanwhile: it would never end
            file.seek(position)
            rest = b""
            while left > 0 and (data := file.read(min(most, left))):
                left -= len(data)
                whole, newline, rest = (rest + data).rpartition(b"\n")
                if newline:
                    position += len(whole) + 1
                    yield whole, position

    def open_compacted(self, name: str) -> IO[bytes]:
        """Open one of the journal's Parquet files; `FileNotFoundError` if it was merged into another meanwhile."""
        return open(f"{self.root}/{JOURNAL_FOLDER}/{name}", "rb")

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(f"{self.root}/{folder}") as entries:
                yield from entries
        except FileNotFoundError:
            return

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

    def look_at(self, folder: str, file: str) -> Found | None:
        """Return what a file holds, None if it is not there; raises as `look` does."""
        try:
            handle = os.open(f"{self.root}/{folder}/{file}", _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unreadable from error
        try:
            return found_in(handle, folder, file)
        except (OSError, ValueError, NewerFormat) as error:
            raise Unreadable from error
        finally:
            os.close(handle)

    def workflows(self) -> list[tuple[str, int]]:
        """Return every workflow's folder and when its entries last changed, ns since 1970."""
        try:
            with os.scandir(self.root) as entries:
                return [(e.name, e.stat().st_mtime_ns) for e in entries if e.name[0] != "." and e.is_dir()]
        except FileNotFoundError:
            return []

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a workflow's folder that can be results."""
        try:
            with os.scandir(f"{self.root}/{folder}") as entries:
                return [entry.name for entry in entries if entry.name[0] != "." and entry.is_file()]
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # such as lost+found
            return []


def is_compacted(name: str) -> bool:
    """Tell whether a file of the journal's folder is a compacted part of it."""
    return name.endswith(COMPACTED_SUFFIX) and name[0] != "."


def id_at(root: str, folder: str, file: str) -> str | None:
    """Return the id of the blob in a file of a storage; None if there is none that can be read."""
    try:
        found = Folder(root).look_at(folder, file)
    except Unreadable:
        return None
    return str(json.loads(found.line)["blob_id"]) if found else None


def found_in(handle: int, folder: str, file: str) -> Found:
    """Return what an open file holds, by its end alone.

    Parameters
    ----------
    handle : int
        Its descriptor.
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
    status = os.fstat(handle)
    size = status.st_size

    def tail(count: int) -> bytes:
        return os.pread(handle, count, max(0, size - count))

    try:
        footer = footer_from(tail, size)
    except NotABlob:
        return _found_older(handle, folder, file, status)
    except DamagedFooter as error:
        raise Unreadable from error
    record = footer.record
    whole = size_of(size, record)
    sizes = {"size": whole, "logical_size": logical_size_of(whole, record)}
    line = {"event": "save", "format": footer.format, **sizes, **record}
    workflow, task = decode(folder), decode(file)
    if workflow not in (None, from_text(record["workflow"])) or task not in (None, from_text(record["task"])):
        return _moved(line, folder, file)
    return Found(record["blob_id"], json.dumps(line))


def _moved(line: dict[str, Any], folder: str, file: str) -> Found:
    """Return what is known of a blob that stands under another name than it was saved under: where it is, counts."""
    blob_id = line["blob_id"]
    milliseconds = int(blob_id.replace("-", "")[:12], 16)
    event_id = ids.id_at(milliseconds, _digest(folder, file, blob_id.encode()))
    line |= {"event_id": event_id, "workflow": _name(folder, line["workflow"]), "task": _name(file, line["task"])}
    return Found(event_id, json.dumps(line))


def _name(file_name: str, otherwise: str) -> str:
    name = decode(file_name)
    return otherwise if name is None else to_text(name)


def _digest(folder: str, file: str, content: bytes) -> bytes:
    place = f"{folder}/{file}/".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(place + content, digest_size=16).digest()


def _found_older(handle: int, folder: str, file: str, status: os.stat_result) -> Found:
    """Return what is known of a file of the older format: a pickle and its SHA-1, which is not computed here."""
    head = os.pread(handle, 1, 0)
    tail = os.pread(handle, _SHA1_SIZE + 1, max(0, status.st_size - _SHA1_SIZE - 1))
    if head != b"\x80" or len(tail) <= _SHA1_SIZE or tail[:1] != b".":
        raise Unreadable
    checksum = tail[1:]
    modified = max(0, status.st_mtime_ns)  # an id tells of no time before 1970
    blob_id = ids.id_at(modified // 1_000_000, _digest(folder, file, checksum))
    line = {
        "event": "save",
        "format": 0,
        "size": status.st_size,
        "blob_id": blob_id,
        "workflow": _name(folder, folder),
        "task": _name(file, file),
        "saved_at": utc_text(modified / 1e9),
        "checksum": f"sha1:{checksum.hex()}",
        "serializers": ["pickle"],
    }
    return Found(blob_id, json.dumps(line))
