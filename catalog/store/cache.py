"""Where this user's own files lie: in the cache directory, or where that cannot be, in a temporary folder.

They hold values of results: nobody else may look into their folders, whatever the umask is.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress

_temporary: dict[int, str] = {}  # by process: a forked child has its own


def folders(*names: str) -> Iterator[str]:
    """Yield the folders that can have this name, best first.

    Parameters
    ----------
    names : str
        Below the folder of this library.

    Yields
    ------
    str
        A folder that exists: first in the user's cache directory (``$XDG_CACHE_HOME``, else ``~/.cache``), then in a
        temporary one of this process's own, which goes when the process ends. What cannot be made is left out.
    """
    for base in (cache_folder, _temporary_folder):
        try:
            path = made(base(), *names)
        except OSError:
            continue
        yield path


def cache_folder() -> str:
    """Return the library's folder in the user's cache directory; it may not be there, and cannot be if HOME is not."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "functionfuse")


def made(*names: str) -> str:
    """Return a folder, made where it is missing; its path is joined of names, the first this library's."""
    path = os.path.join(*names)
    if not os.path.isabs(path):  # without HOME, "~" stays what it is
        raise FileNotFoundError(path)
    os.makedirs(path, mode=0o700, exist_ok=True)
    set_mode(names[0], 0o700)  # those above what is made have the umask's
    set_mode(path, 0o700)
    return path


def set_mode(path: str, mode: int) -> None:
    """Say who may do what with a file or folder of this user's, where the file system knows of that."""
    with suppress(OSError):  # also where somebody has just deleted it
        status = os.stat(path)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
            os.chmod(path, mode)


def _temporary_folder() -> str:
    process = os.getpid()
    if process not in _temporary:
        path = tempfile.mkdtemp(prefix="functionfuse-")
        _temporary[process] = path
        atexit.register(_remove, process, path)
    return _temporary[process]


def _remove(process: int, path: str) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
