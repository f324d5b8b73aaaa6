"""Files that are read to their ends, and whose reader wants to know what cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from catalog.errors import CatalogUnusable, Refused
from catalog.store.base import Changed, OpenFile, Store, Unreadable


@contextmanager
def opened(store: Store, key: str) -> Iterator[OpenFile]:
    """Open a file to read all of it.

    Parameters
    ----------
    store : Store
        Where.
    key : str
        Which.

    Yields
    ------
    OpenFile
        It is closed behind the block.

    Raises
    ------
    FileNotFoundError
        If there is none.
    Unreadable
        If it may not be read, or changes meanwhile; also within the block.
    """
    try:
        file = store.open(key, is_read_whole=True)
    except NotADirectoryError as error:
        raise FileNotFoundError(key) from error
    except OSError as error:
        _raise_unreadable(error)
        raise
    with file:
        try:
            yield file
        except Changed as error:
            raise Unreadable("it changed while it was read") from error
        except OSError as error:
            _raise_unreadable(error)
            raise


def _raise_unreadable(error: OSError) -> None:
    """Raise `Unreadable` if an error means that of one file: not that it is gone, or the place cannot be reached."""
    is_of_place = isinstance(error, CatalogUnusable) and not isinstance(error, Refused)
    if not is_of_place and not isinstance(error, FileNotFoundError):
        raise Unreadable(f"it cannot be read: {error.strerror or error}") from error


def readable_names(store: Store, folder: str) -> list[str]:
    """Return the names of the files in a folder; none of one on a disk that this user may not read: lost+found."""
    try:
        return store.names(folder)
    except Refused:
        raise
    except PermissionError:
        return []


def pieces(file: OpenFile) -> Iterator[bytes]:
    """Yield the bytes of an open file."""
    position = 0
    while data := file.read(position, file.piece) if position < file.size else b"":
        yield data
        position += len(data)


def content_of(store: Store, key: str) -> bytes:
    """Return all bytes of a file; raises as `opened` does."""
    with opened(store, key) as file:
        return b"".join(pieces(file))
