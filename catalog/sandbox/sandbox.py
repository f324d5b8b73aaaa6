"""SQL from anybody, in a box: it reads the catalog, and nothing else is possible.

Two walls, each of which holds alone. The statements are read before they run
(`catalog.sandbox.statements`), so that a refusal can say what was refused. And they run
in a DuckDB instance made for this one question, to which the index is attached
read-only, and which has no file system, network, extensions, settings and Python
variables. Of the index it shows the catalog's tables.

Both stand in a process of their own (`catalog.sandbox.process`), whose limits hold from
the first character on: to this process a query is a text, which it hands over.
"""

from __future__ import annotations

import json
import pickle
import re
from typing import TYPE_CHECKING

from catalog.errors import InvalidQuestion
from catalog.query.conditions import Parameters
from catalog.sandbox import worker
from catalog.sandbox.process import Asked, Limits, Read
from catalog.sandbox.results import Named, Tables
from catalog.sandbox.statements import shortened
from catalog.sandbox.worker import start

__all__ = ["Limits", "named", "run", "start"]

if TYPE_CHECKING:
    import pyarrow as pa

_TEXT = re.compile(r"[^\0\ud800-\udfff]*").fullmatch  # at a NUL, some versions stop reading


def named(query: str, limits: Limits) -> tuple[str, Named]:
    """Return a query with the names of tables in place of results.

    Parameters
    ----------
    query : str
        One or more statements.
    limits : Limits
        What reading it may take.

    Returns
    -------
    tuple of (str, mapping)
        The query, and workflow and task by the name of each table (`catalog.sandbox.results`).

    Raises
    ------
    InvalidQuestion
        If it is no text, and where it may name results, whenever `run` would refuse it.
    """
    if not isinstance(query, str) or not _TEXT(query):
        raise InvalidQuestion(f"a query is a text such as 'SELECT * FROM tasks', not {query!r}")
    if "result" not in query.lower():  # as nearly always: it is read when it runs
        return query, {}
    (piece,) = _asked(Read(query, limits))
    text, names = json.loads(piece)
    return text, {table: (workflow, task) for table, (workflow, task) in names.items()}


def run(path: str, query: str, parameters: Parameters, limits: Limits, tables: Tables) -> pa.Table:
    """Return the answer to a query.

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
        The results that it reads as tables (`catalog.sandbox.results`).

    Returns
    -------
    pyarrow.Table
        All rows.

    Raises
    ------
    InvalidQuestion
        If it does more than reading, parameters are missing or too many, DuckDB refuses it, or it takes too much.
    """
    return _table(_asked(Asked(query, limits, path, parameters, tables)))


def _asked(question: Read) -> list[bytearray]:
    limits = question.limits
    try:
        return worker.ask(_pickled(question), limits.seconds, limits.bytes)
    except worker.Failed as error:
        raise _explained(error, limits) from error
    except worker.TimedOut:
        raise _stopped_late(limits) from None
    except worker.TooLarge:
        raise InvalidQuestion(
            f"the answer is larger than the memory limit, {limits.memory}: ask for less of it, or raise the limit"
        ) from None
    except worker.Died as error:
        if error.lacked_memory:
            raise _stopped_large(limits) from error
        raise InvalidQuestion(f"the query crashed the process in which it ran: {shortened(error)}") from error


def _pickled(question: Read) -> bytes:
    try:
        return pickle.dumps(question)
    except Exception as error:  # whatever a parameter's class raises
        raise InvalidQuestion(f"a parameter cannot be sent to the process of the query: {error}") from error


def _table(pieces: list[bytearray]) -> pa.Table:
    """Return the rows of all pieces, which are not copied."""
    import pyarrow as pa

    readers = [pa.ipc.open_stream(pa.py_buffer(piece)) for piece in pieces]
    return pa.Table.from_batches([batch for reader in readers for batch in reader], readers[0].schema)


def _explained(error: worker.Failed, limits: Limits) -> InvalidQuestion:
    said = str(error)
    if error.kind == InvalidQuestion.__name__:
        return InvalidQuestion(said)
    if "INTERRUPT Error" in said:
        return _stopped_late(limits)
    if "Out of Memory Error" in said or error.lacked_memory:
        return _stopped_large(limits)
    if "LocalFileSystem" in said:
        return InvalidQuestion("a file is refused: a query sees the catalog, no files, settings or secrets")
    return InvalidQuestion(shortened(error))


def _stopped_late(limits: Limits) -> InvalidQuestion:
    return InvalidQuestion(
        f"the query was stopped after {limits.seconds:g} s, its time limit: ask for less, or raise it"
    )


def _stopped_large(limits: Limits) -> InvalidQuestion:
    return InvalidQuestion(f"the query was stopped at its memory limit, {limits.memory}: ask for less, or raise it")
