"""SQL from anybody, in a box: it reads the catalog, and nothing else is possible.

Two walls. The statement is read before it runs, so that a refusal can say what
was refused. And it runs in a DuckDB instance of its own, made for this one
question, to which the index is attached read-only, and which has no access to
files, network, extensions, settings and Python variables. The second wall alone
has a hole: ``COPY ... TO`` may write to the attached file itself. The first
alone would have to know every function of every version of DuckDB.
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

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_INDEX = "catalog"
_READING = {"SELECT", "EXPLAIN"}
_PIVOTING = {"MULTI", "CREATE"}  # DuckDB makes several statements of one PIVOT, the first of them a CREATE TYPE
_WRITING = {"delete", "insert", "merge", "truncate", "update"}
_SKIPPED = re.compile(r"\s*(?:--[^\n]*(?:\n|$)|/\*.*?\*/|\s+)*", re.DOTALL)
_EXPLAIN = re.compile(r"explain\b\s*(analyze\b)?\s*(\([^()]*\))?", re.IGNORECASE)

# Functions and views that tell of the machine, or reach beyond the catalog; by their whole names or how they begin.
_FOREIGN = re.compile(
    r"(read_|duckdb_|pragma_|parquet_|sqlite_|postgres_|mysql_|iceberg_|delta_|st_read|http_|sniff_|test_)\w*"
    r"|\w+_scan|glob|query|query_table|getenv|getvariable|current_setting|set_config|write_log|parse_duckdb_log_message"
    r"|json_execute_serialized_sql|json_serialize_plan|pg_settings|which_secret|checkpoint|force_checkpoint|nextval"
    r"|currval|copy_database|enable_\w+|disable_\w+|sql_auto_complete|from_substrait|add_parquet_key",
    re.IGNORECASE,
)
# Those among them that are views, and so need no parenthesis to be called.
_FOREIGN_VIEW = re.compile(r"(duckdb|pragma|sqlite)_\w+|pg_settings", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What a query may take.

    Attributes
    ----------
    memory : str
        As DuckDB writes it, such as ``"1GB"``.
    seconds : float
        Time until it is interrupted.
    """

    memory: str
    seconds: float


def check(query: str) -> None:
    """Refuse what is not reading.

    Parameters
    ----------
    query : str
        One or more statements.

    Raises
    ------
    InvalidQuestion
        If a statement is no reading one, or names what is beyond the catalog; the message says which.
    """
    import duckdb

    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise InvalidQuestion(_shortened(error)) from error
    if not statements:
        raise InvalidQuestion("the query is empty: write a SELECT over tasks, events or runs")
    words = list(_words(query))
    pivots = any(word.lower() in ("pivot", "pivot_wider") for word, _, _ in words)
    for statement in statements:
        kind = statement.type.name
        if kind not in _READING and not (pivots and kind in _PIVOTING and not _begins(query, "create")):
            raise InvalidQuestion(f"{kind} is refused: a query of the catalog only reads (SELECT, FROM, WITH, ...)")
        if kind == "EXPLAIN":
            _check_explained(statement.query or query)
    _check_words(words)


def run(path: str, query: str, parameters: Parameters, limits: Limits) -> pa.Table:
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

    Returns
    -------
    pyarrow.Table
        All rows.

    Raises
    ------
    InvalidQuestion
        If DuckDB refuses it, or it takes too much.
    """
    import duckdb

    with _instance(path, limits) as connection, _interrupted(connection, limits):
        try:
            answer = connection.sql(query, params=parameters)
            return answer.to_arrow_table()
        except duckdb.InterruptException as error:
            raise InvalidQuestion(f"the query was stopped after {limits.seconds:g} s, its time limit") from error
        except duckdb.OutOfMemoryException as error:
            raise InvalidQuestion(f"the query was stopped at its memory limit, {limits.memory}") from error
        except duckdb.PermissionException as error:
            raise InvalidQuestion(f"refused: {_shortened(error)}") from error
        except duckdb.Error as error:
            raise InvalidQuestion(_shortened(error)) from error


@contextmanager
def _instance(path: str, limits: Limits) -> Iterator[duckdb.DuckDBPyConnection]:
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
        for statement in (
            f"ATTACH '{quoted}' AS {_INDEX} (READ_ONLY)",
            f"USE {_INDEX}",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            connection.execute(statement).fetchall()
        yield connection
    finally:
        connection.close()


@contextmanager
def _interrupted(connection: duckdb.DuckDBPyConnection, limits: Limits) -> Iterator[None]:
    timer = threading.Timer(limits.seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _words(query: str) -> Iterator[tuple[str, str, str]]:
    """Yield every name or keyword with what stands before and behind it: the nearest sign, or nothing."""
    import duckdb

    tokens = duckdb.tokenize(query)
    ends = [*(start for start, _ in tokens[1:]), len(query.encode())]
    raw = query.encode()
    texts = [
        (raw[start:end].decode(errors="replace").strip(), kind.name)
        for (start, kind), end in zip(tokens, ends, strict=True)
    ]
    texts = [(text, kind) for text, kind in texts if kind != "comment" and text]
    for index, (text, kind) in enumerate(texts):
        if kind in ("identifier", "keyword"):
            before = texts[index - 1][0] if index else ""
            behind = texts[index + 1][0] if index + 1 < len(texts) else ""
            yield text.strip('"'), before, behind


def _check_words(words: list[tuple[str, str, str]]) -> None:
    for word, before, behind in words:
        called = behind.startswith("(")
        if (called and _FOREIGN.fullmatch(word)) or _FOREIGN_VIEW.fullmatch(word):
            raise InvalidQuestion(f"{word} is refused: a query sees the catalog, no files, settings or secrets")
        if word.lower() in _WRITING and before.endswith("(") and not called:
            raise InvalidQuestion(f"{word.upper()} is refused: a query of the catalog only reads")


def _begins(query: str, word: str) -> bool:
    start = _SKIPPED.match(query)
    rest = query[start.end() if start else 0 :]
    return rest[: len(word)].lower() == word


def _check_explained(statement: str) -> None:
    import duckdb

    start = _SKIPPED.match(statement)
    explained = _EXPLAIN.sub("", statement[start.end() if start else 0 :], count=1)
    try:
        kinds = {each.type.name for each in duckdb.extract_statements(explained)}
    except duckdb.Error as error:
        raise InvalidQuestion(_shortened(error)) from error
    if not kinds <= _READING:
        raise InvalidQuestion(f"EXPLAIN of {', '.join(sorted(kinds - _READING))} is refused: only reading is explained")


def _shortened(error: Exception) -> str:
    """Return DuckDB's message with the place that it names, without its hints."""
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:4])
