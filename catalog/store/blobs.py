"""Blobs as the catalog sees them: what their ends say, found by their names or by their files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from catalog.errors import CatalogUnusable, DamagedFooter, NewerFormat, NotABlob
from catalog.format import ids
from catalog.format.author import utc_text
from catalog.format.events import found_line, older_line
from catalog.format.footer import footer_from
from catalog.format.names import candidates, decode, from_text, to_text
from catalog.format.record import Record
from catalog.store.base import Changed, OpenFile, Store, Unreadable

T = TypeVar("T")

_SHA1_SIZE = 20


@dataclass(frozen=True)
class StoredBlob:
    """A blob, by its footer.

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
    """

    event_id: str
    record: Record
    format: int
    size: int
    line: str


#: What is at a name: a blob, a file that does not say what it is, or nothing.
Lookup = StoredBlob | Unreadable | None


def find_blob(store: Store, workflow: str, task: str) -> StoredBlob | None:
    """Return what is stored under a name, None if nothing is.

    Returns
    -------
    StoredBlob or None
        What its footer says, or the little that a file of the older format tells.

    Raises
    ------
    Unreadable
        If there is a file that is no blob, a damaged one, or one that a newer version wrote.
    """
    for folder in candidates(workflow):
        for file in candidates(task):
            found = blob_at(store, folder, file)
            if found is not None:
                return found
    return None


def blob_at(store: Store, folder: str, file: str) -> StoredBlob | None:
    """Return what a file holds, None if it is not there; raises as `find_blob` does."""
    while True:
        try:
            with store.open(f"{folder}/{file}") as opened:
                return _blob_unless_changed(opened, folder, file)
        except Changed:
            continue
        except (FileNotFoundError, NotADirectoryError):
            return None
        except CatalogUnusable:
            raise
        except (OSError, ValueError, NewerFormat) as error:
            raise Unreadable(str(error)) from error


def _blob_unless_changed(opened: OpenFile, folder: str, file: str) -> StoredBlob:
    try:
        return blob_in(opened, folder, file)
    except FileNotFoundError as error:  # of an object that was overwritten since its end was read
        raise Changed from error


def blob_id_at(store: Store, folder: str, file: str) -> str | None:
    """Return the id of the blob in a file; None if there is none that can be read."""
    try:
        found = blob_at(store, folder, file)
    except Unreadable:
        return None
    return found.record.blob_id if found else None


def look_up(store: Store, find: Callable[..., StoredBlob | None], names: Sequence[tuple[str, str]]) -> list[Lookup]:
    """Return what there is under each of some names, in their order.

    Parameters
    ----------
    store : Store
        Where.
    find : callable
        `find_blob`, or `blob_at`.
    names : sequence of (str, str)
        What it is given beside the store.

    Returns
    -------
    list of StoredBlob, Unreadable or None
        As many.
    """

    def found(name: tuple[str, str]) -> Lookup:
        try:
            return find(store, *name)
        except Unreadable as error:
            return error

    return list(store.map(found, names) if len(names) > 1 else map(found, names))


def blob_in(opened: OpenFile, folder: str, file: str) -> StoredBlob:
    """Return what an open file holds, by its end alone.

    Parameters
    ----------
    opened : OpenFile
        The file.
    folder, file : str
        Where it lies.

    Returns
    -------
    StoredBlob
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
        return _older_blob_in(opened, folder, file)
    except DamagedFooter as error:
        raise Unreadable(str(error)) from error
    whole = size + record.side_size
    workflow, task = decode(folder), decode(file)
    if workflow in (None, from_text(record.workflow)) and task in (None, from_text(record.task)):
        return StoredBlob(record.blob_id, record, footer.format, whole, found_line(footer, whole))
    # It stands under another name than it was saved under: where it is, counts.
    workflow, task = _name(folder, record.workflow), _name(file, record.task)
    milliseconds = int(record.blob_id.replace("-", "")[:12], 16)
    event_id = ids.id_at(milliseconds, _digest(folder, file, record.blob_id.encode()))
    line = found_line(footer, whole, {"event_id": event_id, "workflow": workflow, "task": task})
    return StoredBlob(event_id, replace(record, workflow=workflow, task=task), footer.format, whole, line)


def _name(file_name: str, otherwise: str) -> str:
    name = decode(file_name)
    return otherwise if name is None else to_text(name)


def _digest(folder: str, file: str, content: bytes) -> bytes:
    place = f"{folder}/{file}/".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(place + content, digest_size=16).digest()


def _older_blob_in(opened: OpenFile, folder: str, file: str) -> StoredBlob:
    """Return what is known of a file of the older format: a pickle and its SHA-1, which is not computed here."""
    tail = opened.tail(_SHA1_SIZE + 1)
    if len(tail) <= _SHA1_SIZE or tail[:1] != b"." or opened.read(0, 1) != b"\x80":
        raise Unreadable("it is neither a blob nor a file of the older format")
    checksum = tail[1:]
    modified = max(0, opened.modified_ns)  # an id tells of no time before 1970
    blob_id = ids.id_at(modified // 1_000_000, _digest(folder, file, checksum))
    record = Record(
        blob_id=blob_id,
        workflow=_name(folder, to_text(folder)),
        task=_name(file, to_text(file)),
        saved_at=utc_text(modified / 1e9),
        checksum=f"sha1:{checksum.hex()}",
        serializers=("pickle",),
    )
    return StoredBlob(blob_id, record, 0, opened.size, older_line(record, opened.size))
