"""Folding: what the journal and the folders say that the index does not know yet.

The journal's segments are read from their watermarks to the last newline, its
compacted parts once. What leaves a doubt is settled by the blobs (`catalog.index.reconcile`).
What only the blobs tell is told to the journal first, where that can be written,
so that every event has its place in a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from catalog.index.history import History
from catalog.index.reconcile import ROUNDS, Blobs
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
    view : StorageView
        The storage.
    reads_only : bool
        Whether the index is attached read-only: DuckDB then refuses to fold what is new.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, view: StorageView, reads_only: bool = False) -> None:
        self._history = History(connection, reads_only, not view.store.is_local)
        self._view = view
        self._blobs = Blobs(self._history, view, self._tell)
        self._competing: list[tuple[str, str]] = []
        self._listed: set[str] = set()  # segments
        self._given_up: set[str] = set()  # segments that were compacted without what is pending in them

    def refresh(self) -> Refreshed:
        """Fold in all that is new."""
        unended = self._fold_journal()
        self._blobs.settle_doubtful(self._listed)
        self._settle_competing()
        self._blobs.look_through_folders()
        self._settle_competing()
        self._give_up()
        torn = self._history.rows("SELECT coalesce(sum(torn), 0) FROM segments")[0][0]
        return Refreshed(self._history.added, int(torn) + unended)

    def settle(self, names: Iterable[tuple[str, str]]) -> None:
        """Look at the blobs of names, whatever is known of them, and believe them."""
        self._blobs.settle(names)
        self._settle_competing()

    def _settle_competing(self) -> None:
        for _ in range(ROUNDS):
            if not self._competing:
                return
            names, self._competing = self._competing, []
            self._blobs.settle(names)  # what the blobs tell may compete again
        names, self._competing = self._competing, []
        self._blobs.settle_known(names)

    def _give_up(self) -> None:
        """Forget what did not come true before its segment was compacted, as whoever folds only that never knows it."""
        while self._given_up:  # what is compacted meanwhile may hold more of it
            segments, self._given_up = self._given_up, set()
            self._blobs.settle(self._history.pending_in(segments))
            self._settle_competing()
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
        ends = dict(self._history.rows("SELECT name, position FROM segments"))
        return sum(segment.size > ends.get(segment.name, 0) for segment in segments)

    def _new_parts(self, segments: list[Segment]) -> Iterator[tuple[Segment, Part]]:
        rows = self._history.rows("SELECT name, position, lines FROM segments")
        known = {name: (position, lines) for name, position, lines in rows}
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
        known = {name for (name,) in self._history.rows("SELECT name FROM compacted")}
        for file in files:
            if file not in known:
                self._fold_file(file)
                self._history.run("INSERT INTO compacted VALUES (?)", file)

    def _fold_file(self, name: str) -> None:
        with self._view.open_compacted(name) as file:
            watermarks = dict(self._history.rows("SELECT name, position FROM segments"))
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

    def _tell(self, found: Iterable[StoredBlob]) -> bool:
        """Take saves of which only the blobs tell into journal and history; return whether the journal had news."""
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
        """Keep in a segment of this index's own what the journal cannot be told."""
        segment = f"index-{self._history.rows('SELECT index_id FROM meta')[0][0]}"
        rows = self._history.rows("SELECT lines FROM segments WHERE name = ?", segment)
        lines = "\n".join(each.line for each in found).encode("ascii")
        self._take([Part(segment, lines, rows[0][0] if rows else 0, 0)], [segment])
