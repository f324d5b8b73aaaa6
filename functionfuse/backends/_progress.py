"""A progress bar for long runs on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from functionfuse.workflow import Node

_LONG = 1.0  # seconds: a run that is over sooner shows nothing


def shown(nodes: list[Node], wanted: bool | None, title: str) -> Iterable[Node]:
    """Return `nodes` for a loop, showing its progress on standard error.

    Parameters
    ----------
    nodes : list of Node
        What is computed.
    wanted : bool or None
        Whether to show a bar; None shows one where standard error is a terminal.
    title : str
        What stands in front of the bar.
    """
    if wanted is None:
        wanted = sys.stderr.isatty()
    return _with_bar(nodes, title) if wanted else nodes


def _with_bar(nodes: list[Node], title: str) -> Iterator[Node]:
    began = time.monotonic()
    with ExitStack() as stack:
        advance = None
        for done, node in enumerate(nodes):
            yield node
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
                task = bar.add_task(title, total=len(nodes), completed=done)
                advance = bar.advance
            if advance is not None:
                advance(task)
