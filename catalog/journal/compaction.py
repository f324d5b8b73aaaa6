"""Compaction: segments to which nobody appends any more become a Parquet file; safe to be killed at every step.

1. The lines of idle segments are written to a Parquet file, which is flushed to the disk and appears by a rename.
   From then on both hold the same events, which are a set: whoever reads both counts none twice.
2. Each segment is moved out of the journal's folder. A writer that wakes up again looks after every line whether its
   segment is still there, and else writes the line again.
3. What came to the segment before it was moved is appended to this process's own segment, and the moved one deleted.

A compactor that is killed leaves a temporary, or moved segments; those are read like any other, until the next one
takes them through step 3. Two compactors at once write the same events twice. Small Parquet files are merged the same
way: the new one appears before the old ones go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER
from catalog.journal import parquet as compacted
from catalog.journal.append import FULL, PAUSE, RETIRED_FOLDER, append_all
from catalog.journal.base import JOURNAL_FOLDER
from catalog.journal.lines import Part
from catalog.store import clock, regular
from catalog.store.folder import COMPACTED_SUFFIX, Segment
from catalog.store.sync import sync_path

if TYPE_CHECKING:
    import pyarrow as pa

    from catalog.store.local_folder import LocalFolder

_IDLE = 2 * PAUSE  # seconds: a writer whose clock or view of the folder lags behind still has left its segment
_MANY = 64  # segments, or Parquet files, that are worth to be made one
_LARGE = 64 << 20  # bytes of a Parquet file that is left as it is
_GROUP = 100_000  # rows that are written at once
_CHUNK = 1 << 24  # bytes of a segment that are read at once


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


class FoldedJournal(Protocol):
    """What an index knows of the journal, and how it parses it."""

    def parsed(self, part: Part) -> pa.Table:
        """Return the events of lines as rows of a compacted file."""

    def folded(self) -> set[str]:
        """Return the names of the segments that are folded."""

    def pending_ids(self) -> set[str]:
        """Return the ids of the events that are not confirmed."""


class Compaction:
    """One compaction of a storage's journal.

    Parameters
    ----------
    index : FoldedJournal
        Parses the lines.
    folder : LocalFolder
        The storage.
    """

    def __init__(self, index: FoldedJournal, folder: LocalFolder) -> None:
        self._index = index
        self._folder = folder
        self._journal = f"{folder.root}/{JOURNAL_FOLDER}"
        self._retired = f"{folder.root}/{RETIRED_FOLDER}"

    def pays(self) -> bool:
        """Tell whether there is enough to do; looks at names and sizes only."""
        segments = self._folder.segments()
        return _are_enough(segments) and _are_enough(self._idle_of(segments))

    def some(self) -> None:
        """Compact about as much as one full segment: a question has to wait for it."""
        self._compact(first_segments(self._idle(), FULL))
        small = self._folder.compacted()
        if len(small) >= _MANY:
            self._merge(sorted(small, key=self._size)[: _MANY // 2])

    def all(self) -> Compacted:
        """Compact all that is idle into one file."""
        before = self._bytes()
        idle = self._idle()
        events = self._compact(idle)
        small = [name for name in self._folder.compacted() if self._size(name) < _LARGE]
        if len(small) > 1:
            self._merge(small)
        return Compacted(len(idle), events, before, self._bytes(), len(self._folder.segments()))

    def _size(self, name: str) -> int:
        with suppress(FileNotFoundError):
            return os.path.getsize(f"{self._journal}/{name}")
        return 0

    def _bytes(self) -> int:
        return sum(each.size for each in self._folder.segments()) + sum(map(self._size, self._folder.compacted()))

    def _idle(self) -> list[Segment]:
        self._finish()
        return self._idle_of(self._folder.segments())

    def _idle_of(self, segments: list[Segment]) -> list[Segment]:
        now = clock.now_ns(self._folder.root)
        return [each for each in segments if now - each.mtime_ns > _IDLE * 1e9]

    # Segments

    def _compact(self, segments: list[Segment]) -> int:
        whole: list[compacted.Whole] = []
        with _Output(self._folder.root) as output:
            for segment in segments:
                with suppress(FileNotFoundError):  # another compactor has moved it
                    whole.append(self._copy(segment, output))
            if not whole:
                return 0
            output.publish(whole)
        regular.make_folders(self._folder.root, RETIRED_FOLDER)
        for each in whole:
            with suppress(FileNotFoundError):  # another compactor was quicker
                os.rename(f"{self._journal}/{each.name}", f"{self._retired}/{each.name}")
                self._delete(each.name, each.position)
        return output.rows

    def _copy(self, segment: Segment, output: _Output) -> compacted.Whole:
        position = lines = rows = 0
        for data, end in self._folder.lines(segment, 0, _CHUNK):
            part = Part(segment.name, data, lines, end)
            table = self._index.parsed(part)
            output.add(table)
            position, lines, rows = end, lines + part.count, rows + table.num_rows
        if position < segment.size:  # a torn line without an end
            lines += 1
        return compacted.Whole(segment.name, max(position, segment.size), lines, lines - rows)

    def _delete(self, name: str, position: int) -> None:
        """Delete a retired segment, of which the first `position` bytes are compacted."""
        path = f"{self._retired}/{name}"
        with open(path, "rb", opener=regular.open_file) as file:
            file.seek(position)
            late = file.read().decode("ascii", "ignore").splitlines()
        if late:
            append_all(self._folder.root, late)
        os.unlink(path)

    def _finish(self) -> None:
        """Delete what a killed compactor moved; what is in no Parquet file moves back."""
        retired = [each.name for each in self._folder.segments() if os.path.dirname(each.path) == self._retired]
        positions = self._positions() if retired else {}
        for name in retired:
            with suppress(FileNotFoundError):
                if name in positions:
                    self._delete(name, positions[name])
                else:
                    os.rename(f"{self._retired}/{name}", f"{self._journal}/{name}")

    def _positions(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in self._folder.compacted():
            with suppress(FileNotFoundError), self._folder.open_compacted(name) as file:
                found |= {each.name: each.position for each in compacted.segments(file)}
        return found

    # Parquet files

    def _merge(self, names: list[str]) -> None:
        with _Output(self._folder.root) as output:
            found, whole = merge(names, self._folder.open_compacted, output.add)
            if len(found) < 2:
                return
            output.publish(whole)
        for name in found:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._journal}/{name}")


def merge(
    names: Iterable[str], opened: Callable[[str], IO[bytes]], add: Callable[[pa.Table], None]
) -> tuple[list[str], list[compacted.Whole]]:
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
    tuple of (list of str, list of Whole)
        The files that were there, and the segments that they hold.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    whole: dict[str, compacted.Whole] = {}
    found: list[str] = []
    for name in names:
        with suppress(FileNotFoundError), opened(name) as file:
            new = [each for each in compacted.segments(file) if not _holds(whole, each)]
            for table in compacted.tables(file) if new else ():
                add(table.filter(pc.is_in(table["segment"], pa.array([each.name for each in new]))))
            whole |= {each.name: each for each in new}
            found.append(name)
    return found, list(whole.values())


class _Output:
    """A Parquet file that appears when it is complete."""

    def __init__(self, root: str) -> None:
        folder = f"{CATALOG_FOLDER}/tmp"
        regular.make_folders(root, folder)
        name = new_id()
        self._temporary = f"{root}/{folder}/{name}"
        self._folder = f"{root}/{JOURNAL_FOLDER}"
        self._path = f"{self._folder}/{name}{COMPACTED_SUFFIX}"
        self._tables: list[pa.Table] = []
        self._gathered = 0
        self._writer: compacted.Writer | None = None
        self.rows = 0
        self.file = open(self._temporary, "xb")  # noqa: SIM115 - closed by __exit__

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self.rows += table.num_rows
        self._gathered += table.num_rows
        if self._gathered >= _GROUP:
            self._write()

    def publish(self, segments: list[compacted.Whole]) -> None:
        self._write()
        assert self._writer is not None
        self._writer.close(segments)
        self.file.flush()
        os.fsync(self.file.fileno())  # the segments are deleted next
        os.rename(self._temporary, self._path)
        sync_path(self._folder)

    def _write(self) -> None:
        import pyarrow as pa

        if self._writer is None:
            self._writer = compacted.Writer(self.file)
        if self._tables:
            self._writer.write(pa.concat_tables(self._tables))
        self._tables = []
        self._gathered = 0

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)


def _holds(whole: dict[str, compacted.Whole], segment: compacted.Whole) -> bool:
    return segment.name in whole and whole[segment.name].position >= segment.position


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
