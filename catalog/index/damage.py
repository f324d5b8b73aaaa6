"""Proof that an index's file is damaged.

An error in the midst of a question proves nothing: memory, disk, rights, a missing package, DuckDB or the journal may
be its cause. Proof is that an instance of its own, which only reads, cannot read what must be in the file.
"""

from __future__ import annotations

from catalog.format.columns import TABLES
from catalog.index.engine import INDEX, confined

# What DuckDB says of a file in an exception that other causes have too.
_WORDS = (
    "is not a valid DuckDB database file",
    "Corrupt database file",  # a checksum; from DuckDB 2.0.1 on an exception without a kind
    "Could not read enough bytes",
    "Failure while replaying WAL",
    "WAL does not match",
)
_KINDS = ("FatalException", "InternalException", "SerializationException")
_MISSING = ("BinderException", "CatalogException")
_CONTENT = ("meta", "segments", "compacted", "folders", "past", "latest", "pending", "pins")


class QueryFailed(Exception):
    """DuckDB, or Arrow, has refused a query in another process.

    Parameters
    ----------
    kind : str
        The name of the exception's class.
    said : str
        Its message.
    """

    def __init__(self, kind: str, said: str) -> None:
        super().__init__(said)
        self.kind = kind


def may_tell_of_damage(kind: str, message: str) -> bool:
    """Tell whether an exception of DuckDB, whose class is called `kind`, is reason enough to look for damage."""
    return kind in _KINDS or any(words in message for words in _WORDS)


def is_damaged(path: str) -> bool:
    """Tell whether an index's file is proven to be damaged.

    Parameters
    ----------
    path : str
        The file; nobody else may write it meanwhile.

    Returns
    -------
    bool
        Whether DuckDB cannot read it as a whole, or lacks a table in it. Whatever else keeps it from that is no proof.
    """
    import duckdb

    quoted = path.replace("'", "''")
    try:
        with confined(path) as connection:
            connection.execute(f"ATTACH '{quoted}' AS {INDEX} (TYPE duckdb, READ_ONLY)").fetchall()
            for table in _CONTENT:  # every block of them, each with its checksum
                connection.execute(f"SELECT max(hash(content)) FROM {INDEX}.{table} content").fetchall()
            for view in TABLES:
                connection.execute(f"SELECT * FROM {INDEX}.{view} LIMIT 0").fetchall()
    except duckdb.Error as error:
        kind = type(error).__name__
        return kind in _MISSING or may_tell_of_damage(kind, str(error))
    return False
