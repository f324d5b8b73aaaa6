"""The process's DuckDB: in-memory instances, to each of which one index is attached for the time of a question.

Measured: opening a database file costs 16 ms and locks out other processes as
long as it is open; attaching and detaching it in a standing instance, 1 ms. An
instance can open its index and no other file, whatever is defined in that index:
hence one for each, of which the last few are kept.
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

# What DuckDB makes beside an index while it writes.
_BESIDE = ("", ".wal", ".wal.checkpoint", ".wal.recovery")
_KEPT = 4  # instances, each with threads of its own

_instances: dict[str, duckdb.DuckDBPyConnection] = {}  # by the path of the index
_answers: list[duckdb.DuckDBPyConnection] = []
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


def confined(path: str) -> duckdb.DuckDBPyConnection:
    """Return an instance of its own that has no files but an index, no extensions, and settings that are locked.

    Parameters
    ----------
    path : str
        The index, which can be attached to it.

    Returns
    -------
    duckdb.DuckDBPyConnection
        Open. It finds no variables of Python: hand it tables by `lent`.
    """
    connection = connect({"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    allowed = ", ".join("'{}'".format(f"{path}{suffix}".replace("'", "''")) for suffix in _BESIDE)
    for setting in (
        f"allowed_paths = [{allowed}]",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}").fetchall()
    return connection


def instance(path: str) -> duckdb.DuckDBPyConnection:
    """Return the process's instance for the index at `path`; only within `engine`."""
    found = _instances.pop(path, None) or confined(path)
    _instances[path] = found  # the last that was asked is the last to go
    while len(_instances) > _KEPT:
        _instances.pop(next(iter(_instances))).close()
    return found


def renew(path: str) -> None:
    """Drop the instance for an index, and what is attached to it, after an error that made it unusable."""
    with _lock:
        instance = _instances.pop(path, None)
        if instance is not None:
            instance.close()


@contextmanager
def lent(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> Iterator[None]:
    """Let statements read a table by a name, within the block.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Any one.
    name : str
        One that nobody gives a table in an index.
    table : pyarrow.Table
        Its batches are read by DuckDB's threads.
    """
    loan = _Loan(table)
    connection.register(name, loan)
    try:
        yield
    finally:
        loan.end()


class _Loan:
    """A table in a wrapping: what is registered within a transaction is kept in memory to its end."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def end(self) -> None:
        self._table = self._table.slice(0, 0)


def relation(table: pa.Table) -> duckdb.DuckDBPyRelation:
    """Return `table` as a relation that is its own: it holds no lock and blocks no other."""
    with _lock:
        if not _answers:
            _answers.append(connect())
        cursor = _answers[0].cursor()
        answer = cursor.from_arrow(table)
        if answer.columns == table.column_names:
            return answer
        # DuckDB 1.5 tells equal names apart, as a join of two tables has them, and then looks them up in Arrow in vain.
        return cursor.from_arrow(table.rename_columns(answer.columns))


def _after_fork() -> None:
    # The instances' threads exist only in the parent: the child must neither use nor close them.
    global _lock
    _lock = threading.RLock()
    _forsaken.extend((*_instances.values(), *_answers))
    _instances.clear()
    _answers.clear()


os.register_at_fork(after_in_child=_after_fork)
