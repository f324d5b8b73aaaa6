"""SQL from anybody, in a box: it reads the catalog, and nothing else is possible.

Two walls, each of which holds alone. The statements are read before they run
(`catalog.statements`), so that a refusal can say what was refused. And they run
in a DuckDB instance of their own, made for this one question, to which the
index is attached read-only, and which has no file system, network, extensions,
settings and Python variables. Of the index it shows the catalog's tables.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import InvalidQuestion
from catalog.query import Parameters
from catalog.results import Tables, hand_in
from catalog.schema import TABLES
from catalog.statements import INDEX, check, check_parameters, shortened

__all__ = ["Limits", "check", "run"]

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# What closes the box once the index is attached, in this order. Without access to files DuckDB still opens those that
# are attached, and `COPY ... TO` would write to them; without a file system it opens none, and reads what is open.
_CLOSING = (
    "SET enable_external_access = false",
    "SET disabled_filesystems = 'LocalFileSystem'",
    "SET lock_configuration = true",
)
_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)B\s*", re.IGNORECASE | re.ASCII)
_UNITS = "BKMGT"
_AGAIN = 0.05  # seconds between two interrupts
_ROWS = 10_000  # of an answer that are taken at once


@dataclass(frozen=True)
class Limits:
    """What a query may take.

    Attributes
    ----------
    memory : str
        A number of bytes with its unit, such as ``"1GB"``: for the query, and again for its answer.
    seconds : float
        Time until it is interrupted.

    Raises
    ------
    InvalidQuestion
        If a limit cannot be understood.
    """

    memory: str
    seconds: float

    def __post_init__(self) -> None:
        if not isinstance(self.memory, str) or not _MEMORY.fullmatch(self.memory):
            raise InvalidQuestion(f"memory_limit={self.memory!r}: it is a number with a unit, such as '500MB' or '1GB'")
        is_number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if not is_number or not 0 < self.seconds <= threading.TIMEOUT_MAX:
            raise InvalidQuestion(f"time_limit={self.seconds!r}: it is a number of seconds above 0")

    @property
    def bytes(self) -> int:
        """The memory as a number."""
        amount, unit, binary = _MEMORY.findall(self.memory)[0]
        return int(float(amount) * (1024 if binary else 1000) ** _UNITS.index(unit.upper()))


def run(path: str, query: str, parameters: Parameters, limits: Limits, tables: Tables) -> pa.Table:
    """Return the answer to a query that was checked.

    Parameters
    ----------
    path : str
        The index, which no other connection of this process has open.
    query : str
        One or more statements; the answer is the last one's.
    parameters : list, tuple or mapping, optional
        The query's parameters.
    limits : Limits
        What it may take.
    tables : mapping
        The results that it reads as tables (`catalog.results`).

    Returns
    -------
    pyarrow.Table
        All rows.

    Raises
    ------
    InvalidQuestion
        If parameters are missing or too many, DuckDB refuses it, or it takes too much.
    """
    import duckdb

    try:
        check_parameters(query, parameters)
        with _instance(path, limits, tables) as connection, _interrupted(connection, limits):
            answer = connection.sql(query, params=parameters)
            if answer is None:
                raise InvalidQuestion("the query has no answer: end it with a SELECT")
            return _taken(answer, limits)
    except (duckdb.Error, OSError) as error:  # the latter from Arrow, while an answer is taken
        raise _explained(error, limits) from error


def _taken(answer: duckdb.DuckDBPyRelation, limits: Limits) -> pa.Table:
    """Return the whole answer; it leaves DuckDB, and so its memory limit, piece by piece."""
    import pyarrow as pa

    reader = answer.to_arrow_reader(_ROWS)
    batches = []
    size = 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > limits.bytes:
            raise InvalidQuestion(f"the answer is larger than the memory limit, {limits.memory}: ask for less of it")
    return pa.Table.from_batches(batches, reader.schema)


def _explained(error: Exception, limits: Limits) -> InvalidQuestion:
    said = str(error)
    if "INTERRUPT" in said:
        return InvalidQuestion(f"the query was stopped after {limits.seconds:g} s, its time limit")
    if "Out of Memory" in said:
        return InvalidQuestion(f"the query was stopped at its memory limit, {limits.memory}")
    if "LocalFileSystem" in said:
        return InvalidQuestion("a file is refused: a query sees the catalog, no files, settings or secrets")
    return InvalidQuestion(shortened(error))


@contextmanager
def _instance(path: str, limits: Limits, tables: Tables) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": limits.memory,
        "python_enable_replacements": "false",
        "temp_directory": "",
    }
    connection = duckdb.connect(":memory:", config=config)
    try:
        quoted = path.replace("'", "''")
        attach = f"ATTACH '{quoted}' AS {INDEX} (READ_ONLY)"
        views = [f"CREATE VIEW {table} AS FROM {INDEX}.main.{table}" for table in TABLES]
        hand_in(connection, tables)
        for statement in (attach, *views, *_CLOSING):
            connection.execute(statement).fetchall()
        yield connection
    finally:
        connection.close()


@contextmanager
def _interrupted(connection: duckdb.DuckDBPyConnection, limits: Limits) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        pause = limits.seconds
        while not done.wait(pause):
            connection.interrupt()
            pause = _AGAIN  # an interrupt that comes before the query runs is forgotten

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
