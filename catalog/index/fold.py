"""Folding: what the journal and the folders say that the index does not know yet.

The journal's segments are read from their watermarks to the last newline, its
compacted parts once. What is unconfirmed is reconciled with the blobs (`catalog.index.reconcile`).
What only the blobs know is appended to the journal first, where that can be written,
so that every event has its place in a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from catalog.index.history import History
from catalog.index.reconcile import ROUNDS, Blobs
from catalog.index.small_tables import SmallTables
from catalog.journal import parquet as compacted
from catalog.journal.lines import Part
from catalog.journal.segments import Segment, State
from catalog.journal.view import StorageView
from catalog.store.blobs import StoredBlob

if TYPE_CHECKING:
    import duckdb

_TOGETHER, _BYTES = 200_000, 128 << 20  # lines that are folded at once: bounds the memory of a first fold
_PATIENCE = 100  # times that compaction may move what is being read


@dataclass(frozen=True)
class Refreshed:
    """What one refresh did.

    Attributes
    ----------
    events : int
        Events that were new.
    torn : int
        Lines of the journal, over its whole length, that are no events: torn by a crash, or damaged.
    """

    events: int
    torn: int


class Fold:
    """One refresh of an index that is attached as `INDEX`, inside a transaction.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The instance to which the index is attached.
    tables : SmallTables
        What is known of the index's small tables.
    view : StorageView
        The storage.
    reads_only : bool
        Whether the index is attached read-only: DuckDB then refuses to fold what is new.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, tables: SmallTables, view: StorageView, reads_only: bool = False
    ) -> None:
        self._history = History(connection, tables, reads_only, not view.store.is_local)
        self._view = view
        self._blobs = Blobs(self._history, view, self._append)
        self._competing: list[tuple[str, str]] = []
        self._listed: set[str] = set()  # segments
        self._given_up: set[str] = set()  # segments that were compacted without what is pending in them

    def refresh(self) -> Refreshed:
        """Fold in all that is new."""
        unended = self._fold_journal()
        self._blobs.reconcile_pending(self._listed)
        self._reconcile_competing()
        self._blobs.scan_folders()
        self._reconcile_competing()
        self._give_up()
        torn = sum(torn for _, _, _, torn in self._history.all_of("segments"))
        return Refreshed(self._history.added, int(torn) + unended)

    def reconcile(self, names: Iterable[tuple[str, str]]) -> None:
        """Read the footers of names, whatever is known of them, and believe them."""
        self._blobs.reconcile(names)
        self._reconcile_competing()

    def _reconcile_competing(self) -> None:
        for _ in range(ROUNDS):
            if not self._competing:
                return
            names, self._competing = self._competing, []
            self._blobs.reconcile(names)  # what the blobs say may compete again
        names, self._competing = self._competing, []
        self._blobs.reconcile_known(names)

    def _give_up(self) -> None:
        """Forget what did not come true before its segment was compacted, as whoever folds only that never knows it."""
        while self._given_up:  # what is compacted meanwhile may hold more of it
            segments, self._given_up = self._given_up, set()
            self._blobs.reconcile(self._history.pending_in(segments))
            self._reconcile_competing()
            self._history.give_up(segments)

    # Journal

    def _fold_journal(self) -> int:
        """Fold what is new in the journal; return the number of segments that end within a line."""
        for _ in range(_PATIENCE):
            with suppress(FileNotFoundError):  # what was listed is compacted by now
                return self._fold_listed()
        return self._fold_listed()

    def _fold_listed(self) -> int:
        segments = self._view.segments()
        self._listed = {segment.name for segment in segments}
        self._fold_compacted(self._view.compacted())
        self._competing += self._history.close(each.name for each in segments if each.state is State.CLOSED)
        parts: list[tuple[Segment, Part]] = []
        lines = size = 0
        for segment, part in self._new_parts(segments):
            parts.append((segment, part))
            lines += part.count
            size += len(part.data)
            if lines >= _TOGETHER or size >= _BYTES:
                self._fold_parts(parts)
                parts = []
                lines = size = 0
        if parts:
            self._fold_parts(parts)
        ends = {name: position for name, position, _, _ in self._history.all_of("segments")}
        return sum(segment.size > ends.get(segment.name, 0) for segment in segments)

    def _new_parts(self, segments: list[Segment]) -> Iterator[tuple[Segment, Part]]:
        known = {name: (position, lines) for name, position, lines, _ in self._history.all_of("segments")}
        new = [(each, known.get(each.name, (0, 0))[0]) for each in segments]
        counts = {name: lines for name, (_, lines) in known.items()}
        for segment, data, end in self._view.read(each for each in new if each[0].size > each[1]):
            part = Part(segment.name, data, counts.get(segment.name, 0), end)
            counts[segment.name] = part.known + part.count
            yield segment, part

    def _fold_parts(self, parts: list[tuple[Segment, Part]]) -> None:
        """Fold lines of several segments at once: what a statement costs hardly depends on how many they are."""
        growing = {segment.name for segment, _ in parts if segment.state is State.GROWING}
        opened = {segment.name for segment, _ in parts if segment.state is State.OPEN}
        self._take([part for _, part in parts], growing, opened)

    def _take(self, parts: list[Part], growing: Iterable[str], opened: Iterable[str] = ()) -> None:
        torn = self._history.batch_of_lines(parts)
        last = {part.segment: part for part in parts}
        self._competing += self._history.take(growing, opened)
        moved = [(name, part.end, part.known + part.count, torn[name]) for name, part in last.items()]
        self._history.move_watermarks(moved)

    def _fold_compacted(self, files: Iterable[str]) -> None:
        known = {name for (name,) in self._history.all_of("compacted")}
        for file in files:
            if file not in known:
                self._fold_file(file)
                self._history.write("compacted", "INSERT INTO compacted VALUES (?)", file)

    def _fold_file(self, name: str) -> None:
        with self._view.open_compacted(name) as file:
            watermarks = {name: position for name, position, _, _ in self._history.all_of("segments")}
            segments = compacted.segments(file)
            new = [each for each in segments if each.position > watermarks.get(each.name, 0)]
            names = {each.name for each in segments}
            if not self._view.store.is_local and self._history.pending_in(names):
                self._given_up |= names
                for table in compacted.tables(file):
                    self._competing += self._history.confirm(table)
            for table in compacted.tables(file) if new else ():
                self._history.batch_of_table(table)
                here = set(table["segment"].unique().to_pylist())  # what ended in another table does not grow
                growing = [] if not self._view.store.is_local else [each.name for each in new if each.name in here]
                self._competing += self._history.take(growing)
        self._history.forget_watermarks([each.name for each in new])  # torn lines that are known are counted again
        self._history.move_watermarks([astuple(each) for each in new])

    # Blobs

    def _append(self, found: Iterable[StoredBlob]) -> bool:
        """Take saves that only the blobs know into journal and history; return whether the journal had news."""
        unknown = self._unknown(found)
        if not unknown:
            return False
        added = self._history.added
        self._fold_journal()  # a line is written before its blob appears, but perhaps after the journal was read
        news = self._history.added > added
        unknown = self._unknown(unknown)
        if unknown and self._written(unknown):
            self._fold_journal()
        elif unknown:
            self._keep(unknown)
        return news

    def _written(self, found: list[StoredBlob]) -> bool:
        with suppress(OSError):  # a full disk, say
            if self._view.is_writable() and not self._history.reads_only:
                self._view.append(each.line for each in found)
                return True
        return False

    def _unknown(self, found: Iterable[StoredBlob]) -> list[StoredBlob]:
        each_once = {each.event_id: each for each in found}
        known = self._history.knows(each_once)
        return [each for event_id, each in each_once.items() if event_id not in known]

    def _keep(self, found: list[StoredBlob]) -> None:
        """Keep in a segment of this index's own what cannot be appended to the journal."""
        segment = f"index-{self._history.all_of('meta')[0][2]}"
        known = {name: lines for name, _, lines, _ in self._history.all_of("segments")}
        lines = "\n".join(each.line for each in found).encode("ascii")
        self._take([Part(segment, lines, known.get(segment, 0), 0)], [segment])
