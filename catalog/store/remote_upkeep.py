"""What verification and repair need of a remote storage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from catalog.errors import Refused
from catalog.format.names import SIDE_FOLDER
from catalog.journal.base import Publication
from catalog.journal.open import journal_of
from catalog.store import bucket as buckets
from catalog.store import threads as pool
from catalog.store import upkeep
from catalog.store.bucket import Bucket, Tail
from catalog.store.location import Location
from catalog.store.open import open_store
from catalog.store.upkeep import CannotBeRead, Stamp, Upkeep, Whole, once

S = TypeVar("S")
T = TypeVar("T")

_SMALL = 1 << 18  # bytes of an object's end that are read at once: all of a small result


class RemoteUpkeep(Upkeep):
    """The objects of a remote storage.

    Parameters
    ----------
    location : Location
        Where.
    """

    quarantine = ".quarantine"  # not below .catalog, which every question lists

    def __init__(self, location: Location) -> None:
        self._location = location
        self._bucket = location.bucket()

    @contextmanager
    def open(self, path: str) -> Iterator[Whole]:
        """Open an object."""
        try:
            yield _RemoteWhole(self._bucket, path, self._bucket.tail(path, _SMALL))
        except Refused as error:
            raise CannotBeRead(f"it cannot be read: {error}") from error
        except buckets.Changed as error:
            raise CannotBeRead("it changed while it was read") from error

    def stamp(self, path: str) -> Stamp | None:
        """Return tag and size of an object."""
        try:
            return _stamp_of(self._bucket.tail(path, 1))
        except FileNotFoundError:
            return None

    def map(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Yield what a function returns for each item, several of which are under way at once."""
        return pool.each(function, items)

    def side_folders(self, folder: str) -> list[str]:
        """Return the names of a workflow's side folders."""
        found = self._bucket.listing(f"{folder}/{SIDE_FOLDER}/", deep=False).folders
        return [path.rpartition("/")[2] for path in found]

    def below(self, path: str) -> list[tuple[str, int]]:
        """Return the objects below a folder."""
        entries = self._bucket.listing(f"{path}/").entries
        return [(entry.key[len(path) + 1 :], entry.size) for entry in entries]

    def quiet_for(self, path: str) -> float:
        """Return for how long nothing changed; by the server's clock, if it tells the time."""
        listing = self._bucket.listing(f"{path}/")
        changed = [entry.changed for entry in listing.entries] or [self._bucket.tail(path, 1).changed]
        return (listing.now or time.time()) - max(changed) if min(changed) > 0 else 0.0

    def write(self, path: str, data: bytes) -> None:
        """Write an object."""
        self._bucket.put(path, data)

    def tell(self, path: str, line: str, act: Callable[[], None] | None = None) -> None:
        """Tell the journal of what happens to a result, and do it."""
        store = open_store(self._location.url, self._location.options)
        journal_of(store).append(Publication(line, path, act and once(act)))

    def check_movable(self, path: str) -> None:
        """Do nothing: the note that is left first tells whether this user may write."""

    def move(self, path: str, to: str, stamp: Stamp) -> None:
        """Move an object, by a copy within the place."""
        try:
            self._bucket.move(path, to, str(stamp[0]))
        except buckets.Changed as error:
            raise upkeep.Changed from error

    def move_all(self, path: str, to: str) -> None:
        """Move all objects below a folder, or the one of that name."""
        entries = self._bucket.listing(f"{path}/").entries
        moves = [(entry.key, to + entry.key[len(path) :], entry.tag) for entry in entries]
        stamp = None if moves else self.stamp(path)
        if stamp is not None:
            moves.append((path, to, str(stamp[0])))
        for _ in pool.each(lambda move: self._bucket.move(*move), moves):
            pass


class _RemoteWhole:
    """An object, of which the end was read."""

    piece = 4 << 20

    def __init__(self, bucket: Bucket, path: str, tail: Tail) -> None:
        self._bucket = bucket
        self._path = path
        self._tail = tail
        self.size = tail.size
        self.modified_ns = int(tail.changed * 1e9)
        self.stamp = _stamp_of(tail)

    def tail(self, count: int) -> bytes:
        begin = max(0, self.size - count)
        data = b""
        while len(data) < self.size - begin:
            data += self.read(begin + len(data), self.size - begin - len(data))
        return data

    def head(self) -> bytes:
        return self.read(0, 1)

    def read(self, position: int, count: int) -> bytes:
        known = self.size - len(self._tail.data)
        if position >= known:
            return self._tail.data[position - known :][:count]
        return self._bucket.span(self._path, position, min(position + count, known), self._tail.tag)


def _stamp_of(tail: Tail) -> Stamp:
    return tail.tag, tail.size
