"""The fingerprint of a file: that of its content, remembered by its stamp."""

from __future__ import annotations

import os
import stat
import time

import xxhash

from functionfuse._file import File
from functionfuse.fingerprint._digest import digest
from functionfuse.fingerprint._walk import LEAVES, Unknown

_CHUNK = 1 << 20  # bytes
_SETTLED = 2_000_000_000  # nanoseconds: a file that was written just now may be written again with the same stamp

Stamp = tuple[int, int, int, int]
_known: dict[str, tuple[Stamp, str]] = {}


def of_file(path: str) -> str | None:
    """Return the fingerprint of a file's content; None if there is no such file, or it cannot be read.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    str or None
        ``xxh3:<32 hex digits>``.
    """
    place = os.path.abspath(path)
    try:
        stamp = _stamp(place)
        known = _known.get(place)
        if known is not None and known[0] == stamp:
            return known[1]
        found = _content(place)
        if _stamp(place) != stamp:  # written to meanwhile
            return None
    except OSError:
        return None
    if time.time_ns() - stamp[0] > _SETTLED:
        _known[place] = stamp, found
    return found


def _stamp(path: str) -> Stamp:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is no regular file")
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns


def _content(path: str) -> str:
    stream = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            stream.update(chunk)
    return digest("file", (stream.hexdigest(),))


def _file_token(value: File) -> str:
    found = of_file(value)
    if found is None:
        raise Unknown(f"{str(value)!r} is no file that can be read")
    return found


LEAVES[File] = _file_token
