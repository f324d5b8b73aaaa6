"""What an index defines: an index is used only if that is what this library makes, and nothing else.

Whoever can write to a storage can put an index there whose views, macros, defaults or constraints do as they like
with the question of somebody else. (What such an index can reach at all is bounded by `catalog.index.engine.confined`.)
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from catalog.index.engine import connect
from catalog.index.schema import CREATE

if TYPE_CHECKING:
    import duckdb

#: What a file was when it was last looked at; None for one that is not there.
Identity = tuple[tuple[int, ...] | None, ...]

Definitions = frozenset[tuple[str, str, str | None]]

# Columns, defaults, generated columns and constraints are in the SQL of their tables. Parentheses do not count: DuckDB
# sets them otherwise in a view that was just made than in one that was read from a file.
_DEFINED = """
    SELECT kind, name, translate(sql, ' ()', '') FROM (
    SELECT 'schema' AS kind, schema_name AS name, NULL AS sql FROM duckdb_schemas() WHERE database_name = $name
    UNION ALL SELECT 'table', schema_name || '.' || table_name, sql FROM duckdb_tables() WHERE database_name = $name
    UNION ALL SELECT 'view', schema_name || '.' || view_name, sql FROM duckdb_views()
              WHERE database_name = $name AND NOT internal
    UNION ALL SELECT 'index', schema_name || '.' || index_name, sql FROM duckdb_indexes() WHERE database_name = $name
    UNION ALL SELECT 'sequence', schema_name || '.' || sequence_name, sql FROM duckdb_sequences()
              WHERE database_name = $name
    UNION ALL SELECT 'type', schema_name || '.' || type_name, NULL FROM duckdb_types()
              WHERE database_name = $name AND NOT internal
    UNION ALL SELECT 'macro', schema_name || '.' || function_name, NULL FROM duckdb_functions()
              WHERE database_name = $name AND NOT internal
    )
"""


def foreign(connection: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    """Return what an attached index defines otherwise than this library, or lacks.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        To which it is attached.
    name : str
        As what.

    Returns
    -------
    list of str
        Kinds and names, such as ``view main.tasks``.

    Notes
    -----
    Measured: 40 ms, nearly all of which DuckDB takes to list its functions.
    """
    return sorted({f"{kind} {name}" for kind, name, _ in _expected() ^ _defined(connection, name)})


def identity(path: str) -> Identity:
    """Return what tells whether an index was changed since: of its file, and of its log of writes."""
    return tuple(_state(each) for each in (path, f"{path}.wal"))


def _state(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    # Anybody can set the time of modification, and nobody that of the change of the inode.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _defined(connection: duckdb.DuckDBPyConnection, name: str) -> Definitions:
    return frozenset(connection.execute(_DEFINED, {"name": name}).fetchall())


@cache
def _expected() -> Definitions:
    with connect() as own:  # the text of a definition is that of DuckDB's version
        for statement in CREATE:
            own.execute(statement).fetchall()
        return _defined(own, "memory")
