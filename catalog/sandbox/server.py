"""The process in which anybody's SQL is read and runs: it asks DuckDB and sends the answer, within limits that hold.

DuckDB's own limits are looked at between pieces of work, and do not count what
a function builds for a single row. The operating system's limits hold always:
of memory, and of what is written to files, which is nothing. They bind a whole
process; hence this one, which `catalog.sandbox.client` starts and ends.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from catalog.errors import InvalidQuestion
from catalog.format.columns import TABLES
from catalog.index.engine import connect
from catalog.query.conditions import Parameters
from catalog.sandbox.limits import SLACK, Limits, address_space, bounded, confine
from catalog.sandbox.results import Tables, hand_in, named_in
from catalog.sandbox.statements import INDEX, check, check_parameters, refused_functions

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: What goes before the bytes of every message: its kind and their number.
HEADER = struct.Struct(">cQ")
#: It can be asked; it has taken the question, and its end from now on may be the query's doing; a piece of the answer,
#: as an Arrow stream; the answer's end, as JSON with the error if there is one.
READY, TAKEN, PIECE, END = b"R", b"T", b"P", b"E"


# What closes the sandbox once the index is attached, in this order. Without access to files DuckDB still opens those
# that are attached, and `COPY ... TO` would write to them; without a file system it opens none, and reads what is open.
_CLOSING = (
    "SET enable_external_access = false",
    "SET disabled_filesystems = 'LocalFileSystem'",
    "SET lock_configuration = true",
)
_AGAIN = 0.05  # seconds between two interrupts
_ROWS = 10_000  # of an answer that are sent at once
_MOST_SAID = 10_000  # characters of an error: DuckDB quotes values in full
_PARENT = 0.5  # seconds between two looks at whether the parent lives


@dataclass(frozen=True)
class Read:
    """A query that is only to be read, for the results in it that are tables.

    Attributes
    ----------
    query : str
        Anybody's text.
    limits : Limits
        What it may take.
    """

    query: str
    limits: Limits


@dataclass(frozen=True)
class Asked(Read):
    """A query that is to be answered.

    Attributes
    ----------
    path : str
        The index.
    parameters : list, tuple or mapping, optional
        The query's parameters.
    tables : mapping
        The results that it reads as tables (`catalog.sandbox.results`).
    """

    path: str
    parameters: Parameters
    tables: Tables


def main() -> None:
    """Answer questions from stdin on stdout, until there are no more or the parent, whose process id is given, ends."""
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no part of an answer
    with suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, answers)
    os._exit(0)  # there is nothing to tidy up, and the limits leave no room for it


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT)
    os._exit(1)


def _serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    confine()
    connection = _instance()
    _warm(connection)
    base = address_space()
    while address_space() <= base + SLACK // 2:  # a process that a question has swollen ends, and a new one is small
        _send(answers, READY)
        header = questions.read(HEADER.size)
        if not header:
            return
        question = questions.read(HEADER.unpack(header)[1])
        _send(answers, TAKEN)
        error = _answer(connection, question, base, answers)
        connection.close()  # before the end is told: then the index is free
        _send(answers, END, json.dumps(error).encode())
        connection = _instance()


def _answer(connection: duckdb.DuckDBPyConnection, content: bytes, base: int, answers: IO[bytes]) -> dict[str, str]:
    """Send the answer, and return the error if there is one."""
    try:
        question: Read = pickle.loads(content)
        tables = question.tables if isinstance(question, Asked) else {}
        with bounded(base, question.limits, sum(map(len, tables.values()))):
            for piece in _pieces(connection, question):
                _send(answers, PIECE, piece)
    except BrokenPipeError:
        raise
    except Exception as error:
        return {"kind": type(error).__name__, "said": str(error)[:_MOST_SAID]}
    return {}


def _pieces(connection: duckdb.DuckDBPyConnection, question: Read) -> Iterator[bytes | pa.Buffer]:
    statements = check(connection, question.query)
    if isinstance(question, Asked):
        check_parameters(statements, question.parameters)
        yield from _rows(connection, statements, question)
    else:
        yield json.dumps(named_in(question.query)).encode()


def _send(answers: IO[bytes], kind: bytes, content: bytes | pa.Buffer = b"") -> None:
    answers.write(HEADER.pack(kind, memoryview(content).nbytes))
    answers.write(content)
    answers.flush()


# DuckDB


def _instance() -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "temp_directory": "",
    }
    return connect(config)


def _warm(connection: duckdb.DuckDBPyConnection) -> None:
    """Load what is loaded with the first answer, and have all threads."""
    refused_functions()
    many = connection.sql("SELECT range % 1000 AS a, max(range::VARCHAR) FROM range(1000000) GROUP BY a", params=[])
    for batch in many.to_arrow_reader(_ROWS):
        _as_stream(batch.schema, batch)


def _rows(
    connection: duckdb.DuckDBPyConnection, statements: list[duckdb.Statement], asked: Asked
) -> Iterator[pa.Buffer]:
    """Yield the answer: first its schema, then its rows, each piece a whole Arrow stream."""
    quoted = asked.path.replace("'", "''")
    with _interrupted(connection, asked.limits.seconds):
        limit = f"SET memory_limit = '{asked.limits.memory}'"
        attach = f"ATTACH '{quoted}' AS {INDEX} (READ_ONLY)"
        views = [f"CREATE VIEW {table} AS FROM {INDEX}.main.{table}" for table in TABLES]
        hand_in(connection, asked.tables)
        for statement in (limit, attach, *views, *_CLOSING):
            connection.execute(statement).fetchall()
        for earlier in statements[:-1]:
            rows = connection.execute(earlier)
            while rows.fetchmany(_ROWS):  # it runs to its end, and takes no room
                pass
        answer = connection.sql(statements[-1], params=asked.parameters)
        if answer is None:
            raise InvalidQuestion("the query has no answer: end it with a SELECT")
        reader = answer.to_arrow_reader(_ROWS)
        yield _as_stream(reader.schema)
        for batch in reader:
            yield _as_stream(reader.schema, batch)


def _as_stream(schema: pa.Schema, *batches: pa.RecordBatch) -> pa.Buffer:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return sink.getvalue()


@contextmanager
def _interrupted(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        pause = seconds
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
