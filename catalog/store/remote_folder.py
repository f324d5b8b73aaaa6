"""A remote storage, as the catalog sees it.

One question lists ``.catalog/`` once: that tells the identity, the segments and
the compacted parts of the journal. Results are looked at one by one, where the
journal leaves a doubt; they are listed only where nothing is known of them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import IO, TYPE_CHECKING, Any, Literal

from catalog.errors import NewerFormat, Refused
from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER
from catalog.journal.base import JOURNAL_FOLDER, SEGMENT_SUFFIX
from catalog.journal.open import journal_of
from catalog.journal.segments import parts_of
from catalog.store import threads as pool
from catalog.store.bucket import UNDER_WAY, Entry, Listing, Tail
from catalog.store.folder import Compactor, Folder, Found, Segment, Unreadable, attempt, found_in, is_compacted
from catalog.store.folder_identity import IDENTITY_FILE, identity_in
from catalog.store.location import Location
from catalog.store.open import open_store

if TYPE_CHECKING:
    from catalog.journal.compaction import FoldedJournal
    from catalog.store.upkeep import Upkeep

_FOOTER = 1 << 12  # bytes of a blob's end that nearly every footer fits into
_JOURNAL = f"{JOURNAL_FOLDER}/"
_LEFT_BEHIND = 86_400.0  # seconds after which nobody is writing what is half written: the largest save is sent in a day

_read_only: set[tuple[int, Location]] = set()  # by process: where a write was refused
_identities: dict[tuple[Location, str], str] = {}  # by tag


class RemoteFolder(Folder):
    """A storage under a URL.

    Parameters
    ----------
    location : Location
        Where.
    listing : Listing, optional
        What there is of the catalog's own, as of now.
    looks_through : bool
        Whether folders are looked through.
    """

    is_remote = True

    def __init__(self, location: Location, listing: Listing | None = None, looks_through: bool = False) -> None:
        self.root = location.url
        self.location = location
        self.looks_through = looks_through
        self._listing = listing
        self._is_fresh = listing is not None

    def opened(self, looks_through: bool = False) -> RemoteFolder:
        """Return the storage with what there is now of the catalog's own; this process's saves are waited for."""
        journal_of(open_store(self.root, self.location.options)).wait()
        return RemoteFolder(self.location, self._list(), looks_through)

    def _list(self) -> Listing:
        return self.location.bucket().listing(f"{CATALOG_FOLDER}/")

    def exists(self) -> bool:
        """Tell whether there is anything."""
        bucket = self.location.bucket()
        return bool(self._listing and self._listing.entries) or bool(bucket.listing("", deep=False).folders)

    def has_catalog(self) -> bool:
        """Tell whether there is something of the catalog's own."""
        return bool((self._listing or self._list()).entries)

    def is_writable(self) -> bool:
        """Tell whether no write was refused yet."""
        return (os.getpid(), self.location) not in _read_only

    def identity(self) -> str:
        """Return the storage's UUID; its URL if it has none."""
        entries = self._listing.entries if self._listing else []
        tag = next((entry.tag for entry in entries if entry.key == IDENTITY_FILE), None)
        if tag is None:
            return self.root
        known = (self.location, tag)
        if known not in _identities:
            identity = identity_in(self.location.bucket().get(IDENTITY_FILE), self.root)
            if identity is None:
                return self.root
            _identities[known] = identity.uuid
        return _identities[known]

    def known_identity(self) -> str | None:
        """Return the identity that a question of this process found last."""
        known = [identity for (location, _), identity in _identities.items() if location == self.location]
        return known[-1] if known else None

    def real_root(self) -> str:
        """Return its URL, and what tells it from others of that URL."""
        return self.location.bucket().address

    # Journal

    def segments(self) -> list[Segment]:
        """Return every segment that is there."""
        if self._listing is None or not self._is_fresh:
            self._listing = self._list()
        self._is_fresh = False
        return self.listed()

    def listed(self) -> list[Segment]:
        """Return the segments as they were last listed."""
        entries = [each for each in self._journal() if each.key.endswith(SEGMENT_SUFFIX)]
        settled: dict[str, int] = {}
        for entry in entries:
            writer, _, until = parts_of(_name(entry))
            settled[writer] = max(until, settled.get(writer, 0))
        return [_segment(entry, settled) for entry in entries]

    def compacted(self) -> list[str]:
        """Return the names of the Parquet files that were listed with the segments."""
        return [_name(entry) for entry in self._journal() if is_compacted(_name(entry))]

    def _journal(self) -> list[Entry]:
        assert self._listing is not None
        return [entry for entry in self._listing.entries if entry.key.startswith(_JOURNAL)]

    @property
    def now(self) -> float:
        """The server's time when it was listed, seconds since 1970.

        Where it does not tell, as fsspec does not, a time before: this machine's clock may be ahead of the server's.
        """
        assert self._listing is not None
        return self._listing.now or max((entry.changed for entry in self._listing.entries), default=0.0)

    def size_of(self, name: str) -> int:
        """Return the bytes of a Parquet file that was listed."""
        return next((entry.size for entry in self._journal() if _name(entry) == name), 0)

    def read(self, wanted: Iterable[tuple[Segment, int]]) -> Iterator[tuple[Segment, bytes, int]]:
        """Yield whole segments, several of which are read at once."""
        segments = [segment for segment, _ in wanted]
        bucket = self.location.bucket()
        for segment, data in zip(segments, pool.each(lambda each: bucket.get(each.path), segments), strict=True):
            yield segment, data.removesuffix(b"\n"), len(data)

    def open_compacted(self, name: str) -> IO[bytes]:
        """Return one of the Parquet files, read as a whole."""
        file = io.BytesIO(self.location.bucket().get(_JOURNAL + name))
        file.name = f"{self.root}/{_JOURNAL}{name}"
        return file

    def append(self, lines: Iterable[str]) -> None:
        """Write events that came true already."""
        self.write(f"{new_id()}{SEGMENT_SUFFIX}", "".join(f"{line}\n" for line in lines).encode("ascii"))

    def write(self, name: str, data: bytes) -> None:
        """Write an object of the journal; where that is refused, it is not tried again."""
        try:
            self.location.bucket().put(_JOURNAL + name, data)
        except Refused:
            _read_only.add((os.getpid(), self.location))
            raise

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects of the journal."""
        bucket = self.location.bucket()
        for _ in pool.each(lambda name: bucket.delete(_JOURNAL + name), names):
            pass

    def delete_leftovers(self) -> None:
        """Delete what killed writers began beside its place and never put there."""
        assert self._listing is not None
        oldest = self.now - _LEFT_BEHIND
        bucket = self.location.bucket()
        for entry in self._listing.entries:
            if entry.key.startswith(UNDER_WAY) and 0 < entry.changed < oldest:
                with suppress(OSError):  # such as a refusal: it is in nobody's way
                    bucket.delete(entry.key)

    def compaction(self, index: FoldedJournal) -> Compactor:
        """Return what compacts the journal."""
        from catalog.journal.remote_compaction import RemoteCompaction

        return RemoteCompaction(index, self)

    # Results

    def look_at(self, folder: str, file: str) -> Found | None:
        """Return what an object holds, by its end.

        A server that takes backslashes for slashes shows another object under a raw name that has one.
        """
        is_doubtful = "\\" in folder + file
        try:
            found = self._seen(folder, file)
        except Unreadable:
            if is_doubtful and file not in self.files(folder):
                return None
            raise
        if found is not None and is_doubtful and not found.is_named and file not in self.files(folder):
            return None
        return found

    def _seen(self, folder: str, file: str) -> Found | None:
        bucket = self.location.bucket()
        key = f"{folder}/{file}"
        try:
            return found_in(
                _Object(bucket.tail(key, _FOOTER), lambda count: bucket.tail(key, count).data), folder, file
            )
        except FileNotFoundError:
            return None
        except (ValueError, NewerFormat) as error:
            raise Unreadable from error

    def each(self, look: Callable[[Any], Found | None], items: Sequence[Any]) -> list[Found | Unreadable | None]:
        """Return what `look` returns for each of the items, several at once."""
        if len(items) < 2:
            return super().each(look, items)
        return list(pool.each(lambda item: attempt(look, item), items))

    def fetched(self, folder: str, names: Sequence[str]) -> AbstractContextManager[list[str]]:
        """Have objects below a folder in a temporary folder of this machine."""
        from catalog.store.fetch import fetched

        return fetched(self.location.bucket(), [f"{folder}/{name}" for name in names])

    def upkeep(self) -> Upkeep:
        """Return what verifies and repairs it."""
        from catalog.store.remote_upkeep import RemoteUpkeep

        return RemoteUpkeep(self.location)

    def workflows(self) -> list[tuple[str, int]]:
        """Return every workflow's folder; nothing tells when it changed."""
        return [(name, 0) for name in self.location.bucket().listing("", deep=False).folders if name[0] != "."]

    def files(self, folder: str) -> list[str]:
        """Return the names of the objects in a workflow's folder."""
        entries = self.location.bucket().listing(f"{folder}/", deep=False).entries
        names = (entry.key[len(folder) + 1 :] for entry in entries)
        return [name for name in names if name and name[0] != "."]


class _Object:
    """The end of an object, as `found_in` reads it."""

    def __init__(self, tail: Tail, more: Callable[[int], bytes]) -> None:
        self._tail = tail
        self._more = more
        self.size = tail.size
        self.modified_ns = int(tail.changed * 1e9)

    def tail(self, count: int) -> bytes:
        data = self._tail.data
        return data[-count:] if count <= len(data) or len(data) == self.size else self._more(count)

    def head(self) -> bytes:
        return self.tail(self.size)[:1]


def _segment(entry: Entry, settled: dict[str, int]) -> Segment:
    name = _name(entry)
    writer, number, _ = parts_of(name)
    state: Literal["open", "closed"] = "closed" if number <= settled[writer] else "open"
    return Segment(name, entry.key, entry.size, int(entry.changed * 1e9), state)


def _name(entry: Entry) -> str:
    return entry.key[len(_JOURNAL) :]


os.register_at_fork(after_in_child=_identities.clear)  # they tell what this process asked for
