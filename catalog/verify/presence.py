"""Whether there is a storage at a place."""

from __future__ import annotations

from itertools import islice

from catalog.store.folder import Folder, Unreadable
from catalog.verify.examine import examine

_LOOKS = 100  # folders, and files in each, that are looked at before a folder is called no storage
_REMOTE_LOOKS = 5  # the same where each costs a request


def is_storage(folder: Folder) -> bool:
    """Tell whether there is a catalog, or results: of the older format, or of a storage that lost its ``.catalog``.

    Parameters
    ----------
    folder : Folder
        The place.

    Returns
    -------
    bool
        False also where results lie only deep among much else. Nothing is made by looking.
    """
    return folder.has_catalog() or _has_results(folder)


def _has_results(folder: Folder) -> bool:
    most = _REMOTE_LOOKS if folder.is_remote else _LOOKS
    workflows = (name for name, _ in islice(folder.workflows(), most))
    return any(_is_result(folder, name, file) for name in workflows for file in islice(folder.files(name), most))


def _is_result(folder: Folder, name: str, file: str) -> bool:
    try:
        found = folder.look_at(name, file)
    except Unreadable:
        return False
    if found is None:
        return False
    if found.format:
        return True
    # The catalog takes whatever looks like an older result; in a foreign folder of pickles that happens by chance.
    examined = examine(folder.upkeep(), name, file)
    return examined is not None and examined.kind == "result"
