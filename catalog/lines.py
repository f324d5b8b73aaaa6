"""Journal lines on their way into DuckDB."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_TOGETHER = 4_096  # lines: what one of DuckDB's threads takes at a time


def lines_of(data: bytes) -> list[str]:
    """Return the lines of a part of a segment.

    They are ASCII: what is not was damaged, and must not pass as text that was mended.
    """
    if data.isascii():
        return data.decode("ascii").split("\n")
    return [line.decode() if line.isascii() else "" for line in data.split(b"\n")]


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, lines: list[str], segment: str, known: int) -> Iterator[str]:
    """Let DuckDB see lines of a segment, with their numbers.

    They go as Arrow batches: those are read by several threads, which the parts of one string are not.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Where they are seen within the block.
    lines : list of str
        Without their ends.
    segment : str
        Where they stand.
    known : int
        How many others stand before them.

    Yields
    ------
    str
        SQL that selects ``line``, ``segment`` and ``position``.
    """
    import pyarrow as pa

    texts = [_texts(lines[at : at + _TOGETHER]) for at in range(0, len(lines), _TOGETHER)]
    numbers = pa.py_buffer(array("q", range(known + 1, known + len(lines) + 1)))
    columns = [pa.chunked_array(texts, pa.string()), pa.Array.from_buffers(pa.int64(), len(lines), [None, numbers])]
    table = pa.Table.from_arrays(columns, ["line", "number"])
    connection.register("lines_read", table)
    try:
        quoted = segment.replace("'", "''")
        yield f"SELECT line, '{quoted}' AS segment, number AS position FROM lines_read"
    finally:
        connection.unregister("lines_read")


def _texts(lines: list[str]) -> pa.Array:
    """Return ASCII strings as an Arrow array; `pyarrow.array` would import pandas, to see whether they are a series."""
    import pyarrow as pa

    ends = array("i", accumulate(map(len, lines), initial=0))
    return pa.StringArray.from_buffers(len(lines), pa.py_buffer(ends), pa.py_buffer("".join(lines).encode("ascii")))
