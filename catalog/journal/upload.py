"""Writing the journal of a bucket: immutable segments of lines, each written before the objects that it tells of.

Whoever is killed in between has left a line, so no reader needs a listing to find what was published. What is submitted
while a segment is being written goes into the next one: many lines share one request. The name of a segment says up to
which of its writer's segments all events are confirmed; readers look at the objects of the others.

An object whose writing took more than one try, or long, may have replaced a newer one of somebody else: its line is
written once more, and readers look again.
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
from catalog.journal.base import JOURNAL_FOLDER, Journal, Publication
from catalog.journal.segments import segment_name
from catalog.store import threads
from catalog.store.base import Store
from catalog.store.object_writer import LARGEST_PUT

#: How much a process submits before it has to wait: saves, and bytes that are held for them.
MOST_SAVES, MOST_BYTES = 256, 64 << 20
_LONG = 60.0  # seconds from a line to its object, after which the line is written once more
_LINES = 2_000  # in a segment at most

_journals: dict[Store, ObjectJournal] = {}
_lock = threading.Lock()


def object_journal(store: Store) -> ObjectJournal:
    """Return this process's journal for a storage of objects, the same one for every caller."""
    with _lock:
        if store not in _journals:
            _journals[store] = ObjectJournal(store)
        return _journals[store]


@dataclass(eq=False)
class _Pending:
    """A publication that is under way.

    Attributes
    ----------
    publication : Publication
        The event.
    is_published : bool
        Whether nothing is left to do but to write its line.
    done : Future
        Has a result, or an exception, when it is over.
    """

    publication: Publication
    is_published: bool
    done: Future[None] = field(default_factory=Future)

    @property
    def key(self) -> str:
        return self.publication.key

    @property
    def size(self) -> int:
        """Bytes that are held: of what is larger than one request takes, all but the end is sent before."""
        return self.publication.size if self.publication.size <= LARGEST_PUT else 0


class _Writer:
    """A row of segments."""

    def __init__(self) -> None:
        self.id = new_id()
        self.number = 0
        self.confirmed = 0
        self.left: dict[int, int] = {}  # of each segment that is not confirmed: how many are not published yet

    def confirm(self) -> None:
        """Take note of the segments of which all is published."""
        while self.confirmed < self.number and not self.left.get(self.confirmed + 1, 1):
            self.confirmed += 1
            del self.left[self.confirmed]


class ObjectJournal(Journal):
    """The segments that this process writes.

    Parameters
    ----------
    store : Store
        The storage.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._forget()

    def __reduce__(self) -> tuple[Callable[[Store], ObjectJournal], tuple[Store]]:
        return object_journal, (self._store,)

    def _forget(self) -> None:
        """Begin anew, as a forked child has to: what is under way is the parent's to do."""
        self._changed = threading.Condition()
        self._waiting: list[_Pending] = []
        self._busy: set[str] = set()  # keys of what is being published
        self._under_way: set[_Pending] = set()
        self._bytes = 0
        self._is_writing = False
        self._batches = 0  # blocks at whose end the lines of what is submitted are written
        self._writer = _Writer()
        self._failure: BaseException | None = None

    def append(self, publication: Publication) -> None:
        """Write a line and publish.

        Raises
        ------
        CatalogUnusable
            If one of both cannot be done.
        """
        pending = self._pending(publication)
        with self._changed:
            self._add(pending)
            self._start()
        pending.done.result()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Have the lines of what is submitted in one segment at the block's end; sooner if somebody waits."""
        with self._changed:
            self._batches += 1
        try:
            yield
        finally:
            with self._changed:
                self._batches = max(0, self._batches - 1)  # it may have been begun before a fork
                self._start()

    def submit(
        self, publication: Publication, failed: Callable[[BaseException], BaseException | None] = lambda error: error
    ) -> None:
        """Have threads append an event; wait only while too much is under way."""

        def note(done: Future[None]) -> None:
            error = done.exception()
            if error is not None and self._failure is None:
                self._failure = failed(error)

        pending = self._pending(publication)
        pending.done.add_done_callback(note)
        with self._changed:
            if not self._has_room(pending):
                self._start()
                self._changed.wait_for(lambda: self._has_room(pending))
            self._add(pending)
            if not self._batches:
                self._start()

    def _pending(self, publication: Publication) -> _Pending:
        self._store.prepare("")  # a storage has an identity before it has events
        return _Pending(publication, is_published=publication.publish is None)

    def _has_room(self, pending: _Pending) -> bool:
        most = MOST_BYTES - pending.size
        return not self._under_way or (len(self._under_way) < MOST_SAVES and self._bytes <= most)

    def check(self) -> None:
        """Raise what went wrong with what was submitted."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Return when nothing is under way any more of what was at the call."""
        with self._changed:
            self._start()
            awaited = self._under_way.copy()
            self._changed.wait_for(lambda: awaited.isdisjoint(self._under_way))

    def sync(self) -> None:
        """Do nothing: a segment that has appeared is durable."""

    # Writing lines

    def _add(self, pending: _Pending) -> None:
        self._waiting.append(pending)
        self._under_way.add(pending)
        self._bytes += pending.size

    def _start(self) -> None:
        if self._waiting and not self._is_writing:
            self._is_writing = True
            threads.submit(self._write_segments, "journal")

    def _write_segments(self) -> None:
        """Write segments until nothing waits whose line can be written."""
        while True:
            with self._changed:
                taken = self._take()
                if not taken:
                    self._is_writing = False
                    return
                writer = self._writer
                writer.number += 1
                number = writer.number
                writer.left[number] = sum(not pending.is_published for pending in taken)
                name = segment_name(writer.id, number, writer.confirmed)
            began = time.monotonic(), time.time()
            try:
                lines = "".join(f"{pending.publication.line}\n" for pending in taken)
                self._store.put(f"{JOURNAL_FOLDER}/{name}", lines.encode("ascii"))
            except BaseException as error:
                for pending in taken:
                    self._fail(pending, writer, error)
                continue
            for pending in taken:
                if pending.is_published:
                    self._finish(pending)
                else:
                    threads.submit(partial(self._publish, pending, writer, number, began), "publications")
            with self._changed:
                writer.confirm()

    def _take(self) -> list[_Pending]:
        taken: list[_Pending] = []
        left: list[_Pending] = []
        keys: set[str] = set()
        for pending in self._waiting:
            key = pending.key
            waits = len(taken) == _LINES or (key and (key in self._busy or key in keys))
            (left if waits else taken).append(pending)
            keys.add(key)
        self._waiting = left
        self._busy |= {pending.key for pending in taken if pending.key}
        return taken

    # Publishing

    def _publish(self, pending: _Pending, writer: _Writer, number: int, began: tuple[float, float]) -> None:
        publication = pending.publication
        assert publication.publish is not None
        try:
            again = publication.publish()
            if publication.on_success is not None:
                publication.on_success()
        except BaseException as error:
            self._fail(pending, writer, error)
            return
        with self._changed:
            writer.left[number] -= 1
            writer.confirm()
            # One clock can be set, and the other stands still while the machine sleeps.
            if again or time.monotonic() - began[0] > _LONG or abs(time.time() - began[1]) > _LONG:
                pending.is_published = True
                self._waiting.append(pending)
                self._busy.discard(pending.key)
                self._start()
                return
        self._finish(pending)

    def _finish(self, pending: _Pending, error: BaseException | None = None) -> None:
        if error is None:
            pending.done.set_result(None)
        else:
            pending.done.set_exception(error)
        with self._changed:
            self._busy.discard(pending.key)
            self._under_way.discard(pending)
            self._bytes -= pending.size
            self._start()
            self._changed.notify_all()

    def _fail(self, pending: _Pending, writer: _Writer, error: BaseException) -> None:
        """Give up a publication, and the writer, none of whose later segments may say that it is confirmed."""
        with self._changed:
            if self._writer is writer:
                self._writer = _Writer()
        if pending.publication.undo is not None and not pending.is_published:
            try:
                pending.publication.undo()
            except Exception as trouble:  # what is left is found by `verify`
                error.__context__ = trouble
        self._finish(pending, error)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for journal in _journals.values():
        journal._forget()


os.register_at_fork(after_in_child=_after_fork)
