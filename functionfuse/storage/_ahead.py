"""Reading ahead: objects that a run is going to need, fetched while it computes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial

from catalog.store import threads as pool
from catalog.store.bucket import Bucket, Tail

_AT_ONCE = 2 * pool.AT_ONCE  # objects whose ends are fetched and not asked for yet


class Ahead:
    """The ends of some objects, fetched in the order in which they will be needed.

    Parameters
    ----------
    bucket : Bucket
        Where they are.
    keys : iterable of str
        Which.
    most : int
        Bytes of each that are fetched.
    """

    def __init__(self, bucket: Bucket, keys: Iterable[str], most: int) -> None:
        self._bucket = bucket
        self._most = most
        self._left: Iterator[str] = iter(keys)
        self._fetched: dict[str, Future[Tail]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        with self._lock:
            self._fill()

    def take(self, key: str) -> Tail | None:
        """Return what was fetched of an object, once; None if it was not.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        """
        if os.getpid() != self._process:  # forked meanwhile: the threads that fetch are the parent's
            return None
        with self._lock:
            future = self._fetched.pop(key, None)
            self._fill()
        return future.result() if future is not None else None

    def _fill(self) -> None:
        while len(self._fetched) < _AT_ONCE:
            key = next(self._left, None)
            if key is None:
                return
            self._fetched[key] = pool.submit(partial(self._bucket.tail, key, self._most))

    def stop(self) -> None:
        """Fetch nothing more."""
        with self._lock:
            self._left = iter(())
            for future in self._fetched.values():
                future.cancel()
            self._fetched = {}
