"""The journal: what happened, one JSON line an event, appended and never changed.

Every writing process has a segment of its own, ``<UUIDv7>.ndjson``, and
appends each event by one `write` on an append handle, so writers never wait for
one another. A save's line is written before its blob is renamed into place: the
last line of a segment is unconfirmed until the blob's footer shows its id, and
every line before it is confirmed.

A segment that nobody has appended to for a while is compacted (`catalog.journal.compaction`):
moved out of the journal's folder, with its lines in a Parquet file. A writer
therefore begins a new segment after a pause, and looks after every line whether
its segment is still there; if not, the line is written again.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER
from catalog.journal.base import JOURNAL_FOLDER, SEGMENT_SUFFIX, Journal, Publication
from catalog.store import regular_files
from catalog.store.base import Store
from catalog.store.sync import sync_folder

#: Seconds without a line after which a writer begins a new segment.
PAUSE = 60.0
#: Bytes after which a writer begins a new segment, so that compaction can take one in a moment.
FULL = 8 << 20

_PATIENCE = 100  # times that a segment may vanish under us before it counts as an error
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, and never back
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger("functionfuse.storage")


@dataclass
class _Segment:
    path: str
    written: float  # when the last line was, seconds
    size: int = 0

    def is_over(self) -> bool:
        return self.size >= FULL or time.clock_gettime(_CLOCK) - self.written > PAUSE


_journals: WeakValueDictionary[str, LocalJournal] = WeakValueDictionary()
_segments: dict[tuple[int, str], _Segment] = {}  # by process and folder: to be taken up again when its journal is
_journals_lock = threading.Lock()


def local_journal(store: Store) -> LocalJournal:
    """Return this process's journal for a storage on a disk, the same one for every caller."""
    with _journals_lock:
        journal = _journals.get(store.root)
        if journal is None:
            _journals[store.root] = journal = LocalJournal(store)
        return journal


def _after_fork() -> None:
    global _journals_lock
    _journals_lock = threading.Lock()
    for journal in _journals.values():  # the segments, and locks that may be held, are the parent's
        journal._close()
        journal._forget()


os.register_at_fork(after_in_child=_after_fork)


class LocalJournal(Journal):
    """The segment that this process appends to.

    Parameters
    ----------
    store : Store
        The storage, on a disk.

    Notes
    -----
    A forked child opens a segment of its own.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = f"{store.root}/{JOURNAL_FOLDER}"
        self._handle: int | None = None
        self._segment: _Segment | None = None
        self._synced = ""
        self._forget()

    def __reduce__(self) -> tuple[Callable[[Store], LocalJournal], tuple[Store]]:
        return local_journal, (self._store,)

    def append(self, publication: Publication) -> None:
        """Write a line, and publish; no other event of this process is written in between."""
        try:
            self._append(publication.line, publication.publish)
        except OSError as error:
            if not publication.frees_space or error.errno not in _FULL_DISK:
                raise
            self._make_space(publication)
        else:
            if publication.on_success is not None:
                publication.on_success()

    def submit(
        self, publication: Publication, failed: Callable[[BaseException], BaseException | None] = lambda error: error
    ) -> None:
        """Append at once: that takes less than leaving it to a thread."""
        self.append(publication)

    def check(self) -> None:
        """Do nothing: what went wrong was raised."""

    def wait(self) -> None:
        """Do nothing: nothing is under way."""

    def sync(self) -> None:
        """Have the file system put the segment's name on the medium, and its folder's."""
        path = self._segment.path if self._segment else ""
        if path != self._synced:
            for folder in (f"{self._store.root}/{CATALOG_FOLDER}", self._folder):
                sync_folder(folder)
            self._synced = path

    def _append(self, line: str, publish: Callable[[], object] | None) -> None:
        with self._lock:
            try:
                self._write(f"{line}\n".encode("ascii"))
                if publish is not None:
                    publish()  # before any other event of this process: a later line confirms this one
            except BaseException:  # an interrupt may strike between the two
                self._abandon()  # a line that was written stays the last of its segment, and so unconfirmed
                raise

    def _make_space(self, publication: Publication) -> None:
        """Publish what cannot be recorded on a full disk, so that it can."""
        for act in (publication.publish, publication.on_success):
            if act is not None:
                act()
        try:
            self._append(publication.line, None)
        except OSError as error:  # the next question finds the file gone
            where = f"{self._store.root}/{publication.key}"
            _log.warning("%s is removed, and its event was not recorded: %s", where, str(error))

    def _write(self, data: bytes) -> None:
        for _ in range(_PATIENCE):
            try:
                segment, handle = self._opened()
            except FileNotFoundError:  # folder or segment vanished as it was opened
                self._abandon()
                continue
            written = os.write(handle, data)
            if written != len(data):  # a torn line ends its segment: the next event must not be joined to it
                raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes written to the journal", self._folder)
            segment.written = time.clock_gettime(_CLOCK)
            segment.size += written
            if os.access(segment.path, os.F_OK):
                return
            self._abandon()  # compacted or deleted just now, perhaps without this line: events are a set
        raise OSError(errno.ENOENT, "the journal's segments vanish as fast as they are made", self._folder)

    def _opened(self) -> tuple[_Segment, int]:
        if self._segment is not None and self._segment.is_over():
            self._abandon()
        if self._segment is None or self._handle is None:
            return self._open()
        return self._segment, self._handle

    def _open(self) -> tuple[_Segment, int]:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        segment = _segments.get((self._pid, self._folder))
        if segment is None or segment.is_over() or not regular_files.is_file(segment.path):
            regular_files.make_folders(self._store.root, JOURNAL_FOLDER)
            segment = _Segment(f"{self._folder}/{new_id()}{SEGMENT_SUFFIX}", time.clock_gettime(_CLOCK))
            flags |= os.O_CREAT | os.O_EXCL
        self._handle = regular_files.open_file(segment.path, flags)
        self._segment = _segments[self._pid, self._folder] = segment
        return segment, self._handle

    def _abandon(self) -> None:
        _segments.pop((self._pid, self._folder), None)
        self._close()

    def _close(self) -> None:
        self._segment = None
        if self._handle is not None:
            handle = self._handle
            self._handle = None
            os.close(handle)

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._handle = None
        self._segment = None

    def __del__(self) -> None:
        if self._pid == os.getpid():
            self._close()
