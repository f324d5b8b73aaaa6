"""How segments go whose events are in a Parquet file: moved out of the journal on a disk, deleted in a bucket.

On a disk a segment is first moved out of the journal's folder: a writer that wakes up again looks after every line
whether its segment is still there, and else writes the line again. Then what came to the segment before it was moved is
appended to the journal anew, and the moved one deleted. A compactor that is killed leaves moved segments; those are
read like any other, until the next one takes them through that step.

In a bucket segments never change. Closed ones are taken as they are; of open ones, those of writers that have been
silent for long, what the index says to be pending is left out. A compactor that is killed leaves both, and the next one
deletes what is compacted already.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from catalog.journal import parquet
from catalog.journal.append import PAUSE
from catalog.journal.base import JOURNAL_FOLDER, RETIRED_FOLDER
from catalog.journal.lines import Part
from catalog.journal.parquet import CompactedSegment
from catalog.journal.segments import Segment, State
from catalog.journal.view import StorageView
from catalog.store.objects import UNDER_WAY

if TYPE_CHECKING:
    import pyarrow as pa

#: Seconds after which an event that did not come true is taken to be given up: ten times as long as a writer tries. One
#: who was slower writes its line once more.
GIVEN_UP = 600.0
_IDLE = 2 * PAUSE  # seconds: a writer whose clock or view of the folder lags behind still has left its segment
_LEFT_BEHIND = 86_400.0  # seconds after which nobody is writing what is half written: the largest save is sent in a day

_compacted: dict[tuple[str, str], list[CompactedSegment]] = {}  # by URL and name: what a Parquet object holds


class FoldedJournal(Protocol):
    """What an index knows of the journal, and how it parses it."""

    def parsed(self, part: Part) -> pa.Table:
        """Return the events of lines as rows of a compacted file."""

    def folded(self) -> set[str]:
        """Return the names of the segments that are folded."""

    def pending_ids(self) -> set[str]:
        """Return the ids of the events that are not confirmed."""


class MoveSegments:
    """Retires the segments of a disk.

    Parameters
    ----------
    storage : StorageView
        The storage.
    """

    def __init__(self, storage: StorageView) -> None:
        self._storage = storage
        self._store = storage.store

    def ready(self, segments: list[Segment]) -> list[Segment]:
        """Return the segments that nobody appends to any more."""
        now = self._storage.now()
        return [each for each in segments if now - each.modified > _IDLE]

    def without_compacted(self, segments: list[Segment]) -> list[Segment]:
        """Return all: what is compacted twice is counted once."""
        return segments

    def retire(self, segments: list[CompactedSegment]) -> None:
        """Move segments away and delete them."""
        for each in segments:
            with suppress(FileNotFoundError):  # another compactor was quicker
                self._store.move_all(f"{JOURNAL_FOLDER}/{each.name}", f"{RETIRED_FOLDER}/{each.name}")
                self._delete(each.name, each.position)

    def _delete(self, name: str, position: int) -> None:
        """Delete a retired segment, of which the first `position` bytes are compacted."""
        key = f"{RETIRED_FOLDER}/{name}"
        with self._store.open(key) as file:
            late = file.read(position, max(0, file.size - position)).decode("ascii", "ignore").splitlines()
        if late:
            self._storage.append(late)
        self._store.delete(key)

    def finish(self) -> None:
        """Delete what a killed compactor moved; what is in no Parquet file moves back."""
        retired = [each.name for each in self._storage.segments() if each.key.startswith(f"{RETIRED_FOLDER}/")]
        positions = self._positions() if retired else {}
        for name in retired:
            with suppress(FileNotFoundError):
                if name in positions:
                    self._delete(name, positions[name])
                else:
                    self._store.move_all(f"{RETIRED_FOLDER}/{name}", f"{JOURNAL_FOLDER}/{name}")

    def _positions(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in self._storage.compacted():
            with suppress(FileNotFoundError), self._storage.open_compacted(name) as file:
                found |= {each.name: each.position for each in parquet.segments(file)}
        return found


class DeleteSegments:
    """Retires the segments of a bucket.

    Parameters
    ----------
    storage : StorageView
        The storage.
    index : FoldedJournal
        Tells which segments it knows.
    """

    def __init__(self, storage: StorageView, index: FoldedJournal) -> None:
        self._index = index
        self._storage = storage

    def ready(self, segments: list[Segment]) -> list[Segment]:
        """Return what is confirmed: segments that are closed, and old ones whose pending events this index knows."""
        oldest = self._storage.now() - GIVEN_UP
        folded = self._index.folded()
        return [
            each
            for each in segments
            if each.state is State.CLOSED or (each.name in folded and 0 < each.modified < oldest)  # 0 is unknown
        ]

    def without_compacted(self, segments: list[Segment]) -> list[Segment]:
        """Delete the segments that are in a Parquet object already, and return the others."""
        compacted = self._compacted()
        self._storage.delete([each.name for each in segments if each.name in compacted])
        return [each for each in segments if each.name not in compacted]

    def _compacted(self) -> set[str]:
        names = set()
        for name in self._storage.compacted():
            key = (self._storage.root, name)
            if key not in _compacted:
                with suppress(FileNotFoundError), self._storage.open_compacted(name) as file:
                    _compacted[key] = parquet.segments(file)
            names |= {each.name for each in _compacted.get(key, ())}
        return names

    def retire(self, segments: list[CompactedSegment]) -> None:
        """Delete segments."""
        self._storage.delete([each.name for each in segments])

    def finish(self) -> None:
        """Delete what killed writers began beside its place and never put there."""
        oldest = self._storage.now() - _LEFT_BEHIND
        for entry in self._storage.files(UNDER_WAY.rstrip("/")):
            if 0 < entry.modified < oldest:
                with suppress(OSError):  # such as a refusal: it is in nobody's way
                    self._storage.store.delete(entry.key)
