"""An object that is being written: in memory, or in parts that are sent while the rest is made."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from catalog.errors import CatalogUnusable
from catalog.store import threads
from catalog.store.retry import is_transient

if TYPE_CHECKING:
    from catalog.store.objects import ObjectStore

#: Bytes that are sent as one object; of a larger one, all but the end is sent before it is published.
LARGEST_PUT = 8 << 20
_PART = 8 << 20  # bytes of each of the parts in which a larger one is sent
_PARTS_OF_A_SIZE = 1_000  # then they double: S3 takes 10,000, so that 5 TiB have room
_PARTS_AHEAD = 4  # that are held in memory until they are sent
_SEAL = 40  # bytes of a blob's trailer, which no two blobs share


class Upload(ABC):
    """A large object that is sent in parts, and appears when it is complete."""

    @abstractmethod
    def send(self, number: int, data: bytes) -> None:
        """Send a part; its number counts from 1. Parts may be sent at once, from several threads."""

    @abstractmethod
    def complete(self) -> bool:
        """Let the object appear; return whether that took more than one try."""

    @abstractmethod
    def abort(self) -> None:
        """Forget all that was sent."""


class ObjectWriter:
    """An object that is being written: in memory, or in parts that are sent ahead.

    Parameters
    ----------
    store : ObjectStore
        Where it goes.
    key : str
        Which object.
    """

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
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
        if self._upload is None and self._gathered > LARGEST_PUT:
            self._upload = self._store.upload(self._key)
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
        self._sent.append(threads.submit(partial(self._upload.send, self._count, part), "parts"))
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
            raise CatalogUnusable(f"{self._store.root}/{self._key} was given up before it was published: save it again")
        try:
            again = self._put() if self._upload is None else self._complete(self._upload)
        except BaseException as error:
            self._may_be_there = not _is_refusal(error)
            self._is_over.release()
            raise
        self._store.drop_prefetched(self._key)
        return again

    def _put(self) -> bool:
        return self._store.put(self._key, b"".join(self._chunks))

    def _complete(self, upload: Upload) -> bool:
        try:
            return upload.complete()
        except FileNotFoundError:  # of an upload that is complete already: the answer to the first try was lost
            if self._store.tail(self._key, _SEAL).data == self._end:
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
        if upload is not None and not self._store.patience.is_over:
            with suppress(FileNotFoundError):  # it is complete after all
                upload.abort()
        return not self._may_be_there


def _is_refusal(error: BaseException) -> bool:
    """Tell whether an error is the place's answer to the first try, that nothing was done, and not the lack of one."""
    if isinstance(error, CatalogUnusable) and error.__cause__ is not None:
        return error.tries == 1 and not is_transient(error.__cause__)
    return isinstance(error, OSError) and not is_transient(error)
