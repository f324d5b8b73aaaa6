"""SQL from anybody, in a sandbox: it reads the catalog, and nothing else is possible.

Two walls, each of which holds alone. The statements are read before they run
(`catalog.sandbox.statements`), so that a refusal can say what was refused. And they run
in a DuckDB instance made for this one question, to which the index is attached
read-only, and which has no file system, network, extensions, settings and Python
variables. Of the index it shows the catalog's tables.

Both stand in a process of their own (`catalog.sandbox.server`), whose limits hold from
the first character on: to this process a query is a text, which it hands over.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from catalog.errors import InvalidQuestion
from catalog.index.damage import QueryFailed
from catalog.query.conditions import Parameters
from catalog.sandbox import client
from catalog.sandbox.limits import Limits
from catalog.sandbox.results import Named, Tables, fetched
from catalog.sandbox.server import Asked, Read
from catalog.sandbox.statements import shortened

if TYPE_CHECKING:
    import pyarrow as pa

    from catalog.index.index import Index
    from catalog.store.base import Store

_TEXT = re.compile(r"[^\0\ud800-\udfff]*").fullmatch  # at a NUL, some versions stop reading


class Sandbox:
    """Answers anybody's SQL over one storage.

    Parameters
    ----------
    index : Index
        What a query sees.
    store : Store
        The storage, for results that are read as tables.
    verifies : bool
        Whether the files of results are held against their digests.
    """

    def __init__(self, index: Index, store: Store, verifies: bool) -> None:
        self._index = index
        self._store = store
        self._verifies = verifies

    def answer(self, query: str, parameters: Parameters, limits: Limits) -> pa.Table:
        """Return the answer to a query.

        Parameters
        ----------
        query : str
            One or more reading statements; the answer is the last one's.
        parameters : list, tuple or mapping, optional
            The query's parameters.
        limits : Limits
            What it may take.

        Returns
        -------
        pyarrow.Table
            All rows.

        Raises
        ------
        CatalogUnusable
            If there is no storage, or neither its index nor a private one can be used.
        InvalidQuestion
            If the query does more than reading, parameters are missing or too many, DuckDB refuses it, or it takes too
            much.
        """
        client.start()
        with explained(limits):
            text, named = _named(query, limits)
            with fetched(named, self._store, self._verifies) as tables:
                return self._index.shared(lambda path: run(path, text, parameters, limits, tables))


def run(path: str, query: str, parameters: Parameters, limits: Limits, tables: Tables) -> pa.Table:
    """Return the answer to a query over an index, which no other connection of this process has open.

    Raises what `explained` explains.
    """
    return _table(_asked(Asked(query, limits, path, parameters, tables)))


def _named(query: str, limits: Limits) -> tuple[str, Named]:
    """Return a query with the names of tables in place of results, and workflow and task by the name of each table."""
    if not isinstance(query, str) or not _TEXT(query):
        raise InvalidQuestion(f"a query is a text such as 'SELECT * FROM tasks', not {query!r}")
    if "result" not in query.lower():  # as nearly always: it is read when it runs
        return query, {}
    (piece,) = _asked(Read(query, limits))
    text, names = json.loads(piece)
    return text, {table: (workflow, task) for table, (workflow, task) in names.items()}


def _asked(question: Read) -> list[bytearray]:
    return client.ask(_pickled(question), question.limits.seconds, question.limits.bytes)


@contextmanager
def explained(limits: Limits) -> Iterator[None]:
    """Make an `InvalidQuestion` of whatever ends a query."""
    try:
        yield
    except QueryFailed as error:
        raise _explained(error, limits) from error
    except client.TimedOut:
        raise _stopped_late(limits) from None
    except client.TooLarge:
        raise InvalidQuestion(
            f"the answer is larger than the memory limit, {limits.memory}: ask for less of it, or raise the limit"
        ) from None
    except client.Died as error:
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


def _explained(error: QueryFailed, limits: Limits) -> InvalidQuestion:
    said = str(error)
    if error.kind == InvalidQuestion.__name__:
        return InvalidQuestion(said)
    if "INTERRUPT Error" in said:
        return _stopped_late(limits)
    if "Out of Memory Error" in said or error.kind.endswith("MemoryError"):  # of Python or Arrow
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
