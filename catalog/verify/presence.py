"""Whether there is a storage at a place."""

from __future__ import annotations

from itertools import islice

from catalog.format.names import CATALOG_FOLDER
from catalog.store.base import Store, Unreadable
from catalog.store.blobs import blob_at
from catalog.store.reading import readable_names
from catalog.verify.examine import examine

_LOOKS = 100  # folders, and files in each, that are looked at before a folder is called no storage
_REMOTE_LOOKS = 5  # the same where each costs a request


def is_storage(store: Store) -> bool:
    """Tell whether there is a catalog, or results: of the older format, or of a storage that lost its ``.catalog``.

    Parameters
    ----------
    store : Store
        The place.

    Returns
    -------
    bool
        False also where results lie only deep among much else. Nothing is made by looking.
    """
    return store.has_folder(CATALOG_FOLDER) or _has_results(store)


def _has_results(store: Store) -> bool:
    most = _LOOKS if store.is_local else _REMOTE_LOOKS
    workflows = (name for name, _ in islice(store.folders(), most))
    files = ((name, file) for name in workflows for file in islice(readable_names(store, name), most))
    return any(_is_result(store, *each) for each in files)


def _is_result(store: Store, name: str, file: str) -> bool:
    try:
        found = blob_at(store, name, file)
    except Unreadable:
        return False
    if found is None:
        return False
    if found.format:
        return True
    # The catalog takes whatever looks like an older result; in a foreign folder of pickles that happens by chance.
    examined = examine(store, name, file)
    return examined is not None and examined.kind == "result"
