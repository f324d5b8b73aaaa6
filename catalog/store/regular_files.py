"""Regular files and real folders: what else may stand in a storage is not followed, opened or waited for.

A symbolic link leads out of the storage; whoever opens a pipe waits, and a device may never end. In the place of a file
each of them counts as no file; in the place of a folder it is an error of whoever wants to write there. Only the
storage's folder and those of workflows may be links, which their owner made.

A link that somebody puts there between the check of a folder and the use of it is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from catalog.store.sync import sync_folder

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
# What the system says where no file is opened: a link, or a loop of them, on the way too; a socket; a folder.
_NO_FILE = {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP, errno.EISDIR}
_PATIENCE = 100  # times that a folder may vanish under us before it counts as an error
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class NotRegular(FileNotFoundError):
    """What stands in the place of a file is none: whoever reads goes on as if nothing were there."""


def open_file(path: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a regular file; also as the `opener` of the builtin `open`.

    Parameters
    ----------
    path : str
        The file, whose folder is known to be a real one.
    flags, mode : int
        As for `os.open`.

    Returns
    -------
    int
        Its descriptor.

    Raises
    ------
    NotRegular
        If it is a link, pipe, device, socket or folder.
    OSError
        As by `os.open`.
    """
    try:
        handle = os.open(path, flags | _FLAGS | os.O_NONBLOCK, mode)  # without, a pipe is waited for
    except BlockingIOError:  # a file server has lent the file, and wants it back first
        handle = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_regular(path)
    return handle


def _not_regular(path: str) -> NotRegular:
    return NotRegular(errno.ENOENT, f"there is {kind_of(path)}, and no regular file", path)


def kind_of(path: str) -> str:
    """Return what stands at a path, for a message."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return "nothing that can be reached"
    return next((kind for is_one, kind in _KINDS if is_one(mode)), "a device")


def in_the_way(path: str) -> str:
    """Return what a path cannot lead through: itself, or the first above it that is there."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def is_file(path: str) -> bool:
    """Tell whether there is a regular file."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: str) -> bool:
    """Tell whether there is a real folder."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except (OSError, ValueError):  # a name that no file can have
        return 0


def are_folders(top: str, below: str) -> bool:
    """Tell whether a path below a folder leads through real folders only, each of which is there."""
    path = top
    for name in below.split("/") if below else ():
        path = f"{path}/{name}"
        if not is_folder(path):
            return False
    return True


def make_folder(path: str) -> None:
    """Make a folder, in which its group may write whatever the umask is, if the one above it is a group's.

    Parameters
    ----------
    path : str
        A folder is a group's if it has the setgid bit and the group may write in it, as ``chmod g+ws`` makes it.

    Raises
    ------
    OSError
        As by `os.mkdir`.
    """
    os.mkdir(path)
    above = os.stat(os.path.dirname(path)).st_mode
    if above & stat.S_ISGID and above & stat.S_IWGRP:
        with suppress(OSError):  # not every file system knows of that
            os.chmod(path, stat.S_IMODE(_mode(path)) | stat.S_IRWXG)


def make_workflow_folder(path: str) -> None:
    """Make a workflow's folder, which others may be removing while it is empty; a link to one counts as one."""
    for _ in range(_PATIENCE):
        try:
            return make_folder(path)
        except FileExistsError:  # of a folder, of one that is gone again, or of a file
            if os.path.isdir(path):
                return None
            if os.path.lexists(path):
                raise
    return make_folder(path)


def _make_durable(path: str) -> None:
    """Make a folder that may be there already, and those above it, each with its name on the medium."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_durable(parent)
    try:
        make_folder(path)
    except FileExistsError:
        if not os.path.isdir(path):  # another process made it meanwhile
            raise
    sync_folder(parent)


def make_folders(top: str, below: str) -> None:
    """Make folders, one in the other, that may be there already, and which others may be removing while they are empty.

    Parameters
    ----------
    top : str
        The folder in which they are; it may be a link to one, and is made with those above it where it is missing.
    below : str
        Their path in it.

    Raises
    ------
    NotADirectoryError
        If one of those below is there and is no real folder.
    OSError
        If one cannot be made.
    """
    for _ in range(_PATIENCE):
        try:
            return _make_folders(top, below)
        except FileNotFoundError:
            _make_durable(top)
    return _make_folders(top, below)


def _make_folders(top: str, below: str) -> None:
    path = top
    for name in below.split("/"):
        path = f"{path}/{name}"
        try:
            make_folder(path)
        except FileExistsError:
            if os.path.lexists(path) and not is_folder(path):
                message = f"there is {kind_of(path)} where the storage has a folder of its own: move it away"
                raise NotADirectoryError(errno.ENOTDIR, message, path) from None


def entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder; nothing if there is none, which a loop of links is not."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise


def walk(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as `os.walk` does, the deepest folders first, from a real folder only; links are among the files."""
    if not is_folder(top):
        return
    for folder, folders, files in os.walk(top, topdown=False):
        links = [name for name in folders if not is_folder(os.path.join(folder, name))]
        yield folder, [name for name in folders if name not in links], files + links


def changed_ns(path: str) -> int:
    """Return when something changed in a file or folder, ns since 1970; 0 if it is gone.

    Not only when it was written: what is copied in, before its blob is, keeps the times of the original.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    return max(status.st_mtime_ns, status.st_ctime_ns)


def give_back(target: str, path: str) -> None:
    """Put a file that was moved by mistake back into its place, unless another has taken it."""
    try:
        os.link(target, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not os.path.lexists(path):
            os.rename(target, path)
        return
    os.unlink(target)
