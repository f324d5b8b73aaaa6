"""Where the index of a storage lies: in the storage, for all to share, or in a folder of this user's, a private one."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator

from catalog.format.names import CATALOG_FOLDER
from catalog.index.lock import IndexUnavailable
from catalog.index.schema import SCHEMA_VERSION
from catalog.journal.view import StorageView
from catalog.store import cache, regular_files

FILE = "catalog.duckdb"

_log = logging.getLogger("functionfuse.catalog")
_reported: set[str] = set()


def shared_path(view: StorageView) -> str:
    """Return where the index lies in a storage; `IndexUnavailable` if it cannot."""
    if not view.is_writable():
        raise IndexUnavailable(f"{view.root} is not writable")
    path = os.path.join(view.root, CATALOG_FOLDER, FILE)
    if not regular_files.is_folder(os.path.dirname(path)):
        raise IndexUnavailable(f"{os.path.dirname(path)} cannot be made")
    return path


def private_paths(root: str, storage: str) -> Iterator[str]:
    """Yield where this user's own index of a storage may be: in the cache directory, else in a temporary one.

    Parameters
    ----------
    root : str
        The storage's real path: a copy of it elsewhere has an index of its own.
    storage : str
        Its identity.

    Yields
    ------
    str
        A path whose folder exists. Other versions of the schema have their own.
    """
    key = hashlib.blake2b(os.fsencode(f"{storage}/{root}"), digest_size=16).hexdigest()
    for folder in cache.folders(key):
        yield os.path.join(folder, f"catalog-{SCHEMA_VERSION}.duckdb")


def mode_of(path: str) -> int:
    """Return who may do what with an index: read and write it whoever may look and write into its folder."""
    return os.stat(os.path.dirname(path)).st_mode & 0o666


def share_with_folder(path: str) -> None:
    """Let those use an index and its lock who may use their folder."""
    for each in (path, f"{path}.lock"):
        cache.set_mode(each, mode_of(path))


def clear(path: str) -> None:
    """Remove a link or the like in the place of an index; `IndexUnavailable` for a folder."""
    for each in (path, f"{path}.wal"):
        if os.path.lexists(each) and not regular_files.is_file(each):
            if regular_files.is_folder(each):
                raise IndexUnavailable(f"{each} is a folder")
            _log.warning("%s was %s, and is removed", each, regular_files.kind_of(each))
            os.unlink(each)


def report_once(root: str, reason: str) -> None:
    """Log that a storage's own index is not used, once a process."""
    if root not in _reported and os.path.isdir(root):
        _reported.add(root)
        _log.warning("the catalog of %s is answered from a private index: %s", root, reason)
