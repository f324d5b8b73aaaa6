"""The threads that wait for requests."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

#: Requests that a process has under way at once, of one kind.
AT_ONCE = 16
_pools: dict[str, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def submit(function: Callable[[], T], kind: str = "requests") -> Future[T]:
    """Have a thread of a pool call a function; one that waits for others of its kind may wait forever."""
    with _lock:
        pool = _pools.get(kind)
        if pool is None:
            pool = _pools[kind] = ThreadPoolExecutor(AT_ONCE, f"functionfuse-{kind}")
    return pool.submit(function)


def each(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield what a function returns for each item, in their order, some of them ahead."""
    ahead: deque[Future[T]] = deque()
    try:
        for item in items:
            ahead.append(submit(lambda item=item: function(item)))  # type: ignore[misc]  # mypy knows no such default
            if len(ahead) > 2 * AT_ONCE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()  # the threads are the parent's


os.register_at_fork(after_in_child=_after_fork)
