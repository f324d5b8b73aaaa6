"""The threads that wait for requests."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

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
    once = _Once(function)
    try:
        return pool.submit(once)
    except RuntimeError:  # the interpreter ends, and its pools take nothing more; or the system has no thread left
        return _called(once)


class _Once:
    """A function that is called once: a pool that finds no thread raises an error, and keeps what it was given."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._turn = threading.Lock()

    def __call__(self) -> Any:
        return self._function() if self._turn.acquire(blocking=False) else None


def _called(function: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
    return future


def each(function: Callable[[S], T], items: Iterable[S], kind: str = "requests") -> Iterator[T]:
    """Yield what a function returns for each item, in their order, some of them ahead; what is left is not begun."""
    ahead: deque[Future[T]] = deque()
    try:
        for item in items:
            ahead.append(submit(partial(function, item), kind))
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
