"""``.catalog/storage.json``: which storage a folder is.

The UUID keys every index, private ones too, so that a folder that was deleted
and begun again is not answered from the index of the old one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from catalog.errors import CatalogUnusable, NewerFormat
from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER
from catalog.store import regular
from catalog.store.sync import sync_folder, sync_path

#: The layout that this version writes. The first is the same to a reader; 2 tells versions that do not know blobs of
#: format 3, or what else may come to lie in a storage, to keep their hands off: they would quarantine it.
STORAGE_FORMAT = 2
#: Where it is, inside the storage.
IDENTITY_FILE = f"{CATALOG_FOLDER}/storage.json"

_LONGEST = 4096  # bytes that are read of it


@dataclass(frozen=True)
class Identity:
    """A storage's UUID and the version of its layout."""

    uuid: str
    format: int

    def content(self) -> bytes:
        """Return the content of the file of this storage in the layout that this version writes."""
        return json.dumps({"uuid": self.uuid, "format": STORAGE_FORMAT}).encode()


def read_identity(root: str) -> Identity | None:
    """Return the identity of the storage in folder `root`, or None if it has none yet.

    Returns
    -------
    Identity or None
        None for a folder in which nothing was saved yet, for one of the older format, and where the file is empty or
        torn, as a power cut may leave it.

    Raises
    ------
    NewerFormat
        If a newer version laid the storage out.
    """
    if not regular.are_folders(root, CATALOG_FOLDER):
        return None
    try:
        with open(f"{root}/{IDENTITY_FILE}", "rb", opener=regular.open_file) as file:
            return identity_in(file.read(_LONGEST), root)
    except FileNotFoundError:
        return None


def identity_in(content: bytes, root: str) -> Identity | None:
    """Return the identity that the file of a storage at `root` holds; as `read_identity` does."""
    try:
        fields = json.loads(content)
        identity = Identity(str(fields["uuid"]), int(fields["format"]))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    if identity.format > STORAGE_FORMAT:
        raise NewerFormat(
            f"{root} has storage format {identity.format}, this version knows up to {STORAGE_FORMAT}: "
            "install a newer functionfuse"
        )
    return identity


def new_identity() -> bytes:
    """Return the content of a new storage's file."""
    return Identity(new_id(), STORAGE_FORMAT).content()


def ensure_identity(root: str) -> Identity:
    """Return the identity of the storage in folder `root`, giving it one if it has none.

    Of several processes that do so at once, one wins and all return its identity.

    Returns
    -------
    Identity
        The one that is in the file when this returns.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    identity = read_identity(root)
    if identity is not None:
        return identity
    regular.make_folders(root, CATALOG_FOLDER)
    path = f"{root}/{IDENTITY_FILE}"
    with _written(path, new_identity()) as temporary:
        _publish_first(temporary, path, root)
    # Not before it appears: one commit of the file system's journal takes half as long as two, and what is torn until
    # then counts as absent.
    sync_path(path)
    sync_folder(f"{root}/{CATALOG_FOLDER}")
    sync_folder(root)
    identity = read_identity(root)
    if identity is None:
        raise CatalogUnusable(f"{path} vanished while it was written")
    return identity


def claim_identity(root: str) -> Identity:
    """Return the identity of a storage that is about to be written to, which has this version's layout from now on.

    Versions that know only an older layout refuse the storage afterwards; asking and reading do not change it.

    Returns
    -------
    Identity
        The one that is in the file when this returns.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    identity = ensure_identity(root)
    if identity.format == STORAGE_FORMAT:
        return identity
    path = f"{root}/{IDENTITY_FILE}"
    with _written(path, identity.content()) as temporary:
        sync_path(temporary)
        os.replace(temporary, path)  # of several processes that do so, all write the same
    sync_folder(f"{root}/{CATALOG_FOLDER}")
    return Identity(identity.uuid, STORAGE_FORMAT)


@contextmanager
def _written(path: str, content: bytes) -> Iterator[str]:
    """Have a temporary file beside a path."""
    temporary = f"{path}.{new_id()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _publish_first(temporary: str, path: str, root: str) -> None:
    # A link, unlike a rename, does not replace the identity that another process gave meanwhile.
    try:
        os.link(temporary, path)
        return
    except FileExistsError:
        if read_identity(root) is not None:
            return
    except OSError:  # a file system without hard links
        if os.path.lexists(path) and read_identity(root) is not None:
            return
    # What is torn, or no file, is replaced. Of two processes that do so at once the later one wins, and the index that
    # the other may have begun is built once more.
    os.replace(temporary, path)
