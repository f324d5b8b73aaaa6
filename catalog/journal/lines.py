"""Journal lines on their way into DuckDB."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_FEWEST = 512  # lines that are worth a thread of their own


@dataclass(frozen=True)
class Part:
    """Lines of a segment.

    Attributes
    ----------
    segment : str
        Its name.
    data : bytes
        The lines, without the end of the last one.
    known : int
        How many others stand before them.
    end : int
        Bytes of the segment up to behind them.
    """

    segment: str
    data: bytes
    known: int
    end: int

    @cached_property
    def count(self) -> int:
        """How many lines they are."""
        return self.data.count(b"\n") + 1


def table_of(parts: list[Part]) -> pa.Table:
    """Return lines of segments as DuckDB reads them: ``line``, ``segment`` and ``position``.

    Each of the table's batches is read by one of DuckDB's threads.
    """
    import pyarrow as pa

    most = max(_FEWEST, -(-sum(part.count for part in parts) // (os.cpu_count() or 1)))
    batches = [batch for part in parts for batch in _batches(part, most)]
    return pa.Table.from_batches(batches, batches[0].schema)


def _batches(part: Part, most: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    count = part.count
    segment = part.segment.encode()
    numbers = pa.py_buffer(array("q", range(part.known + 1, part.known + count + 1)))
    columns = [
        _texts(_ascii(part.data)),
        _strings(array("i", range(0, (count + 1) * len(segment), len(segment))), segment * count),
        pa.Array.from_buffers(pa.int64(), count, [None, numbers]),
    ]
    whole = pa.RecordBatch.from_arrays(columns, ["line", "segment", "position"])
    for at in range(0, count, most):
        yield whole.slice(at, most)


def _ascii(data: bytes) -> bytes:
    """Return lines without those that are not ASCII: they were damaged, and must not pass as text that was mended."""
    if data.isascii():
        return data
    return b"\n".join(line if line.isascii() else b"" for line in data.split(b"\n"))


def _texts(data: bytes) -> pa.Array:
    """Return lines as an array over the same bytes, each with its end, which is nothing to JSON."""
    ends = array("i", [0])
    end = data.find(b"\n") + 1
    while end:
        ends.append(end)
        end = data.find(b"\n", end) + 1
    ends.append(len(data))
    return _strings(ends, data)


def _strings(ends: array[int], data: bytes) -> pa.Array:
    """Return strings that lie one behind the other; `pyarrow.array` would import pandas, to see what it is given."""
    import pyarrow as pa

    return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(data))
