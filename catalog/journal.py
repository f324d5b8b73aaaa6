"""The journal: what happened, one JSON line an event, appended and never changed.

Every writing process has a segment of its own, ``<UUIDv7>.ndjson``, and
appends each event by one `write` on an append handle, so writers never wait for
one another. A save's line is written before its blob is renamed into place: the
last line of a segment is provisional until the blob's footer shows its id, and
every line before it is settled.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from weakref import WeakValueDictionary

from catalog.ids import new_id
from catalog.names import CATALOG_FOLDER

JOURNAL_FOLDER = f"{CATALOG_FOLDER}/journal"
SEGMENT_SUFFIX = ".ndjson"

_LOOK_EVERY = 0.05  # seconds: what is saved in between is found as a blob, if the journal is deleted

_journals: WeakValueDictionary[str, Journal] = WeakValueDictionary()
_segments: dict[tuple[int, str], str] = {}  # (process, folder): its segment, to be taken up again when its journal is
_journals_lock = threading.Lock()


def journal_of(root: str) -> Journal:
    """Return this process's journal for the storage in folder `root`, the same one for every caller."""
    with _journals_lock:
        journal = _journals.get(root)
        if journal is None:
            _journals[root] = journal = Journal(root)
        return journal


def _after_fork() -> None:
    global _journals_lock
    _journals_lock = threading.Lock()
    for journal in _journals.values():  # the segments, and locks that may be held, are the parent's
        journal._close()
        journal._forget()


os.register_at_fork(after_in_child=_after_fork)


class Journal:
    """The segment that this process appends to.

    Parameters
    ----------
    root : str
        The storage's folder, absolute.

    Notes
    -----
    Safe to use from several threads; a forked child opens a segment of its own.
    """

    def __init__(self, root: str) -> None:
        self._folder = f"{root}/{JOURNAL_FOLDER}"
        self._handle: int | None = None
        self._looked = 0.0
        self._forget()

    def append(self, line: str, publish: Callable[[], None] | None = None) -> None:
        """Write an event and then make it true.

        Parameters
        ----------
        line : str
            One JSON object in ASCII, without the line's end.
        publish : callable, optional
            What the event tells: a rename or a removal. No other event of this
            process is written until it is done, so that a later line settles
            this one.

        Raises
        ------
        OSError
            If the line cannot be written; then nothing is published.
        """
        with self._lock:
            try:
                self._write(f"{line}\n".encode("ascii"))
                if publish is not None:
                    publish()
            except BaseException:  # an interrupt may strike between the two
                self._abandon()  # a line that was written stays the last of its segment, and so provisional
                raise

    def _write(self, data: bytes) -> None:
        if self._handle is None or self._is_deleted(self._handle):
            self._close()
            self._handle = self._open()
        written = os.write(self._handle, data)
        if written != len(data):  # a torn line ends its segment: the next event must not be joined to it
            raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes written to the journal", self._folder)

    def _is_deleted(self, handle: int) -> bool:
        """Tell whether somebody deleted the folder under us; asked now and then, as it is a tenth of a line's cost."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return False
        self._looked = now
        return os.fstat(handle).st_nlink == 0

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(_segments[self._pid, self._folder], flags)
        except (KeyError, FileNotFoundError):
            os.makedirs(self._folder, exist_ok=True)
        path = f"{self._folder}/{new_id()}{SEGMENT_SUFFIX}"
        handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        _segments[self._pid, self._folder] = path
        return handle

    def _abandon(self) -> None:
        _segments.pop((self._pid, self._folder), None)
        self._close()

    def _close(self) -> None:
        if self._handle is not None:
            handle = self._handle
            self._handle = None
            os.close(handle)

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._handle = None

    def __del__(self) -> None:
        if self._pid == os.getpid():
            self._close()
