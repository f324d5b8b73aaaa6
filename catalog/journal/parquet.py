"""The compacted part of the journal: Parquet files that hold the lines of segments, each with its place in one.

The columns are those of the index's history, so any engine reads the history where it lies. A line that has fields
which this version does not know is kept as it is, too, in the column ``line``. The file's metadata, under the key
``functionfuse``, is a JSON object: ``format``, the version of this format, and ``segments``, which names the segments
whose lines are all in the file: ``name``, ``position`` (bytes), ``lines``, and how many of them are ``torn``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Protocol

from catalog.errors import CatalogUnusable, NewerFormat
from catalog.format.columns import BATCH, Column

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 2  # 1 had times without a zone, in UTC
_COLUMNS = (*BATCH, Column("line", "VARCHAR", "the journal's line, where it has fields that are no columns"))
_KEY = b"functionfuse"
_LEVEL = 9  # of zstd: a tenth smaller than level 3, and parsing the lines takes longer


@dataclass(frozen=True)
class CompactedSegment:
    """A segment whose lines are all in a compacted file.

    Attributes
    ----------
    name : str
        Its file's name.
    position : int
        Bytes that it had.
    lines : int
        Lines that it had.
    torn : int
        How many of them were no events.
    """

    name: str
    position: int
    lines: int
    torn: int


class Sink(Protocol):
    """What a compacted file is written to."""

    def write(self, data: bytes) -> int:
        """Append bytes."""


class Writer:
    """Writes a compacted file.

    Parameters
    ----------
    file : Sink
        Takes its bytes.
    """

    def __init__(self, file: Sink) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(file, _schema(), compression="zstd", compression_level=_LEVEL)

    def write(self, table: pa.Table) -> None:
        """Add rows, as parsed from lines, or as `tables` yields them."""
        self._writer.write_table(table.cast(_schema()))

    def close(self, segments: list[CompactedSegment]) -> None:
        """Say which segments the file holds, and end it."""
        content = {"format": FORMAT, "segments": [asdict(segment) for segment in segments]}
        self._writer.add_key_value_metadata({_KEY: json.dumps(content).encode()})
        self._writer.close()


def segments(file: IO[bytes]) -> list[CompactedSegment]:
    """Return which segments a compacted file holds.

    Returns
    -------
    list of CompactedSegment
        As its metadata names them.

    Raises
    ------
    NewerFormat
        If a newer version wrote it.
    CatalogUnusable
        If it is no compacted file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = json.loads(pq.read_metadata(file).metadata[_KEY])
        version = content["format"]
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise _damaged(file, error) from error
    if version > FORMAT:
        raise NewerFormat(f"{file.name} has format {version}, this version reads up to {FORMAT}: install a newer one")
    return [CompactedSegment(**segment) for segment in content["segments"]]


def _damaged(file: IO[bytes], error: Exception) -> CatalogUnusable:
    return CatalogUnusable(f"{file.name} is damaged ({str(error).strip()}): restore it, or move it out of the journal")


def tables(file: IO[bytes]) -> Iterator[pa.Table]:
    """Yield the rows of a compacted file, some at a time.

    Yields
    ------
    pyarrow.Table
        Rows with all the columns that this version writes.

    Raises
    ------
    CatalogUnusable
        If they are damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pq.ParquetFile(file)
    for group in range(content.num_row_groups):
        try:
            table = content.read_row_group(group)
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None):  # the disk's or the bucket's, and not what is in the file
                raise
            raise _damaged(file, error) from error
        yield _completed(table)


def joined(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of several tables as one."""
    import pyarrow as pa

    return pa.concat_tables(tables)


def without(table: pa.Table, event_ids: Collection[str]) -> pa.Table:
    """Return rows without those of some events."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not event_ids:
        return table
    return table.filter(pc.invert(pc.is_in(table["event_id"], pa.array(list(event_ids), pa.string()))))


def _completed(table: pa.Table) -> pa.Table:
    """Return rows of any version as this one writes them.

    Columns that it did not have yet are as they are in its lines; its times without a zone are UTC.
    """
    import pyarrow as pa

    for index, field in enumerate(_schema()):
        if field.name not in table.column_names:
            values = table["size"] if field.name == "logical_size" else pa.nulls(table.num_rows, field.type)
            table = table.add_column(index, field, values)
        elif pa.types.is_timestamp(field.type):
            at = table.column_names.index(field.name)
            table = table.set_column(at, field, table[field.name].cast(field.type))
    return table


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "INTEGER": pa.int32(),
        "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
        "VARCHAR[]": pa.list_(pa.string()),
    }
    return pa.schema(
        pa.field(column.name, types.get(column.type, pa.string()), metadata={"meaning": column.meaning})
        for column in _COLUMNS
    )
