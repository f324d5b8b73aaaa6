"""Putting files and folders on the medium, where a power cut does not reach them."""

from __future__ import annotations

import errno
import os

# What the system says of a folder that this user may not read, or on a file system that syncs no folders.
_CANNOT = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP}


def sync_path(path: str) -> None:
    """Return when a file's content, or a folder's list of names, is on the medium."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: str) -> None:
    """Return when a folder's list of names is on the medium, as far as this user and the file system can do that."""
    try:
        sync_path(path)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
