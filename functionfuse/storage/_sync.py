"""Putting files and folders on the medium, where a power cut does not reach them."""

from __future__ import annotations

import os


def sync_path(path: str) -> None:
    """Return when a file's content, or a folder's list of names, is on the medium."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: str) -> None:
    """Return when all files and folders in a folder are on the medium, and its own name; none is no error."""
    if not os.path.isdir(path):
        return
    for folder, _, names in os.walk(path):
        for name in names:
            sync_path(os.path.join(folder, name))
        sync_path(folder)
    sync_path(os.path.dirname(path))
