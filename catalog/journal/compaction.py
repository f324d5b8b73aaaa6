"""Compaction: segments to which nobody appends any more become a Parquet file; safe to be killed at every step.

1. The events of segments are written to a Parquet file, which appears as a whole. From then on both hold the same
   events, which are a set: whoever reads both counts none twice. Its name is greater than theirs: a listing of a bucket
   in several pages that misses a segment, since it was deleted meanwhile, lists the file on a later page.
2. The segments are retired (`catalog.journal.retiring`): on a disk, where a writer may wake up again, they are moved
   and looked at once more; in a bucket, where they never change, they are deleted.

Two compactors at once write the same events twice. Small Parquet files are merged the same way: the new one appears
before the old ones go. No step needs a lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from catalog.format.ids import new_id
from catalog.journal import parquet
from catalog.journal.append import FULL
from catalog.journal.base import JOURNAL_FOLDER
from catalog.journal.lines import Part
from catalog.journal.parquet import CompactedSegment
from catalog.journal.retiring import DeleteSegments, FoldedJournal, MoveSegments
from catalog.journal.segments import COMPACTED_SUFFIX, Segment, State
from catalog.journal.view import StorageView

if TYPE_CHECKING:
    import pyarrow as pa

_MANY = 64  # segments, or Parquet files, that are worth to be made one
_MOST = 1_000  # segments that are taken at once: as many as one listing of a bucket has
_LARGE = 64 << 20  # bytes of a Parquet file that is left as it is
_GROUP = 100_000  # rows that are written at once
_BUFFER = 1 << 20  # bytes that are written at once

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # other names somebody else gave


@dataclass(frozen=True)
class Compacted:
    """What one compaction did.

    Attributes
    ----------
    segments : int
        Segments that became part of a Parquet file.
    events : int
        Events that they held.
    bytes_before, bytes_after : int
        The journal's size.
    fresh : int
        Segments that were left, because somebody may still append to them: written to in the last two minutes.
    """

    segments: int
    events: int
    bytes_before: int
    bytes_after: int
    fresh: int


class Compaction:
    """One compaction of a storage's journal.

    Parameters
    ----------
    index : FoldedJournal
        Up to date.
    storage : StorageView
        The storage.
    """

    def __init__(self, index: FoldedJournal, storage: StorageView) -> None:
        self._index = index
        self._storage = storage
        self._retire = MoveSegments(storage) if storage.store.is_local else DeleteSegments(storage, index)

    def is_due(self) -> bool:
        """Tell whether there is enough to do; looks at names and sizes only."""
        segments = self._storage.segments(is_listed=True)
        return _are_enough(segments) and _are_enough(self._retire.ready(segments))

    def compact_some(self) -> None:
        """Compact about as much as one full segment: a question has to wait for it."""
        self._retire.finish()
        self._compact(first_segments(self._retire.ready(self._storage.segments(is_listed=True))[:_MOST], FULL))
        small = self._storage.compacted()
        if len(small) >= _MANY:
            self._merge(sorted(small, key=small.__getitem__)[: _MANY // 2])

    def compact_all(self) -> Compacted:
        """Compact all that is ready."""
        before = self._size(self._storage.segments())
        self._retire.finish()
        events = 0
        done: set[str] = set()  # what another compactor is retiring is listed once more
        while ready := [each for each in self._retire.ready(self._storage.segments()) if each.name not in done][:_MOST]:
            events += self._compact(ready)
            done |= {each.name for each in ready}
        small = [name for name, size in self._storage.compacted().items() if size < _LARGE]
        if len(small) > 1:
            self._merge(small)
        left = self._storage.segments()
        return Compacted(len(done), events, before, self._size(left), len(left))

    def _size(self, segments: list[Segment]) -> int:
        return sum(each.size for each in segments) + sum(self._storage.compacted().values())

    def _compact(self, segments: list[Segment]) -> int:
        segments = self._retire.without_compacted(segments)
        pending = self._index.pending_ids()
        done: list[CompactedSegment] = []
        with _Output(self._storage, [each.name for each in segments]) as output:
            for segment, content in zip(
                segments, self._storage.contents([(each, 0) for each in segments]), strict=True
            ):
                if content is not None:  # else another compactor has retired it
                    done.append(self._copy(segment, content, output, pending if segment.state is State.OPEN else ()))
            if not done:
                return 0
            output.publish(done)
        self._retire.retire(done)
        return output.rows

    def _copy(
        self, segment: Segment, content: Iterable[tuple[bytes, int]], output: _Output, pending: Collection[str]
    ) -> CompactedSegment:
        position = lines = rows = 0
        for data, end in content:
            part = Part(segment.name, data, lines, end)
            table = self._index.parsed(part)
            output.add(parquet.without(table, pending))
            position, lines, rows = end, lines + part.count, rows + table.num_rows
        if position < segment.size:  # a torn line without an end
            lines += 1
        return CompactedSegment(segment.name, max(position, segment.size), lines, lines - rows)

    def _merge(self, names: list[str]) -> None:
        with _Output(self._storage, names) as output:
            found, segments = merge(names, self._storage.open_compacted, output.add)
            if len(found) < 2:
                return
            output.publish(segments)
        self._storage.delete(found)


def merge(
    names: Iterable[str], opened: Callable[[str], IO[bytes]], add: Callable[[pa.Table], None]
) -> tuple[list[str], list[CompactedSegment]]:
    """Hand on the rows of several compacted files, those of each segment once.

    Parameters
    ----------
    names : iterable of str
        The files.
    opened : callable
        Opens one; `FileNotFoundError` where another compactor has merged it already.
    add : callable
        Takes rows.

    Returns
    -------
    tuple of (list of str, list of CompactedSegment)
        The files that were there, and the segments that they hold.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    segments: dict[str, CompactedSegment] = {}
    found: list[str] = []
    for name in names:
        with suppress(FileNotFoundError), opened(name) as file:
            new = [each for each in parquet.segments(file) if not _holds(segments, each)]
            for table in parquet.tables(file) if new else ():
                add(table.filter(pc.is_in(table["segment"], pa.array([each.name for each in new]))))
            segments |= {each.name: each for each in new}
            found.append(name)
    return found, list(segments.values())


class _Output:
    """A Parquet file that appears when it is complete.

    Parameters
    ----------
    storage : StorageView
        Where.
    replaced : list of str
        The names of the files that it takes the place of; its own is greater.
    """

    closed = False  # as files say it

    def __init__(self, storage: StorageView, replaced: list[str]) -> None:
        ids = (name.partition(".")[0] for name in replaced)
        last = max(filter(_UUID.fullmatch, ids), default=None)
        self._storage = storage
        self._file = storage.store.writer(f"{JOURNAL_FOLDER}/{new_id(last)}{COMPACTED_SUFFIX}")
        self._buffer = bytearray()
        self._tables: list[pa.Table] = []
        self._gathered = 0
        self._writer: parquet.Writer | None = None
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        self._tables.append(table)
        self.rows += table.num_rows
        self._gathered += table.num_rows
        if self._gathered >= _GROUP:
            self._write_group()

    def publish(self, segments: list[CompactedSegment]) -> None:
        """Let it appear, durably: the segments are retired next."""
        self._write_group()
        assert self._writer is not None
        self._writer.close(segments)
        self.flush()
        self._file.sync()
        self._file.close()
        with self._storage.noting_refusals():
            self._file.publish()
        self._storage.store.sync(JOURNAL_FOLDER)

    def _write_group(self) -> None:
        if self._writer is None:
            self._writer = parquet.Writer(self)
        if self._tables:
            self._writer.write(parquet.joined(self._tables))
        self._tables = []
        self._gathered = 0

    # As the file that Arrow writes to

    def write(self, data: bytes) -> int:
        """Take bytes; none any more that Arrow writes where it is given up."""
        self._buffer += data
        if len(self._buffer) >= _BUFFER and not self.closed:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Hand on what was taken."""
        data, self._buffer = self._buffer, bytearray()
        if data and not self.closed:
            self._file.write([memoryview(data)])

    def __enter__(self) -> _Output:
        try:
            self._file.open()
        except BaseException:
            self._file.discard()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        self._file.discard()


def _holds(segments: dict[str, CompactedSegment], segment: CompactedSegment) -> bool:
    return segment.name in segments and segments[segment.name].position >= segment.position


def _are_enough(segments: list[Segment]) -> bool:
    return len(segments) >= _MANY or sum(each.size for each in segments) >= FULL


def first_segments(segments: Iterable[Segment], most: int) -> list[Segment]:
    """Return the first segments, at least one, up to about `most` bytes."""
    taken: list[Segment] = []
    for segment in segments:
        if taken and sum(each.size for each in taken) + segment.size > most:
            break
        taken.append(segment)
    return taken
