"""SQL from anybody, in a box: it reads the catalog, and nothing else is possible.

Two walls, each of which holds alone. The statements are read before they run
(`catalog.statements`), so that a refusal can say what was refused. And they run
in a process of their own (`catalog._boxed`), in a DuckDB instance made for this
one question, to which the index is attached read-only, and which has no file
system, network, extensions, settings and Python variables. Of the index it shows
the catalog's tables.
"""

from __future__ import annotations

import pickle
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog import _worker
from catalog._boxed import Asked
from catalog._worker import start
from catalog.errors import InvalidQuestion
from catalog.query import Parameters
from catalog.results import Tables
from catalog.statements import check, check_parameters, shortened

__all__ = ["Limits", "check", "run", "start"]

if TYPE_CHECKING:
    import pyarrow as pa

_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)B\s*", re.IGNORECASE | re.ASCII)
_UNITS = "BKMGT"


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
        asked = Asked(path, query, parameters, limits.memory, limits.bytes, limits.seconds, tables)
        return _table(_worker.ask(_pickled(asked), limits.seconds, limits.bytes))
    except (duckdb.Error, _worker.Failed) as error:
        raise _explained(error, limits) from error
    except _worker.TimedOut:
        raise _stopped_late(limits) from None
    except _worker.TooLarge:
        raise InvalidQuestion(
            f"the answer is larger than the memory limit, {limits.memory}: ask for less of it"
        ) from None
    except _worker.Died as error:
        if error.lacked_memory:
            raise _stopped_large(limits) from error
        raise InvalidQuestion(f"the query crashed the process in which it ran: {shortened(error)}") from error


def _pickled(asked: Asked) -> bytes:
    try:
        return pickle.dumps(asked)
    except Exception as error:  # whatever a parameter's class raises
        raise InvalidQuestion(f"a parameter cannot be sent to the process of the query: {error}") from error


def _table(pieces: list[bytearray]) -> pa.Table:
    """Return the rows of all pieces, which are not copied."""
    import pyarrow as pa

    readers = [pa.ipc.open_stream(pa.py_buffer(piece)) for piece in pieces]
    return pa.Table.from_batches([batch for reader in readers for batch in reader], readers[0].schema)


def _explained(error: Exception, limits: Limits) -> InvalidQuestion:
    said = str(error)
    if "INTERRUPT" in said:
        return _stopped_late(limits)
    if "Out of Memory" in said or (isinstance(error, _worker.Failed) and error.lacked_memory):
        return _stopped_large(limits)
    if "LocalFileSystem" in said:
        return InvalidQuestion("a file is refused: a query sees the catalog, no files, settings or secrets")
    return InvalidQuestion(shortened(error))


def _stopped_late(limits: Limits) -> InvalidQuestion:
    return InvalidQuestion(f"the query was stopped after {limits.seconds:g} s, its time limit")


def _stopped_large(limits: Limits) -> InvalidQuestion:
    return InvalidQuestion(f"the query was stopped at its memory limit, {limits.memory}")
