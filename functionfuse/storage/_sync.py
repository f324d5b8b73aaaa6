"""Putting the side files of a save on the medium."""

from __future__ import annotations

import os

from catalog.store import regular
from catalog.store.sync import sync_path


def sync_tree(path: str) -> None:
    """Return when all files and folders in a folder are on the medium, and its own name; none is no error."""
    if not regular.is_folder(path):
        return
    for folder, _, names in regular.walk(path):
        for name in names:
            if regular.is_file(os.path.join(folder, name)):
                sync_path(os.path.join(folder, name))
        sync_path(folder)
    sync_path(os.path.dirname(path))
