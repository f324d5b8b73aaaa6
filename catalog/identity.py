"""``.catalog/storage.json``: which storage a folder is.

The UUID keys every index, private ones too, so that a folder that was deleted
and begun again is not answered from the index of the old one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass

from catalog.errors import CatalogUnusable, NewerFormat
from catalog.ids import new_id
from catalog.names import CATALOG_FOLDER

#: The layout that this version writes. The first is the same to a reader; 2 tells versions that do not know blobs of
#: format 3, or what else may come to lie in a storage, to keep their hands off: they would quarantine it.
STORAGE_FORMAT = 2
#: Where it is, inside the storage.
IDENTITY_FILE = f"{CATALOG_FOLDER}/storage.json"


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
        None for a folder in which nothing was saved yet, and for one of the older format.

    Raises
    ------
    NewerFormat
        If a newer version laid the storage out.
    CatalogUnusable
        If the file is damaged.
    """
    try:
        with open(os.path.join(root, IDENTITY_FILE), "rb") as file:
            return identity_in(file.read(), root)
    except FileNotFoundError:
        return None


def identity_in(content: bytes, root: str) -> Identity:
    """Return the identity that the file of a storage at `root` holds; raises as `read_identity` does."""
    try:
        fields = json.loads(content)
        identity = Identity(str(fields["uuid"]), int(fields["format"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CatalogUnusable(
            f"{root}/{IDENTITY_FILE} is damaged ({error}): delete it, and the catalog is built anew"
        ) from error
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
    path = os.path.join(root, IDENTITY_FILE)
    temporary = f"{path}.{new_id()}.tmp"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(temporary, "xb") as file:
            file.write(new_identity())
        _publish_first(temporary, path)
    finally:
        os.unlink(temporary)
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
    path = os.path.join(root, IDENTITY_FILE)
    temporary = f"{path}.{new_id()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(identity.content())
        os.replace(temporary, path)  # of several processes that do so, all write the same
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return Identity(identity.uuid, STORAGE_FORMAT)


def _publish_first(temporary: str, path: str) -> None:
    # A link, unlike a rename, does not replace the identity that another process gave meanwhile.
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not os.path.exists(path):
            with open(temporary, "rb") as source, open(path, "wb") as target:
                target.write(source.read())
