"""Objects under a URL as a store: what a bucket of S3 and the other places of fsspec have in common.

Whatever may pass (a server that is busy, a connection that is cut, a time-out) is tried again (`catalog.store.retry`);
what will not is raised at once, and says what is wrong.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, TypeVar

from catalog.errors import CatalogUnusable, DamagedFooter, NewerFormat, NotABlob, Refused
from catalog.format.footer import footer_from
from catalog.format.names import CATALOG_FOLDER, candidates, from_text
from catalog.store import threads
from catalog.store.base import Changed, Entry, Store, Tail
from catalog.store.identity import claim_identity
from catalog.store.memory import anonymous
from catalog.store.object_writer import ObjectWriter, Upload
from catalog.store.prefetch import Prefetch
from catalog.store.retry import Patience, with_retries

S = TypeVar("S")
T = TypeVar("T")

#: Where an object is written that does not appear as a whole, before it is put into its place.
UNDER_WAY = f"{CATALOG_FOLDER}/tmp/"

_SMALL = 1 << 18  # bytes of an object's end that are read at once: all of a small result
_FOOTER = 1 << 12  # bytes of a blob's end that nearly every footer fits into
_SPAN = 8 << 20  # bytes of a large object that one request reads


_stores: list[ObjectStore] = []
_lock = threading.Lock()


class ObjectStore(Store):
    """Objects under a URL.

    Parameters
    ----------
    root : str
        The URL, without a slash at the end.
    options : mapping
        Keyword arguments of its file system.

    Notes
    -----
    Safe to use from several threads; can be pickled, and survives `fork`.
    """

    options: Mapping[str, Any]

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self.root = root
        self.options = options
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return shared_store, (type(self), self.root, self.options)

    def _forget(self) -> None:
        """Begin anew, as a forked child has to: the connections, and the thread that serves them, are the parent's."""
        self._prefetches: tuple[Prefetch, ...] = ()
        self._is_claimed = False
        self._is_refused = False
        self.__dict__.pop("filesystem", None)

    # What a place has to say and do

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec file system behind it, of this process."""
        return self._connect()

    @abstractmethod
    def _connect(self) -> Any:
        """Return the fsspec file system behind it."""

    @property
    @abstractmethod
    def patience(self) -> Patience:
        """For how long requests are tried again."""

    @property
    @abstractmethod
    def prefix(self) -> str:
        """The root as the file system names it; without a slash at the end."""

    @abstractmethod
    def upload(self, key: str) -> Upload:
        """Begin a large object."""

    @abstractmethod
    def delete_object(self, key: str, tag: str) -> bool:
        """Delete an object, as `delete` does."""

    def reason(self, error: Exception) -> CatalogUnusable | None:
        """Return what an error means that will not pass, if that is known."""
        if isinstance(error, PermissionError):
            return Refused(f"{self.root} may not be used in this way: {error}")
        return None

    def retry(self, action: Callable[[], T]) -> tuple[T, bool]:
        """Return what an action returns, and whether that took more than one try; raise as `with_retries` does."""
        return with_retries(action, self.patience, self.root, self.reason)

    # Reading

    def open(self, key: str, is_read_whole: bool = False) -> ObjectFile:
        """Open an object: its end is read."""
        file = ObjectFile(self, key, _SMALL if is_read_whole else _FOOTER)
        if "\\" in key:
            self._require_own(key, file)
        return file

    def stat(self, key: str) -> Entry | None:
        """Return what is known of an object."""
        try:
            tail = self.tail(key, 1)
            if "\\" in key:
                self.open(key)
        except FileNotFoundError:
            return None
        return Entry(key, tail.size, tail.modified, tail.tag)

    def _require_own(self, key: str, file: ObjectFile) -> None:
        """Raise `FileNotFoundError` for an object of another key.

        A server that takes backslashes for slashes shows it under the raw name that the older format gave a result.
        That counts only if the object says that this is its name, or is listed under it.
        """
        folder, _, name = key.rpartition("/")
        if not _is_named(file, folder, name) and name not in self.names(folder):
            raise FileNotFoundError(f"{self.root}/{key}")

    def load(self, key: str, is_mapped: bool = True) -> memoryview:
        """Return all bytes of an object: a small one by one request, a large one by several at once."""
        while True:
            tail = self._prefetched(key) or self.tail(key, _SMALL)
            if tail.size == len(tail.data):
                return memoryview(bytearray(tail.data))  # may be written to, as what is larger
            memory = anonymous(tail.size)
            rest = tail.size - len(tail.data)
            memory[rest:] = tail.data
            try:
                self._read_spans(key, tail, rest, memory)
            except Changed:  # it was overwritten meanwhile
                continue
            return memory

    def _read_spans(self, key: str, tail: Tail, rest: int, memory: memoryview) -> None:
        def read(begin: int) -> None:
            end = min(begin + _SPAN, rest)
            memory[begin:end] = self.span(key, begin, end, tail.tag)

        for _ in threads.each(read, range(0, rest, _SPAN), "spans"):
            pass
        if not self.tells_changes and self.tail(key, 1).tag != tail.tag:
            raise Changed

    def _prefetched(self, key: str) -> Tail | None:
        found = (each.take(key) for each in self._prefetches)
        return next((tail for tail in found if tail is not None), None)

    def drop_prefetched(self, key: str) -> None:
        """Forget what was fetched of an object before it was written anew."""
        for each in self._prefetches:
            each.drop(key)

    def prefetch(self, keys: Iterable[str]) -> AbstractContextManager[None]:
        """Return a context in which small objects, and the ends of large ones, are fetched before they are needed."""
        return _Prefetching(self, list(keys))

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects in a folder."""
        names = (entry.key[len(folder) + 1 :] for entry in self.ls(f"{folder}/", deep=False).entries)
        return [name for name in names if name and name[0] != "."]

    def folders(self) -> list[tuple[str, int]]:
        """Return the folders of workflows; nothing tells when they changed."""
        return [(name, 0) for name in self.ls("", deep=False).folders if name[0] != "."]

    def has_folder(self, folder: str) -> bool:
        """Tell whether there is an object in a folder; of no name, whether there is a folder with one."""
        if not folder:
            return bool(self.ls("", deep=False).folders)
        return bool(self.ls(f"{folder}/").entries)

    @contextmanager
    def local_files(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Have objects in a temporary folder of this machine."""
        with tempfile.TemporaryDirectory(prefix="functionfuse-") as folder:
            paths = [os.path.join(folder, str(number)) for number in range(len(keys))]
            for key, path in zip(keys, paths, strict=True):
                try:
                    self._download(key, path)
                except (FileNotFoundError, Changed) as error:
                    raise FileNotFoundError(f"{self.root}/{key}") from error
            yield paths

    def _download(self, key: str, path: str) -> None:
        """Write an object into a new file, several pieces at once."""
        tail = self.tail(key, _SMALL)
        rest = tail.size - len(tail.data)
        with open(path, "xb", buffering=0) as file:

            def fetch(begin: int) -> None:
                _write(file.fileno(), self.span(key, begin, min(begin + _SPAN, rest), tail.tag), begin)

            _write(file.fileno(), tail.data, rest)
            for _ in threads.each(fetch, range(0, rest, _SPAN), "spans"):
                pass

    def map(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Yield what a function returns for each item, several of which are under way at once."""
        return threads.each(function, items)

    # Writing

    def prepare(self, folder: str) -> None:
        """Give the storage an identity, if it has none; folders need not be made."""
        if not self._is_claimed:
            claim_identity(self)
            self._is_claimed = True

    def is_writable(self) -> bool:
        """Tell whether no write of the catalog was refused yet."""
        return not self._is_refused

    def note_refusal(self) -> None:
        """Take note that a write of the catalog was refused: it is not tried again."""
        self._is_refused = True

    def writer(self, key: str) -> ObjectWriter:
        """Return a new object."""
        if not key.startswith(CATALOG_FOLDER):  # which a question writes to, and does not claim
            self.prepare("")
        return ObjectWriter(self, key)

    def delete(self, key: str, tag: str = "") -> bool:
        """Delete an object, and forget what was prefetched of it."""
        try:
            return self.delete_object(key, tag)
        finally:
            self.drop_prefetched(key)

    def move(self, key: str, to: str, tag: str) -> None:
        """Give an object another key, by a copy within the place."""
        self.copy(key, to, tag)
        self.delete(key, tag)

    def move_all(self, key: str, to: str) -> None:
        """Move all objects below a folder, or the one of that key."""
        found = self.ls(f"{key}/").entries
        moves = [(entry.key, to + entry.key[len(key) :], entry.tag) for entry in found]
        entry = None if moves else self.stat(key)
        if entry is not None:
            moves.append((key, to, entry.tag))
        for _ in threads.each(lambda move: self.move(*move), moves, "spans"):
            pass

    def unchanged_for(self, key: str) -> float:
        """Return for how long nothing changed; by the server's clock, if it tells the time."""
        listing = self.ls(f"{key}/")
        changed = [entry.modified for entry in listing.entries] or [self.tail(key, 1).modified]
        return (listing.now or time.time()) - max(changed) if min(changed) > 0 else 0.0

    def remove_folder(self, folder: str) -> None:
        """Do nothing: a folder is there as long as there is something in it."""

    def sync(self, folder: str) -> None:
        """Do nothing: an object that has appeared is durable."""


class ObjectFile:
    """An object whose end was read; the rest is asked for as it is needed.

    Parameters
    ----------
    store : ObjectStore
        Where it is.
    key : str
        Which.
    end : int
        Bytes of its end that are read first.
    """

    piece = 4 << 20

    def __init__(self, store: ObjectStore, key: str, end: int) -> None:
        self._store = store
        self._key = key
        self._end = store.tail(key, end)
        self.size = self._end.size
        self.modified_ns = int(self._end.modified * 1e9)
        self.tag = self._end.tag

    def tail(self, count: int) -> bytes:
        """Return the last bytes."""
        if count > len(self._end.data) < self.size:
            longer = self._store.tail(self._key, count)
            if longer.tag != self.tag:
                raise FileNotFoundError(f"{self._key} was overwritten while it was read")
            self._end = longer
        return self._end.data[-count:] if count else b""

    def read(self, position: int, count: int) -> bytes:
        """Return bytes from a position on; `Changed` if it was overwritten meanwhile."""
        known = self.size - len(self._end.data)
        if position >= known:
            return self._end.data[position - known :][:count]
        return self._store.span(self._key, position, min(position + count, known), self.tag)

    def __enter__(self) -> ObjectFile:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Prefetching(AbstractContextManager[None]):
    """The time in which objects are fetched ahead; unlike a generator it leaves alone the exceptions that pass it."""

    def __init__(self, store: ObjectStore, keys: list[str]) -> None:
        self._store = store
        self._keys = keys

    def __enter__(self) -> None:
        store = self._store
        self._fetched = Prefetch(lambda key: store.tail(key, _SMALL), self._keys)
        store._prefetches = (*store._prefetches, self._fetched)

    def __exit__(self, *_: object) -> None:
        store = self._store
        store._prefetches = tuple(each for each in store._prefetches if each is not self._fetched)
        self._fetched.stop()


def _is_named(file: ObjectFile, folder: str, name: str) -> bool:
    """Tell whether a blob says itself that it is the result in that folder and file."""
    try:
        record = footer_from(file.tail, file.size).record
    except (NotABlob, DamagedFooter, NewerFormat):
        return False
    return folder in candidates(from_text(record.workflow)) and name in candidates(from_text(record.task))


def _write(handle: int, data: bytes, position: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, position)
        left, position = left[written:], position + written


def shared_store(kind: type[ObjectStore], root: str, options: Mapping[str, Any]) -> ObjectStore:
    """Return this process's store of that kind, root and options, the same one for every caller."""
    with _lock:
        for store in _stores:
            if (store.root, store.options) == (root, options):
                return store
        store = kind(root, options)
        _stores.append(store)
        return store


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for store in _stores:
        store._forget()


os.register_at_fork(after_in_child=_after_fork)
