"""The way into an index and out again: locked, attached, refreshed; what is due of the journal is compacted."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum

from catalog.index.attach import Attached, attach, attach_for_reading, delete
from catalog.index.engine import engine
from catalog.index.fold import Refreshed
from catalog.index.history import History
from catalog.index.location import clear, mode_of, share_with_folder
from catalog.index.lock import Lock
from catalog.journal.compaction import Compaction
from catalog.journal.view import StorageView

_BETWEEN = 0.1  # seconds between two looks at whether there is something new that only waiting shows
_RARELY = 50.0  # of the time that compacting some of the journal took: how long this process's questions leave it then
_compact_again: dict[str, float] = {}  # by storage: when, by the monotonic clock

_log = logging.getLogger("functionfuse.catalog")


class Access(Enum):
    """What is done with the index once it is up to date: who only reads need not be alone with it."""

    WRITE = 1
    READ = 2
    READ_ELSEWHERE = 3  # by another process: here it is not attached


class Opening:
    """Opens an index, wherever it lies.

    Parameters
    ----------
    view : StorageView
        The storage, as it is for one question.
    access : Access
        What is done with it.
    rebuild : callable, optional
        Tells of the index at a path, which nobody else uses then, whether it is to be rebuilt.
    """

    def __init__(self, view: StorageView, access: Access, rebuild: Callable[[str], bool] | None) -> None:
        self.view = view
        self.storage = view.identity()
        self._access = access
        self._rebuild = rebuild

    @contextmanager
    def at(self, path: str) -> Iterator[tuple[Attached, Refreshed]]:
        """Have the index at a path up to date, and attached unless it is read elsewhere.

        Yields
        ------
        tuple of (Attached, Refreshed)
            The index, and what was new.

        Raises
        ------
        IndexUnavailable
            If it cannot be used, or others use it for long.
        """
        # One thread at a time, before the lock: of two threads of a process, one would lose its patience.
        with ExitStack() as thread:
            thread.enter_context(engine())
            with Lock(f"{path}.lock", mode_of(path)) as lock, ExitStack() as attachment:
                attached, refreshed, is_alone = self._attach(path, lock)
                attachment.callback(attached.leave)
                if is_alone and self.view.is_writable():
                    history = History(attached.connection, attached.tables)
                    _compact_some(Compaction(history, self.view), self.view.root)
                if self._access is Access.READ_ELSEWHERE:
                    attachment.close()
                    thread.close()  # other threads may ask meanwhile, and other processes
                    lock.wait_for(lock.share)
                yield attached, refreshed

    def _attach(self, path: str, lock: Lock) -> tuple[Attached, Refreshed, bool]:
        """Return the index, what was new, and whether nobody else uses it."""
        found = self._hold(lock, path)
        if found is not None:
            return *found, False
        if self._rebuild is not None and self._rebuild(path):
            _log.info("the catalog's index %s is rebuilt", path)
            delete(path)
        clear(path)
        attached, refreshed = attach(path, lock, self.view, self.storage)
        share_with_folder(path)
        return attached, refreshed, True

    def _hold(self, lock: Lock, path: str) -> tuple[Attached, Refreshed] | None:
        """Hold the lock alone; or, if others that read hold it and there is nothing new, with them.

        Returns
        -------
        tuple of (Attached, Refreshed) or None
            An index that is attached already, since there is nothing to be folded; None if it is to be.
        """
        reads = self._access is not Access.WRITE and self._rebuild is None
        look = time.monotonic() if reads else math.inf
        found: tuple[Attached, Refreshed] | None = None

        def alone_or_beside() -> bool:
            nonlocal look, found
            if lock.take():
                return True
            if time.monotonic() >= look and lock.share():
                found = attach_for_reading(path, lock, self.view, self.storage)
                if found is None:
                    lock.free()  # two that wait for one another to let it go would wait forever
                look = time.monotonic() + _BETWEEN
            return found is not None

        lock.wait_for(alone_or_beside)
        return found


def _compact_some(compaction: Compaction, root: str) -> None:
    began = time.monotonic()
    if began < _compact_again.get(root, 0.0):
        return
    try:
        if compaction.is_due():
            compaction.compact_some()
    except OSError as error:  # a full disk; the question can be answered all the same
        _log.warning("the journal was not compacted: %s", str(error))
    now = time.monotonic()
    _compact_again[root] = now + (now - began) * _RARELY
