"""The clock of the file system that holds a storage: the ages of files are told by it alone.

Another machine's clock, or the file server's, may differ from this machine's by hours.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER
from catalog.store import regular_files

_FOLDER = f"{CATALOG_FOLDER}/tmp"
_FRESH = 60.0  # seconds for which this machine's steady clock carries on what was asked
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, and is never set

_known: dict[str, tuple[float, int]] = {}  # by storage: when it was asked, in s, and what it said, in ns


def now_ns(root: str) -> int:
    """Return the time, in ns since 1970, as it would be a file's that is written now in the storage in folder `root`.

    The first question, and one each minute, makes an empty file. Where none can be made, nothing can be moved or
    deleted because of its age either: this machine's clock has to do.
    """
    steady = time.clock_gettime(_CLOCK)
    asked, said = _known.get(root, (0.0, 0))
    if not asked or steady - asked > _FRESH:
        try:
            said = _ask(root)
        except OSError:
            return time.time_ns()
        _known[root] = asked, said = steady, said
    return said + int((steady - asked) * 1e9)


def _ask(root: str) -> int:
    if not regular_files.is_folder(f"{root}/{CATALOG_FOLDER}"):
        raise FileNotFoundError(root)  # a question makes no storage
    regular_files.make_folders(root, _FOLDER)
    path = f"{root}/{_FOLDER}/{new_id()}"
    try:
        handle = regular_files.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            return os.fstat(handle).st_mtime_ns
        finally:
            os.close(handle)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
