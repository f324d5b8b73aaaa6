"""``.catalog/storage.json``: which storage a place is.

The UUID keys every index, private ones too, so that a folder that was deleted and begun again is not answered from the
index of the old one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import CatalogUnusable, NewerFormat
from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER

if TYPE_CHECKING:
    from catalog.store.base import Store

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


def read_identity(store: Store) -> Identity | None:
    """Return the identity of a storage, or None if it has none yet.

    Returns
    -------
    Identity or None
        None for a place in which nothing was saved yet, for a storage of the older format, and where the file is empty
        or torn, as a power cut may leave it.

    Raises
    ------
    NewerFormat
        If a newer version laid the storage out.
    """
    try:
        with store.open(IDENTITY_FILE) as file:
            return _decoded(file.read(0, _LONGEST), store.root)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _decoded(content: bytes, root: str) -> Identity | None:
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


def ensure_identity(store: Store) -> Identity:
    """Return the identity of a storage, giving it one if it has none.

    Of several processes that do so at once, one wins and all return its identity.

    Returns
    -------
    Identity
        The one that is in the file when this returns.

    Raises
    ------
    OSError
        If the place cannot be written.
    """
    identity = read_identity(store)
    if identity is not None:
        return identity
    content = Identity(new_id(), STORAGE_FORMAT).content()
    try:
        store.create(IDENTITY_FILE, content)
    except FileExistsError:
        if read_identity(store) is None:
            # What is torn, or no file, is replaced. Of two processes that do so at once the later one wins, and the
            # index that the other may have begun is built once more.
            store.put(IDENTITY_FILE, content)
    identity = read_identity(store)
    if identity is None:
        raise CatalogUnusable(f"{store.root}/{IDENTITY_FILE} vanished while it was written")
    return identity


def claim_identity(store: Store) -> Identity:
    """Return the identity of a storage that is about to be written to, which has this version's layout from now on.

    Versions that know only an older layout refuse the storage afterwards; asking and reading do not change it.

    Returns
    -------
    Identity
        The one that is in the file when this returns.

    Raises
    ------
    OSError
        If the place cannot be written.
    """
    identity = ensure_identity(store)
    if identity.format == STORAGE_FORMAT:
        return identity
    store.put(IDENTITY_FILE, identity.content())  # of several processes that do so, all write the same
    return Identity(identity.uuid, STORAGE_FORMAT)
