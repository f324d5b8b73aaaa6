"""The process's DuckDB: an in-memory instance to which an index is attached for the time of a question.

Measured: opening a database file costs 16 ms and locks out other processes as
long as it is open; attaching and detaching it in a standing instance, 1 ms.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: The name under which the index is attached.
INDEX = "storage_index"

_instances: dict[str, duckdb.DuckDBPyConnection] = {}
_forsaken: list[object] = []
_lock = threading.RLock()


@contextmanager
def engine() -> Iterator[None]:
    """Let one thread at a time use `instance`: a file can be attached only once."""
    with _lock:
        yield


def connect(config: dict[str, str | bool | int | float | list[str]] | None = None) -> duckdb.DuckDBPyConnection:
    """Return an instance of its own, in memory, whose time zone is UTC; neither it nor its cursors draw progress bars.

    Parameters
    ----------
    config : dict, optional
        Settings that it has from the start.

    Returns
    -------
    duckdb.DuckDBPyConnection
        Open.
    """
    import duckdb

    connection = duckdb.connect(":memory:", config=config or {})
    # DuckDB draws one where Python is interactive, and in a notebook by ipywidgets. Where those are missing it draws
    # none, and refuses to switch it off.
    with suppress(duckdb.InvalidInputException):
        connection.execute("SET enable_progress_bar = false").fetchall()
    connection.execute("SET GLOBAL TimeZone = 'UTC'").fetchall()  # an answer is the same on every machine
    return connection


def instance() -> duckdb.DuckDBPyConnection:
    """Return the process's instance; only within `engine`."""
    return _instance("questions")


def renew() -> None:
    """Drop the instance, and whatever is attached to it, after an error that made it unusable."""
    with _lock:
        instance = _instances.pop("questions", None)
        if instance is not None:
            instance.close()


def relation(table: pa.Table) -> duckdb.DuckDBPyRelation:
    """Return `table` as a relation that is its own: it holds no lock and blocks no other."""
    with _lock:
        cursor = _instance("answers").cursor()
        answer = cursor.from_arrow(table)
        if answer.columns == table.column_names:
            return answer
        # DuckDB 1.5 tells equal names apart, as a join of two tables has them, and then looks them up in Arrow in vain.
        return cursor.from_arrow(table.rename_columns(answer.columns))


def _instance(name: str) -> duckdb.DuckDBPyConnection:
    if name not in _instances:
        _instances[name] = connect()
    return _instances[name]


def _after_fork() -> None:
    # The instances' threads exist only in the parent: the child must neither use nor close them.
    global _lock
    _lock = threading.RLock()
    _forsaken.extend(_instances.values())
    _instances.clear()


os.register_at_fork(after_in_child=_after_fork)
