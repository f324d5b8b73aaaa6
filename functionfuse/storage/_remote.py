"""Where bytes go: objects under a URL, in a bucket of S3 or any other place that fsspec reaches."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, TypeVar

from catalog.errors import CatalogUnusable, NewerFormat
from catalog.format.names import SIDE_FOLDER, candidates, from_text
from catalog.format.record import Record, SideFile
from catalog.journal.upload import Deed, RemoteJournal, journal_at
from catalog.store import threads as pool
from catalog.store.bucket import Changed, Tail, Upload, is_transient
from catalog.store.folder_identity import IDENTITY_FILE, STORAGE_FORMAT, Identity, identity_in, new_identity
from catalog.store.location import Location
from functionfuse.errors import StorageUnusable, UnsupportedFormat
from functionfuse.serializers.base import DIGESTS, EXPECTED, S3_PROTOCOL, VERIFIES
from functionfuse.storage._ahead import Ahead
from functionfuse.storage._blob import peek_record
from functionfuse.storage._digests import noted
from functionfuse.storage._expected import Expected
from functionfuse.storage._memory import anonymous
from functionfuse.storage._place import Change, Place

T = TypeVar("T")

_SMALL = 1 << 18  # bytes of an object's end that are read at once: all of a small result
_SPAN = 8 << 20  # bytes of a large one that one request reads
_LARGEST_PUT = 8 << 20  # bytes that are sent as one object
_PART = 8 << 20  # bytes of each of the parts in which a larger one is sent
_PARTS_OF_A_SIZE = 1_000  # then they double: S3 takes 10,000, so that 5 TiB have room
_PARTS_AHEAD = 4  # that are held in memory until they are sent
_SEAL = 40  # bytes of a blob's trailer, which no two blobs share

_log = logging.getLogger("functionfuse.storage")

_known: set[tuple[int, Location]] = set()  # by process: storages that have an identity


class RemotePlace(Place):
    """Objects under a URL.

    Parameters
    ----------
    location : Location
        Where.
    """

    @classmethod
    def at(cls, url: str, options: Mapping[str, Any] | None) -> RemotePlace:
        """Return the place under a URL, which is reached by a file system with these keyword arguments."""
        return cls(Location.of(url, options))

    def __init__(self, location: Location) -> None:
        self.root = location.url
        self.storage_options = location.options
        self._location = location
        self._ahead: tuple[Ahead, ...] = ()

    def __reduce__(self) -> tuple[type[RemotePlace], tuple[Location]]:
        return RemotePlace, (self._location,)

    @property
    def _journal(self) -> RemoteJournal:
        return journal_at(self._location)

    # Writing

    def make_room(self, folder: str) -> None:
        """Give the storage an identity, if it has none; folders need not be made."""
        known = (os.getpid(), self._location)
        if known in _known:
            return
        bucket = self._location.bucket()
        try:
            identity = self._identity()
            if identity.format < STORAGE_FORMAT:
                bucket.put(IDENTITY_FILE, identity.content())
        except NewerFormat as error:
            raise UnsupportedFormat(str(error)) from error
        _known.add(known)

    def require_writable(self, folder: str) -> None:
        """Do nothing: only a try can tell."""

    def _identity(self) -> Identity:
        """Return the identity of the storage, which is given one if it has none, or one that is empty or torn."""
        bucket = self._location.bucket()
        with suppress(FileNotFoundError):
            found = identity_in(bucket.get(IDENTITY_FILE), self.root)
            if found is not None:
                return found
            bucket.delete(IDENTITY_FILE)
        content = new_identity()
        with suppress(FileExistsError):  # somebody was quicker
            bucket.create(IDENTITY_FILE, content)
        found = identity_in(bucket.get(IDENTITY_FILE), self.root)
        assert found is not None, f"{self.root}/{IDENTITY_FILE} was written over"
        return found

    def create(self, folder: str, file: str) -> RemoteTemporary:
        """Return a new object, of which nothing is seen before it is published."""
        self.make_room(folder)
        return RemoteTemporary(self._location, f"{folder}/{file}")

    def publish(self, temporary: RemoteTemporary, folder: str, file: str) -> bool:
        """Let an object appear."""
        return temporary.publish()

    def commit(self, change: Change) -> None:
        """Tell the journal of a change, and do it."""
        self._journal.do(self._deed(change))

    def hand_over(self, change: Change, failed: Callable[[BaseException], BaseException]) -> None:
        """Have threads commit a change."""
        self._journal.hand_over(self._deed(change), failed)

    def together(self) -> AbstractContextManager[None]:
        """Return a context in which lines are gathered, to be one object of the journal."""
        return self._journal.together()

    def _deed(self, change: Change) -> Deed:
        def act() -> bool:
            again = change.act()
            change.after()
            return again

        held = change.size if change.size <= _LARGEST_PUT else 0  # of a larger one, all but the end is sent
        return Deed(change.line, act, change.undo, "/".join(change.at), held)

    def check(self) -> None:
        """Raise what went wrong with what was handed over."""
        self._journal.check()

    def wait(self) -> None:
        """Return when nothing that was handed over is under way any more."""
        self._journal.wait()

    def tell(self, line: str, *, waits: bool = True) -> None:
        """Tell the journal of an event that is no change."""
        self.make_room("")
        if waits:
            self._journal.do(Deed(line))
        else:
            self._journal.hand_over(Deed(line), _say_lost)

    def each(self, action: Callable[[T], None], items: Iterable[T]) -> None:
        """Do the same to many objects, several at once."""
        for _ in pool.each(action, items, "changes"):
            pass

    def sync(self, folder: str) -> None:
        """Do nothing: an object that has appeared is durable."""

    def remove(self, folder: str, file: str) -> bool:
        """Delete an object; the place does not tell whether there was one."""
        return self._location.bucket().delete(f"{folder}/{file}")

    def remove_folder(self, folder: str) -> None:
        """Do nothing: a folder is there as long as there is something in it."""

    # Reading

    def path(self, folder: str, file: str) -> str:
        """Return the URL of a result."""
        return f"{self.root}/{folder}/{file}"

    def has_folder(self, folder: str) -> bool:
        """Tell whether there is such a workflow."""
        return bool(self._location.bucket().listing(f"{folder}/").entries)

    def exists(self, folder: str, file: str) -> bool:
        """Tell whether there is such an object.

        A server that takes backslashes for slashes shows another object under a raw name that has one: that counts only
        if it says that this is its name, or is listed under it.
        """
        try:
            if "\\" not in folder + file:
                self._location.bucket().tail(f"{folder}/{file}", 1)
                return True
            with self.open(folder, file) as source:
                record = peek_record(source)
        except FileNotFoundError:
            return False
        named = record is not None and all(
            each in candidates(from_text(name)) for name, each in ((record.workflow, folder), (record.task, file))
        )
        return named or file in self.files(folder)

    def open(self, folder: str, file: str) -> RemoteSource:
        """Return an object whose end was read."""
        return RemoteSource(self._location, f"{folder}/{file}")

    def load(self, folder: str, file: str, is_mapped: bool = True) -> memoryview:
        """Return all bytes of an object: a small one by one request, a large one by several at once."""
        key = f"{folder}/{file}"
        while True:
            tail = self._fetched(key) or self._location.bucket().tail(key, _SMALL)
            if tail.size == len(tail.data):
                return memoryview(bytearray(tail.data))  # may be written to, as what is larger
            try:
                return self._spans(key, tail)
            except Changed:  # it was overwritten meanwhile
                continue

    def _fetched(self, key: str) -> Tail | None:
        found = (ahead.take(key) for ahead in self._ahead)
        return next((tail for tail in found if tail is not None), None)

    def ahead(self, files: Iterable[tuple[str, str]]) -> AbstractContextManager[None]:
        """Return a context in which small objects, and the ends of large ones, are fetched before they are needed."""
        return _Reading(self, ["/".join(at) for at in files])

    def _begin(self, keys: Iterable[str]) -> Ahead:
        ahead = Ahead(self._location.bucket(), keys, _SMALL)
        self._ahead = (*self._ahead, ahead)
        return ahead

    def _let_go(self, ahead: Ahead) -> None:
        self._ahead = tuple(each for each in self._ahead if each is not ahead)
        ahead.stop()

    def _spans(self, key: str, tail: Tail) -> memoryview:
        bucket = self._location.bucket()
        memory = anonymous(tail.size)
        rest = tail.size - len(tail.data)
        memory[rest:] = tail.data

        def fetch(begin: int) -> None:
            end = min(begin + _SPAN, rest)
            memory[begin:end] = bucket.span(key, begin, end, tail.tag)

        for _ in pool.each(fetch, range(0, rest, _SPAN)):
            pass
        if not bucket.tells_changes and bucket.tail(key, 1).tag != tail.tag:
            raise Changed
        return memory

    def files(self, folder: str) -> list[str]:
        """Return the names of all results of a workflow."""
        entries = self._location.bucket().listing(f"{folder}/", deep=False).entries
        names = (entry.key[len(folder) + 1 :] for entry in entries)
        return [name for name in names if name and name[0] != "."]

    def side_folder(self, folder: str, name: str = "") -> RemoteSideFolder:
        """Return the place for the side files of the save called `name`; of the older format without a name."""
        return RemoteSideFolder(self._location, f"{folder}/{SIDE_FOLDER}" + (f"/{name}" if name else ""))


class _Reading(AbstractContextManager[None]):
    """The time in which objects are fetched ahead; unlike a generator it leaves alone the exceptions that pass it."""

    def __init__(self, place: RemotePlace, keys: Iterable[str]) -> None:
        self._place = place
        self._keys = keys

    def __enter__(self) -> None:
        self._ahead = self._place._begin(self._keys)

    def __exit__(self, *_: object) -> None:
        self._place._let_go(self._ahead)


class RemoteSource:
    """An object whose end was read.

    Parameters
    ----------
    location : Location
        The storage.
    key : str
        Which object.
    """

    def __init__(self, location: Location, key: str) -> None:
        self._location = location
        self._key = key
        self._tail = location.bucket().tail(key, 1 << 12)
        self.size = self._tail.size

    def tail(self, size: int) -> bytes:
        """Return the last `size` bytes, all of them if there are fewer; `FileNotFoundError` if it is another by now."""
        data = self._tail.data
        if size <= len(data) or len(data) == self.size:
            return data[-size:]
        longer = self._location.bucket().tail(self._key, size)
        if longer.tag != self._tail.tag:
            raise FileNotFoundError(f"{self._key} was overwritten while it was read")
        return longer.data

    def __enter__(self) -> RemoteSource:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class RemoteTemporary:
    """An object that is being written: in memory, or in parts that are sent ahead.

    Parameters
    ----------
    location : Location
        The storage.
    key : str
        Which object.
    """

    def __init__(self, location: Location, key: str) -> None:
        self._bucket = location.bucket()
        self._key = key
        self._chunks: list[bytes] = []
        self._gathered = 0
        self._end = b""
        self._upload: Upload | None = None
        self._sent: list[Future[None]] = []
        self._count = 0
        self._is_over = threading.Lock()  # taken by who publishes or discards it
        self._may_be_there = False  # what was asked for may have been done, although no answer said so

    def open(self) -> None:
        """Do nothing: the first bytes begin it."""

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all of some pieces."""
        for data in pieces:
            self._append(data)

    def _append(self, data: bytes | memoryview) -> None:
        self._chunks.append(bytes(data))
        self._gathered += len(data)
        if self._upload is None and self._gathered > _LARGEST_PUT:
            self._upload = self._bucket.upload(self._key)
        while self._upload is not None and self._gathered >= self._part_size():
            self._send(self._part_size())

    def _part_size(self) -> int:
        return _PART << (self._count // _PARTS_OF_A_SIZE)

    def _send(self, size: int) -> None:
        assert self._upload is not None
        whole = b"".join(self._chunks)
        part, rest = (whole, b"") if len(whole) <= size else (whole[:size], whole[size:])
        self._chunks = [rest] if rest else []
        self._gathered = len(rest)
        self._end = (self._end + part[-_SEAL:])[-_SEAL:]
        self._count += 1
        self._sent.append(pool.submit(partial(self._upload.send, self._count, part), "parts"))
        while len(self._sent) > _PARTS_AHEAD:
            self._await(FIRST_COMPLETED)  # not the oldest one: it may take several times as long as the others

    def _await(self, when: str) -> None:
        done, left = wait(self._sent, return_when=when)
        self._sent = list(left)
        for future in done:
            future.result()

    def sync(self) -> None:
        """Do nothing: what is complete is durable."""

    def close(self) -> None:
        """Return when all parts are sent."""
        if self._upload is None:
            return
        if self._gathered:
            self._send(self._gathered)
        self._await(ALL_COMPLETED)

    def publish(self) -> bool:
        """Let the object appear; return whether that took more than one try."""
        if not self._is_over.acquire(blocking=False):
            raise StorageUnusable(f"{self._bucket.url}/{self._key} was given up before it was published: save it again")
        try:
            if self._upload is None:
                return self._bucket.put(self._key, b"".join(self._chunks))
            return self._complete(self._upload)
        except BaseException as error:
            self._may_be_there = not _is_refusal(error)
            self._is_over.release()
            raise

    def _complete(self, upload: Upload) -> bool:
        try:
            return upload.complete()
        except FileNotFoundError:  # of an upload that is complete already: the answer to the first try was lost
            if self._bucket.tail(self._key, _SEAL).data == self._end:
                return True
            raise

    def discard(self) -> bool:
        """Forget what was sent; False if it was published, is just being, or may have been although no answer came."""
        if not self._is_over.acquire(blocking=False):
            return False
        upload, self._upload = self._upload, None
        self._chunks = []
        for future in self._sent:
            future.cancel()
        if upload is not None and not self._bucket.patience.is_over:
            with suppress(FileNotFoundError):  # it is complete after all
                upload.abort()
        return not self._may_be_there


def _say_lost(error: BaseException) -> None:
    _log.debug("an event is not recorded: %s", str(error))


def _is_refusal(error: BaseException) -> bool:
    """Tell whether an error is the place's answer to the first try, that nothing was done, and not the lack of one."""
    if isinstance(error, CatalogUnusable) and error.__cause__ is not None:
        return error.tries == 1 and not is_transient(error.__cause__)
    return isinstance(error, OSError) and not is_transient(error)


class RemoteSideFolder:
    """The side files of one save, which a serializer reaches by a file system of fsspec.

    Parameters
    ----------
    location : Location
        The storage.
    prefix : str
        Where they are in it.
    """

    def __init__(self, location: Location, prefix: str) -> None:
        self._location = location
        self._prefix = prefix
        self._digests: dict[str, tuple[int, str]] = {}  # of what was hashed as it was written
        self._expected: Expected | None = None
        self._verifies = True

    @property
    def protocols(self) -> dict[str, Any]:
        """What serializers are given to reach their files."""
        bucket = self._location.bucket()
        scheme = self._location.url.partition("://")[0]
        folder = f"{bucket.root}/{self._prefix}"
        return {
            S3_PROTOCOL: {
                "client": bucket.filesystem,
                "folder": f"{scheme}://{folder}",
                DIGESTS: self._digests,
                EXPECTED: self._expected,
                VERIFIES: self._verifies,
            }
        }

    def expect(self, record: Record | None, verify: bool) -> None:
        """Let serializers hold what they read from now on against the digests in a record, if that is wanted."""
        self._verifies = verify
        self._expected = Expected(record, self._content) if verify else None

    def _content(self, filename: str) -> bytes:
        return self._location.bucket().get(f"{self._prefix}/{filename}")

    def files(self) -> list[SideFile]:
        """Return name, size and digest of every file, sorted by name.

        What a serializer wrote past this package, by the client itself, has no digest: it would have to be fetched.
        """
        entries = self._location.bucket().listing(f"{self._prefix}/").entries
        found = sorted((entry.key[len(self._prefix) + 1 :], entry.size) for entry in entries)
        return [SideFile(name, size, noted(self._digests, name, size)) for name, size in found]

    def write(self, filename: str, data: bytes) -> None:
        """Write a file."""
        self._location.bucket().put(f"{self._prefix}/{filename}", data)

    def remove(self, filename: str) -> None:
        """Delete a file, or a folder of them."""
        bucket = self._location.bucket()
        for entry in bucket.listing(f"{self._prefix}/{filename}").entries:
            name = entry.key[len(self._prefix) + 1 :]
            if name == filename or name.startswith(f"{filename}/"):
                bucket.delete(entry.key)

    def sync(self) -> None:
        """Do nothing: an object that has appeared is durable."""

    def discard(self) -> None:
        """Delete all files; where nothing answers any more, `verify` finds them."""
        bucket = self._location.bucket()
        if bucket.patience.is_over:
            return
        for entry in bucket.listing(f"{self._prefix}/").entries:
            bucket.delete(entry.key)
