"""What asynchronous functions return, awaited: a run has no event loop of its own.

`asyncio` is imported when something has to be awaited, as it takes longer than all the rest of this package.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from functionfuse.errors import InvalidResult


def awaited(value: Any, function: str) -> Any:
    """Return what a coroutine, as a function returned it, comes to.

    Parameters
    ----------
    value : object
        What was returned: something asynchronous.
    function : str
        What returned it, for the message.

    Raises
    ------
    InvalidResult
        If it is an async generator, or a future of an event loop: neither is a result.

    Notes
    -----
    A coroutine is run by `asyncio.run`, in an event loop that ends with it. Where a loop is running already, as in
    notebooks, that happens in a thread of its own, with the context variables of the caller, who waits.
    """
    while isinstance(value, Coroutine):
        value = _run(value)
    if isinstance(value, AsyncGenerator) or hasattr(type(value), "_asyncio_future_blocking"):
        raise InvalidResult(
            f"{function} returned {value!r}, which is no result but the promise of one. "
            "Make it `async def`, and await there what it shall return: `return await task`, or of an async "
            "generator `return [item async for item in items]`"
        )
    return value


@lru_cache(maxsize=1024)
def is_asynchronous(kind: type) -> bool:
    """Tell whether objects of a class have to be awaited before they are results."""
    # Dask's and Ray's futures can be awaited, too, and are results all the same.
    return issubclass(kind, (Coroutine, AsyncGenerator)) or hasattr(kind, "_asyncio_future_blocking")


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    return _run_in_thread(coroutine)


def _run_in_thread(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    begun: Future[Any] = Future()

    async def main() -> Any:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        return await coroutine

    with ThreadPoolExecutor(1, "functionfuse-await") as thread:
        future = thread.submit(contextvars.copy_context().run, asyncio.run, main())
        try:
            return future.result()
        except KeyboardInterrupt:  # it reaches the main thread only
            loop, task = begun.result()
            loop.call_soon_threadsafe(task.cancel)
            raise
