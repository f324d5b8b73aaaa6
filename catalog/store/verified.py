"""Whether a file is still what was written: checked once, and remembered as long as the file is untouched.

A file that was read to its end and had its digest is remembered by what changes with every change of it: device, inode,
size, times of the last write and of the last change of its status. So it is on this machine, for all processes of this
user, in the user's cache directory, ``functionfuse/intact``. What may have changed within the resolution of these times
is not remembered. A memory that is lost, damaged or torn costs time alone: a record is 16 bytes of a hash, which no
accident makes. Verification and audits do not use it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from contextlib import suppress

from catalog.format.side_files import Digest, is_known
from catalog.store import cache

_PIECE = 1 << 20  # bytes that are read at once
_RECORD = 16  # bytes
_MOST = 1 << 20  # bytes of the memory, 65,536 files; then the older half is forgotten
#: Nanoseconds since a file's last change after which another one shows in its times: file systems count in steps of
#: milliseconds, some in seconds.
SETTLED = 2_000_000_000
_OPEN = os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def fault_of(handle: int, digest: str) -> str:
    """Return what is wrong with an open file; empty if it is what was written.

    Parameters
    ----------
    handle : int
        Its descriptor; its position is left alone.
    digest : str
        As it is declared.

    Returns
    -------
    str
        The reason.
    """
    if not is_known(digest):
        return f"its digest is {digest.partition(':')[0]}, which this version does not know: install a newer one"
    before = os.fstat(handle)
    key = _key(before, digest)
    if _memory.knows(key):
        return ""
    if _digest_of(handle) != digest:
        return "its checksum is wrong"
    after = os.fstat(handle)
    is_settled = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > SETTLED
    if is_settled and _key(after, digest) == key:
        _memory.add(key)
    return ""


def _digest_of(handle: int) -> str:
    digest = Digest()
    buffer = memoryview(bytearray(_PIECE))
    position = 0
    while count := os.preadv(handle, [buffer], position):
        digest.update(buffer[:count])
        position += count
    return digest.text()


def _key(status: os.stat_result, digest: str) -> bytes:
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    # A home directory may be shared by machines, whose devices have the same numbers.
    text = f"{os.uname().nodename} {stamp} {digest}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=_RECORD).digest()


class Memory:
    """Keys, in a file to which any number of processes append; in this process alone where that cannot be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[bytes] = set()
        self._read_until = (0, 0)  # inode and bytes

    def knows(self, key: bytes) -> bool:
        """Tell whether a key was added, here or by another process."""
        with self._lock:
            if key not in self._known:
                with suppress(OSError):
                    self._read()
            return key in self._known

    def add(self, key: bytes) -> None:
        """Add a key."""
        with self._lock:
            self._known.add(key)
            with suppress(OSError):
                self._append(key)

    def _read(self) -> None:
        handle = _opened(_path(), os.O_RDONLY)
        try:
            status = os.fstat(handle)
            begin = self._read_until[1] if self._read_until[0] == status.st_ino else 0
            data = os.pread(handle, 2 * _MOST, begin)
        finally:
            os.close(handle)
        whole = len(data) - len(data) % _RECORD
        if len(self._known) * _RECORD > 2 * _MOST:
            self._known.clear()
        self._known.update(data[at : at + _RECORD] for at in range(0, whole, _RECORD))
        self._read_until = (status.st_ino, begin + whole)

    def _append(self, key: bytes) -> None:
        path = _path()
        cache.made(cache.cache_folder(), "intact")
        handle = _opened(path, os.O_RDWR)
        try:
            size = os.fstat(handle).st_size
            if size >= _MOST or size % _RECORD:  # full, or torn
                _replace(path, os.pread(handle, 2 * _MOST, 0)[: size - size % _RECORD][-_MOST // 2 :] + key)
            else:
                os.write(handle, key)
        finally:
            os.close(handle)


def _path() -> str:
    return os.path.join(cache.cache_folder(), "intact", "files")


def _opened(path: str, how: int) -> int:
    """Open the memory; `OSError` if it is not there, or not this user's alone."""
    handle = os.open(path, how | _OPEN if how == os.O_RDWR else how | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for status in (os.fstat(handle), os.stat(os.path.dirname(path))):
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise PermissionError(f"{path} may be written by others")
    except BaseException:
        os.close(handle)
        raise
    return handle


def _replace(path: str, content: bytes) -> None:
    temporary = f"{path}.{os.getpid()}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, content)
        os.replace(temporary, path)  # what others append meanwhile is checked once more
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(handle)


_memory = Memory()


def _after_fork() -> None:
    _memory._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
