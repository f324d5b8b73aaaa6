"""Digests of exported rows, which anybody can compute again from the file alone.

A row's canonical text is made of its columns in their order, each as ``-`` if
it is null, else as ``<bytes>:<text>``: the length of the text in UTF-8, a colon,
the text. Nothing stands between them, and no two rows have one text.

========== ==================================================================
type       text
========== ==================================================================
string     itself
integer    decimal digits, with ``-`` in front if negative
double     C's ``%.16e``: 17 significant digits; or ``nan``, ``inf``, ``-inf``
boolean    ``true`` or ``false``
timestamp  microseconds since 1970 as an integer; or ``infinity``, ``-infinity``
list       its elements, written as columns are, one behind another
========== ==================================================================

A row's hash is the SHA-256 of its text in UTF-8. Source of the chain: S. Haber
and W. S. Stornetta, How to time-stamp a digital document, 1991: each link is the
hash of the one before it and of what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: The link before the first row of a segment.
NO_ROWS = bytes(32)

_TEXTS = {
    "string": "{0}",
    "int32": "{0}::VARCHAR",
    "int64": "{0}::VARCHAR",
    "double": "printf('%.16e', {0})",
    "bool": "{0}::VARCHAR",
    "timestamp[us]": "coalesce(epoch_us({0})::VARCHAR, {0}::VARCHAR)",  # UTC; exports of format 1
    "timestamp[us, tz=UTC]": "coalesce(epoch_us({0})::VARCHAR, {0}::VARCHAR)",
    "list": "array_to_string(list_transform({0}, lambda x: coalesce(strlen(x)::VARCHAR || ':' || x, '-')), '')",
}


def kind_of(data_type: pa.DataType) -> str:
    """Return the name of a column's Arrow type: however a writer calls the elements of a list, it is ``list``."""
    name = str(data_type)
    return "list" if name.startswith("list<") and name.endswith(": string>") else name


def hash_sql(columns: Iterable[tuple[str, str]]) -> str:
    """Return the SQL expression of a row's hash, a BLOB of 32 bytes.

    Parameters
    ----------
    columns : iterable of tuple of (str, str)
        Names and Arrow types (`kind_of`), in the order of the file.

    Returns
    -------
    str
        DuckDB's SQL, over columns of these names.

    Raises
    ------
    KeyError
        If a type has no canonical text.
    """
    fields = []
    for name, kind in columns:
        text = _TEXTS[kind].format(_quoted(name))
        fields.append(f"coalesce(strlen({text})::VARCHAR || ':' || {text}, '-')")
    return f"unhex(sha256({' || '.join(fields)}))"


def hashes_of(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> list[bytes]:
    """Return the hash of every row.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Any one that keeps the order of rows, as DuckDB does by default.
    table : pyarrow.Table
        Rows of an export, with all its columns.

    Returns
    -------
    list of bytes
        32 bytes each, in the order of the rows.

    Raises
    ------
    KeyError
        If a type has no canonical text.
    """
    expression = hash_sql((field.name, kind_of(field.type)) for field in table.schema)
    relation = connection.from_arrow(table).project(f"{expression} AS hash")
    return list(relation.to_arrow_table().column("hash").to_pylist())


def link(before: bytes, row: bytes) -> bytes:
    """Return the link of a chain that a row adds.

    Parameters
    ----------
    before : bytes
        The link before it, or `NO_ROWS`.
    row : bytes
        The row's hash.

    Returns
    -------
    bytes
        32 bytes.
    """
    return hashlib.sha256(before + row).digest()


def canonical(content: Any) -> bytes:
    """Return the one text of a JSON value: sorted keys, no blanks, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(rows: Iterable[bytes], content: Any) -> str:
    """Return the digest of a file.

    Parameters
    ----------
    rows : iterable of bytes
        The hashes of its rows, in their order.
    content : dict
        What its metadata say of them.

    Returns
    -------
    str
        The SHA-256 of all hashes and then of the canonical text of `content`, in hexadecimal digits.
    """
    whole = hashlib.sha256()
    for row in rows:
        whole.update(row)
    whole.update(canonical(content))
    return whole.hexdigest()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
