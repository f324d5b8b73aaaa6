"""From a path or URL to a storage, as the catalog sees it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from catalog.store.folder import Folder
from catalog.store.local_folder import LocalFolder
from catalog.store.location import Location, is_remote


def folder_of(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Folder:
    """Return the storage in a folder, or under a URL.

    Parameters
    ----------
    path : str or path-like
        Where.
    options : mapping, optional
        Keyword arguments of the URL's file system.

    Returns
    -------
    Folder
        Nothing is looked at yet.
    """
    if is_remote(path):
        from catalog.store.remote_folder import RemoteFolder

        return RemoteFolder(Location.of(str(path), options))
    return LocalFolder(os.path.abspath(os.path.expanduser(os.fspath(path))))
