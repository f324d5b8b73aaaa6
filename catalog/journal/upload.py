"""Writing the journal of a remote storage: segments that tell first, and objects that come true behind them.

A save or removal is told by a line in an immutable segment, which is written
before the object is: so whoever is killed in between has left a line, and no
reader needs a listing to find what was published. What is handed over while a
segment is being written goes into the next one, so that many lines share one
request. The name of a segment says up to which of its writer's segments all came
true; readers look at the objects of the others.

An object whose writing took more than one try, or long, may have replaced a newer
one of somebody else: its line is told again, and readers look once more.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from catalog.format.ids import new_id
from catalog.journal.append import JOURNAL_FOLDER
from catalog.journal.segments import segment_name
from catalog.store import threads as pool
from catalog.store.location import Location

#: How much a process hands over before it has to wait: saves, and bytes that are held for them.
MOST_SAVES, MOST_BYTES = 256, 64 << 20
_LONG = 60.0  # seconds from a line to its object, after which the line is told again
_LINES = 2_000  # in a segment at most

_journals: dict[Location, RemoteJournal] = {}
_lock = threading.Lock()


def journal_at(location: Location) -> RemoteJournal:
    """Return this process's journal for a storage, the same one for every caller."""
    with _lock:
        if location not in _journals:
            _journals[location] = RemoteJournal(location)
        return _journals[location]


def flush_all(location: Location) -> None:
    """Return when all that this process handed over for a storage is durable, or failed."""
    with _lock:
        journal = _journals.get(location)
    if journal is not None:
        journal.wait()


@dataclass(eq=False)
class Deed:
    """What a line tells, and how it comes true.

    Attributes
    ----------
    line : str
        One JSON object in ASCII.
    act : callable, optional
        Makes it true; returns whether that took more than one try.
    undo : callable, optional
        What is done if it does not come true.
    key : str
        Which object it is about: of one, one deed is done after another.
    size : int
        Bytes that are held for it.
    """

    line: str
    act: Callable[[], bool] | None = None
    undo: Callable[[], None] | None = None
    key: str = ""
    size: int = 0
    done: Future[None] = field(default_factory=Future)


class _Writer:
    """A row of segments."""

    def __init__(self) -> None:
        self.id = new_id()
        self.number = 0
        self.settled = 0
        self.left: dict[int, int] = {}  # of each segment that is not settled: deeds that did not come true yet


class RemoteJournal:
    """The segments that this process writes.

    Parameters
    ----------
    location : Location
        The storage.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._changed = threading.Condition()
        self._waiting: list[Deed] = []
        self._busy: set[str] = set()  # keys of deeds that are being done
        self._under_way: set[Future[None]] = set()
        self._bytes = 0
        self._is_flushing = False
        self._gathering = 0  # blocks in which what is handed over is told at their end
        self._writer = _Writer()
        self._failure: BaseException | None = None

    def do(self, deed: Deed) -> None:
        """Tell of a deed and do it; return when it is durable.

        Raises
        ------
        CatalogUnusable
            If it cannot be told or done.
        """
        with self._changed:
            self._add(deed)
            self._start()
        deed.done.result()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have what is handed over within the block told at its end, by one segment; sooner if somebody waits."""
        with self._changed:
            self._gathering += 1
        try:
            yield
        finally:
            with self._changed:
                self._gathering -= 1
                self._start()

    def hand_over(self, deed: Deed, failed: Callable[[BaseException], BaseException | None]) -> None:
        """Have a deed told and done while the caller goes on; wait only while too much is under way.

        Parameters
        ----------
        deed : Deed
            What is to be done.
        failed : callable
            Makes of an error the one that `check` raises, or None.
        """

        def note(done: Future[None]) -> None:
            error = done.exception()
            if error is not None and self._failure is None:
                self._failure = failed(error)

        deed.done.add_done_callback(note)
        with self._changed:
            if not self._has_room(deed):
                self._start()
                self._changed.wait_for(lambda: self._has_room(deed))
            self._add(deed)
            if not self._gathering:
                self._start()

    def _has_room(self, deed: Deed) -> bool:
        most = MOST_BYTES - deed.size
        return not self._under_way or (len(self._under_way) < MOST_SAVES and self._bytes <= most)

    def check(self) -> None:
        """Raise what went wrong with a deed that was handed over."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Return when nothing is under way any more of what was at the call."""
        with self._changed:
            self._start()
            awaited = self._under_way.copy()
            self._changed.wait_for(lambda: awaited.isdisjoint(self._under_way))

    # Telling

    def _add(self, deed: Deed) -> None:
        self._waiting.append(deed)
        self._under_way.add(deed.done)
        self._bytes += deed.size

    def _start(self) -> None:
        if self._waiting and not self._is_flushing:
            self._is_flushing = True
            pool.submit(self._tell, "journal")

    def _tell(self) -> None:
        """Write segments until nothing waits that can be told."""
        while True:
            with self._changed:
                deeds = self._take()
                if not deeds:
                    self._is_flushing = False
                    return
                writer = self._writer
                writer.number += 1
                number = writer.number
                writer.left[number] = sum(deed.act is not None for deed in deeds)
                name = segment_name(writer.id, number, writer.settled)
            began = time.monotonic(), time.time()
            try:
                data = "".join(f"{deed.line}\n" for deed in deeds).encode("ascii")
                self._location.bucket().put(f"{JOURNAL_FOLDER}/{name}", data)
            except BaseException as error:
                for deed in deeds:
                    self._fail(deed, writer, error)
                continue
            for deed in deeds:
                if deed.act is None:
                    self._finish(deed)
                else:
                    pool.submit(partial(self._act, deed, writer, number, began), "publications")
            with self._changed:
                self._settle(writer)

    def _take(self) -> list[Deed]:
        taken: list[Deed] = []
        left: list[Deed] = []
        keys: set[str] = set()
        for deed in self._waiting:
            waits = len(taken) == _LINES or (deed.key and (deed.key in self._busy or deed.key in keys))
            (left if waits else taken).append(deed)
            keys.add(deed.key)
        self._waiting = left
        self._busy |= {deed.key for deed in taken if deed.key}
        return taken

    # Doing

    def _act(self, deed: Deed, writer: _Writer, number: int, began: tuple[float, float]) -> None:
        assert deed.act is not None
        try:
            again = deed.act()
        except BaseException as error:
            self._fail(deed, writer, error)
            return
        with self._changed:
            writer.left[number] -= 1
            self._settle(writer)
            # One clock can be set, and the other stands still while the machine sleeps.
            if again or time.monotonic() - began[0] > _LONG or abs(time.time() - began[1]) > _LONG:
                self._waiting.append(Deed(deed.line, key=deed.key, size=deed.size, done=deed.done))
                self._busy.discard(deed.key)
                self._start()
                return
        self._finish(deed)

    def _settle(self, writer: _Writer) -> None:
        while writer.settled < writer.number and not writer.left.get(writer.settled + 1, 1):
            writer.settled += 1
            del writer.left[writer.settled]

    def _finish(self, deed: Deed, error: BaseException | None = None) -> None:
        if error is None:
            deed.done.set_result(None)
        else:
            deed.done.set_exception(error)
        with self._changed:
            self._busy.discard(deed.key)
            self._under_way.discard(deed.done)
            self._bytes -= deed.size
            self._start()
            self._changed.notify_all()

    def _fail(self, deed: Deed, writer: _Writer, error: BaseException) -> None:
        """Give up a deed, and the writer, none of whose later segments may say that this one came true."""
        with self._changed:
            if self._writer is writer:
                self._writer = _Writer()
        if deed.undo is not None:
            try:
                deed.undo()
            except Exception as trouble:  # what is left is found by `verify`
                error.__context__ = trouble
        self._finish(deed, error)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _journals.clear()  # what they hold is the parent's to do


os.register_at_fork(after_in_child=_after_fork)
