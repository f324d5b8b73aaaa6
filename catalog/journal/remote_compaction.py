"""Compaction of a remote journal: many small segments become one Parquet object.

1. The Parquet object appears, which names the segments whose events it holds. Its
   name is greater than theirs: a listing in several pages that misses a segment,
   since it was deleted meanwhile, lists this object on a later page.
2. The segments are deleted. Who has listed one and finds it gone lists anew.

Closed segments are taken as they are; of open ones, those of writers who have
been silent for long, what the index says to be pending is left out. A compactor
that is killed leaves both, and the next one deletes what is held already. Two at
once write the same events twice, which are a set. No step needs a lock.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from catalog.format.ids import new_id
from catalog.journal import parquet as compacted
from catalog.journal.append import FULL
from catalog.journal.compaction import Compacted, FoldedJournal, first_segments, merge
from catalog.journal.lines import Part
from catalog.store.folder import COMPACTED_SUFFIX, Segment

if TYPE_CHECKING:
    import pyarrow as pa

    from catalog.store.remote_folder import RemoteFolder

#: Seconds after which an event that did not come true is taken to be given up: ten times as long as a writer tries. One
#: who was slower tells again.
GIVEN_UP = 600.0
_MANY = 64  # segments, or Parquet objects, that are worth to be made one
_MOST = 1_000  # segments that are taken at once: as many as one listing has
_LARGE = 64 << 20  # bytes of a Parquet object that is left as it is

_held: dict[tuple[str, str], list[compacted.Whole]] = {}  # by URL and name: what a Parquet object holds


class RemoteCompaction:
    """One compaction of a remote journal.

    Parameters
    ----------
    index : FoldedJournal
        Up to date.
    folder : RemoteFolder
        The storage.
    """

    def __init__(self, index: FoldedJournal, folder: RemoteFolder) -> None:
        self._index = index
        self._folder = folder

    def pays(self) -> bool:
        """Tell whether there is enough to do."""
        ready = self._ready(self._folder.listed())
        return len(ready) >= _MANY or sum(each.size for each in ready) >= FULL

    def some(self) -> None:
        """Compact as much as a question can wait for."""
        self._folder.delete_leftovers()
        self._compact(first_segments(self._ready(self._folder.listed())[:_MOST], FULL))
        small = self._folder.compacted()
        if len(small) >= _MANY:
            self._merge(sorted(small, key=self._folder.size_of)[: _MANY // 2])

    def all(self) -> Compacted:
        """Compact all that is ready."""
        self._folder.delete_leftovers()
        before = self._bytes()
        segments = events = 0
        while ready := self._ready(self._folder.segments())[:_MOST]:
            events += self._compact(ready)
            segments += len(ready)
        small = [name for name in self._folder.compacted() if self._folder.size_of(name) < _LARGE]
        if len(small) > 1:
            self._merge(small)
        return Compacted(segments, events, before, self._bytes(), len(self._folder.segments()))

    def _ready(self, segments: list[Segment]) -> list[Segment]:
        """Return what is settled: segments that are closed, and old ones whose doubts this index knows."""
        oldest = (self._folder.now - GIVEN_UP) * 1e9
        folded = self._index.folded()
        old = [each.name in folded and 0 < each.mtime_ns < oldest for each in segments]  # 0 is an unknown time
        return [each for each, is_old in zip(segments, old, strict=True) if each.state == "closed" or is_old]

    def _bytes(self) -> int:
        segments = sum(each.size for each in self._folder.segments())
        return segments + sum(map(self._folder.size_of, self._folder.compacted()))

    def _compact(self, segments: list[Segment]) -> int:
        held = self._held()
        self._folder.delete([each.name for each in segments if each.name in held])
        new = [each for each in segments if each.name not in held]
        pending = self._index.pending_ids()
        whole: list[compacted.Whole] = []
        tables: list[pa.Table] = []
        for segment, data, end in self._there(new):
            part = Part(segment.name, data, 0, end)
            table = self._index.parsed(part)
            whole.append(compacted.Whole(segment.name, end, part.count, part.count - table.num_rows))
            tables.append(compacted.without(table, () if segment.state == "closed" else pending))
        if not whole:
            return 0
        output = io.BytesIO()
        writer = compacted.Writer(output)
        rows = compacted.joined(tables)
        writer.write(rows)
        writer.close(whole)
        self._publish(output, [each.name for each in whole])
        self._folder.delete([each.name for each in whole])
        return int(rows.num_rows)

    def _there(self, segments: list[Segment]) -> Iterator[tuple[Segment, bytes, int]]:
        """Yield the segments that no other compactor has deleted meanwhile."""
        try:
            yield from list(self._folder.read((each, 0) for each in segments))
        except FileNotFoundError:
            for segment in segments:
                with suppress(FileNotFoundError):
                    yield from self._folder.read([(segment, 0)])

    def _publish(self, output: io.BytesIO, replaced: list[str]) -> None:
        ids = (name.partition(".")[0] for name in replaced)
        last = max(filter(_UUID.fullmatch, ids), default=None)
        self._folder.write(f"{new_id(last)}{COMPACTED_SUFFIX}", output.getvalue())

    def _held(self) -> set[str]:
        """Return the segments that are in a Parquet object already."""
        names = set()
        for name in self._folder.compacted():
            key = (self._folder.root, name)
            if key not in _held:
                with suppress(FileNotFoundError), self._folder.open_compacted(name) as file:
                    _held[key] = compacted.segments(file)
            names |= {each.name for each in _held.get(key, ())}
        return names

    def _merge(self, names: list[str]) -> None:
        output = io.BytesIO()
        writer = compacted.Writer(output)
        found, whole = merge(names, self._folder.open_compacted, writer.write)
        if len(found) > 1:
            writer.close(whole)
            self._publish(output, [*found, *(each.name for each in whole)])
            self._folder.delete(found)


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # other names somebody else gave
