"""Journal lines on their way into DuckDB."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_TOGETHER = 4_096  # lines: what one of DuckDB's threads takes at a time


@dataclass(frozen=True)
class Part:
    """Lines of a segment.

    Attributes
    ----------
    segment : str
        Its name.
    lines : list of str
        Without their ends.
    known : int
        How many others stand before them.
    end : int
        Bytes of the segment up to behind them.
    """

    segment: str
    lines: list[str]
    known: int
    end: int


def lines_of(data: bytes) -> list[str]:
    """Return the lines of a part of a segment.

    They are ASCII: what is not was damaged, and must not pass as text that was mended.
    """
    if data.isascii():
        return data.decode("ascii").split("\n")
    return [line.decode() if line.isascii() else "" for line in data.split(b"\n")]


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, parts: list[Part]) -> Iterator[str]:
    """Let DuckDB see lines of segments, with their numbers.

    They go as Arrow batches: those are read by several threads, which the parts of one string are not.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Where they are seen within the block.
    parts : list of Part
        The lines.

    Yields
    ------
    str
        SQL that selects ``line``, ``segment`` and ``position``.
    """
    import pyarrow as pa

    batches = [batch for part in parts for batch in _batches(part)]
    connection.register("lines_read", pa.Table.from_batches(batches, batches[0].schema))
    try:
        yield "SELECT * FROM lines_read"
    finally:
        connection.unregister("lines_read")


def _batches(part: Part) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for at in range(0, len(part.lines), _TOGETHER):
        lines = part.lines[at : at + _TOGETHER]
        first = part.known + at + 1
        numbers = pa.py_buffer(array("q", range(first, first + len(lines))))
        columns = [
            _texts(lines),
            _texts([part.segment] * len(lines)),
            pa.Array.from_buffers(pa.int64(), len(lines), [None, numbers]),
        ]
        yield pa.RecordBatch.from_arrays(columns, ["line", "segment", "position"])


def _texts(lines: list[str]) -> pa.Array:
    """Return strings as an Arrow array; `pyarrow.array` would import pandas, to see whether they are a series."""
    import pyarrow as pa

    encoded = [line.encode() for line in lines]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
