"""Prefetching: the ends of objects that are going to be needed, fetched while something else is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial

from catalog.store import threads
from catalog.store.base import Tail

_AT_ONCE = 2 * threads.AT_ONCE  # objects whose ends are fetched and not asked for yet


class Prefetch:
    """The ends of some objects, fetched in the order in which they will be needed.

    Parameters
    ----------
    fetch : callable
        Returns the end of an object.
    keys : iterable of str
        Which.
    """

    def __init__(self, fetch: Callable[[str], Tail], keys: Iterable[str]) -> None:
        self._fetch = fetch
        self._left: Iterator[str] = iter(keys)
        self._fetched: dict[str, Future[Tail]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        with self._lock:
            self._fill()

    def take(self, key: str) -> Tail | None:
        """Take what was fetched of an object, once.

        Returns
        -------
        Tail or None
            None if it was not fetched.

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

    def drop(self, key: str) -> None:
        """Forget what was fetched of an object: it has been written anew."""
        with self._lock:
            self._fetched.pop(key, None)

    def _fill(self) -> None:
        while len(self._fetched) < _AT_ONCE:
            key = next(self._left, None)
            if key is None:
                return
            self._fetched[key] = threads.submit(partial(self._fetch, key), "prefetches")

    def stop(self) -> None:
        """Fetch nothing more."""
        with self._lock:
            self._left = iter(())
            for future in self._fetched.values():
                future.cancel()
            self._fetched = {}
