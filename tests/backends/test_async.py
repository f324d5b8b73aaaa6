"""Asynchronous functions in workflows: awaited, or refused with a word."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import InvalidResult
from functionfuse.storage.filestorage import FileStorage

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")


async def double(number: int) -> int:
    """Return twice a number, a little later."""
    await asyncio.sleep(0)
    return 2 * number


class Doubler:
    """Doubles asynchronously when it is called."""

    async def __call__(self, number: int) -> int:
        """Return twice a number."""
        return await double(number)


async def numbers() -> AsyncIterator[int]:
    """Yield a number."""
    yield 1


@pytest.fixture(params=[False, True], ids=["without a storage", "with a storage"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> FileStorage | None:
    """Return a storage, or none."""
    return FileStorage(tmp_path) if request.param else None


def flow(leaf: Any, storage: FileStorage | None = None) -> LocalWorkflow:
    """Return a workflow."""
    graph = LocalWorkflow(leaf, workflow_name="flow")
    graph.set_storage(storage)
    return graph


KINDS = [
    pytest.param(double, id="async def"),
    pytest.param(functools.partial(double), id="partial"),
    pytest.param(Doubler(), id="callable object"),
    pytest.param(lambda number: double(number), id="function that returns a coroutine"),
    pytest.param(functools.wraps(double)(lambda number: double(number)), id="wrapper"),
]


@pytest.mark.parametrize("func", KINDS)
def test_coroutines_are_awaited(storage: FileStorage | None, func: Callable[..., Any]) -> None:
    """A node whose function is asynchronous in any way has the awaited value, and so has the node below it."""
    decorated = workflow(func)
    first = decorated(1)
    assert flow(decorated(first), storage).run() == 4
    assert first.result == 2
    assert flow(decorated(first), storage).run() == 4


def test_a_replaced_function_is_awaited() -> None:
    """What is called instead of a node's function may be asynchronous."""
    leaf = workflow(lambda number: number)(1)
    graph = flow(leaf)
    graph.replace_func(leaf, double)
    assert graph.run() == 2


def test_methods_are_awaited(storage: FileStorage | None) -> None:
    """An asynchronous method of a decorated class is awaited before the next one is called."""

    @workflow
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        async def add(self, number: int) -> int:
            await asyncio.sleep(0)
            self.count += number
            return self.count

    counter = Counter()
    counter.add(1)
    assert flow(counter.add(2), storage).run() == 3


def test_within_a_running_loop(storage: FileStorage | None) -> None:
    """In a notebook, where a loop is running, a coroutine is awaited in a thread, with the caller's context."""

    @workflow
    async def where() -> tuple[str, bool]:
        await asyncio.sleep(0)
        return NAME.get(), threading.current_thread() is threading.main_thread()

    async def cell() -> Any:
        NAME.set("ann")
        return flow(where(), storage).run()

    assert asyncio.run(cell()) == ("ann", False)
    assert "functionfuse-await" not in str(threading.enumerate())


@pytest.mark.parametrize("in_loop", [False, True])
def test_what_a_coroutine_raises(in_loop: bool) -> None:
    """An exception of a coroutine reaches the caller as itself, with the node's name."""

    @workflow
    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("mine")

    async def cell() -> Any:
        flow(fail().set_name("broken")).run()

    with pytest.raises(KeyError, match="mine") as caught:
        asyncio.run(cell()) if in_loop else flow(fail().set_name("broken")).run()
    assert "in node 'broken' of workflow 'flow'" in caught.value.__notes__  # type: ignore[attr-defined]


def test_async_generators_are_refused(storage: FileStorage | None) -> None:
    """An async generator is no result: the error names the function and the remedy, and nothing is stored."""
    with pytest.raises(InvalidResult, match=r"'numbers' returned .* `return \[item async for"):
        flow(workflow(numbers)().set_name("leaf"), storage).run()
    assert storage is None or storage.list_tasks("flow") == []


def test_futures_of_a_loop_are_refused(storage: FileStorage | None) -> None:
    """A task of a running loop cannot be awaited by a function that the loop waits for: it is refused."""

    @workflow
    def start() -> Any:
        return asyncio.ensure_future(double(1))

    async def cell() -> None:
        with pytest.raises(InvalidResult, match=r"start' returned <Task .* `return await task`"):
            flow(start().set_name("leaf"), storage).run()

    asyncio.run(cell())
    assert storage is None or storage.list_tasks("flow") == []


def test_other_awaitables_are_results() -> None:
    """What can be awaited and is neither a coroutine nor a loop's future, as a client of a cluster, is a result."""

    class Client:
        def __await__(self) -> Any:
            raise AssertionError("nobody asked for it")

    client = Client()
    assert flow(workflow(lambda: client)()).run() is client
