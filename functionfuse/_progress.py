"""A progress bar for long work on a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from typing import TypeVar

Item = TypeVar("Item")

_LONG = 1.0  # seconds: work that is over sooner shows nothing


def shown(items: list[Item], wanted: bool | None, title: str) -> Iterable[Item]:
    """Return `items` for a loop, showing its progress on standard error.

    Parameters
    ----------
    items : list
        What is worked on.
    wanted : bool or None
        Whether to show a bar; None shows one where standard error is a terminal.
    title : str
        What stands in front of the bar.
    """
    if wanted is None:
        wanted = sys.stderr.isatty()
    return _with_bar(items, title) if wanted else items


def _with_bar(items: list[Item], title: str) -> Iterator[Item]:
    began = time.monotonic()
    with ExitStack() as stack:
        advance = None
        for done, item in enumerate(items):
            yield item
            if advance is None and time.monotonic() - began > _LONG:
                from rich.console import Console
                from rich.progress import (
                    BarColumn,
                    MofNCompleteColumn,
                    Progress,
                    SpinnerColumn,
                    TextColumn,
                    TimeRemainingColumn,
                )

                name = TextColumn("{task.description}", markup=False)  # a title may hold any characters
                columns = (SpinnerColumn(), name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                bar = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
                task = bar.add_task(title, total=len(items), completed=done)
                advance = bar.advance
            if advance is not None:
                advance(task)


class Counter:
    """A progress bar for steps that several threads finish.

    Parameters
    ----------
    total : int
        The number of steps.
    title : str
        What stands in front of the bar.
    """

    def __init__(self, total: int, title: str) -> None:
        self._steps = iter(shown(list(range(total)), None, title))
        self._lock = threading.Lock()

    def __enter__(self) -> Counter:
        self.step()  # the first one begins
        return self

    def step(self) -> None:
        """Count a step that is finished."""
        with self._lock:
            next(self._steps, None)

    def __exit__(self, *_: object) -> None:
        if isinstance(self._steps, Generator):
            self._steps.close()  # a failure leaves some; the bar ends here
