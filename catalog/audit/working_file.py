"""The rows of an export, copied from the index into a working file within one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.audit.digest import hash_sql, link
from catalog.audit.manifest import Lines
from catalog.audit.previous import Previous
from catalog.format.columns import TABLES, Column
from catalog.query.conditions import Conditions
from catalog.query.filters import TIMES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from catalog.index.index import Index

#: Where a row of `events` was told: with both, an auditor sees that none is missing between two others.
PLACE = (
    Column("segment", "VARCHAR", "journal segment that told it"),
    Column("position", "BIGINT", "number of its line in the segment, from 1"),
)
#: The columns of each table's exports.
COLUMNS = {**TABLES, "events": (*TABLES["events"], *PLACE)}

_ORDERS = {
    "tasks": "workflow, task",
    "events": "segment, position, event_id",
    "runs": "run_id, started, finished, status",
}
_ROWS = 100_000  # of a row group of the working file
#: The ways to part an export, as SQL over its rows.
PARTS = {"workflow": "workflow", "day": "strftime({time}, '%Y-%m-%d')"}

#: Which Arrow type a column leaves the catalog as (`catalog.audit.digest.kind_of`): UUIDs and JSON are text everywhere.
ARROW = {
    "BIGINT": "int64",
    "BOOLEAN": "bool",
    "DOUBLE": "double",
    "INTEGER": "int32",
    "JSON": "string",
    "TIMESTAMPTZ": "timestamp[us, tz=UTC]",
    "UUID": "string",
    "VARCHAR": "string",
    "VARCHAR[]": "list",
}


def write_working_file(
    index: Index, path: str, table: str, by: str | None, wanted: Conditions, before: Previous
) -> tuple[str, dict[str, Lines]]:
    """Copy the rows of an export into a Parquet file, in their order, each with its ``row_hash`` and its ``part``.

    Parameters
    ----------
    index : Index
        The storage's.
    path : str
        The file, in a folder that is there.
    table : str
        ``tasks``, ``events`` or ``runs``.
    by : str or None
        One of `PARTS`, whose rows then stand together.
    wanted : Conditions
        Which rows.
    before : Previous
        What an export of events continues.

    Returns
    -------
    tuple of (str, dict of str to Lines)
        The storage that the rows are of; of events, the lines of each segment.
    """
    columns = COLUMNS[table]
    hashed = hash_sql((column.name, ARROW[column.type]) for column in columns)
    part = PARTS[by].format(time=f'"{TIMES[table]}"') if by else "NULL::VARCHAR"
    source, bounds = table, {}
    with index.question() as (connection, _):
        ((storage,),) = connection.execute("SELECT storage FROM meta").fetchall()
        if table == "events":
            source, bounds = _BETWEEN, _bounds(connection, storage, before)
        rows = connection.sql(
            f"""SELECT *, {hashed} AS row_hash
                FROM (SELECT {_cast(columns)}, {part} AS part FROM {source}{wanted.where()})
                ORDER BY part, {_ORDERS[table]}""",
            params=wanted.parameters,
        ).to_arrow_reader(_ROWS)
        _write(path, rows)
    return storage, _chained(path, bounds, before) if bounds else {}


def _write(path: str, rows: pa.RecordBatchReader) -> None:
    import pyarrow.parquet as pq

    # An answer that is not read to its end would keep the index open.
    with rows, pq.ParquetWriter(path, rows.schema) as file:
        for batch in rows:
            file.write_batch(batch)


def _cast(columns: tuple[Column, ...]) -> str:
    as_text = {"JSON", "UUID"}
    fields = (f'"{c.name}"::VARCHAR AS "{c.name}"' if c.type in as_text else f'"{c.name}"' for c in columns)
    return ", ".join(fields)


def _bounds(connection: duckdb.DuckDBPyConnection, storage: str, before: Previous) -> dict[str, _Bounds]:
    """Return which lines of each segment are new, and note them in a temporary table for `_BETWEEN`."""
    ends = dict(connection.execute(_ENDS).fetchall())
    unplaced = connection.execute("SELECT count(*) FROM history WHERE segment IS NULL").fetchall()[0][0]
    before.check(storage, ends, unplaced)
    begins = [before.end(segment) for segment in ends]
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE bounds AS
        SELECT unnest(?::VARCHAR[]) AS segment, unnest(?::BIGINT[]) AS low, unnest(?::BIGINT[]) AS high""",
        [list(ends), begins, list(ends.values())],
    ).fetchall()
    missing: dict[str, list[list[int]]] = {segment: [] for segment in ends}
    for segment, first, last in connection.execute(_MISSING).fetchall():
        missing[segment].append([first, last])
    return {
        segment: _Bounds(begin, ends[segment], missing[segment]) for segment, begin in zip(ends, begins, strict=True)
    }


@dataclass(frozen=True)
class _Bounds:
    begin: int
    end: int
    missing: list[list[int]]


# The last line of each segment whose event is decided. One that is not decided is the last of its segment, and comes
# with the next export if it came true.
_ENDS = """
    SELECT history.segment, coalesce(min(position) FILTER (pending.event IS NOT NULL) - 1, max(position))
    FROM history LEFT JOIN pending USING (event_id) WHERE history.segment IS NOT NULL
    GROUP BY history.segment ORDER BY history.segment
"""

# Lines without an event between those that have one; an undecided event stands behind the end, and bounds the last.
_MISSING = """
    SELECT segment, first, last FROM (
        SELECT segment, position - 1 AS last,
               coalesce(lag(position) OVER (PARTITION BY segment ORDER BY position), low) + 1 AS first
        FROM history JOIN bounds USING (segment) WHERE position > low AND position <= high + 1
    ) WHERE first <= last ORDER BY segment, first
"""

_BETWEEN = """(
    SELECT history.* FROM history LEFT JOIN bounds USING (segment) ANTI JOIN pending USING (event_id)
    WHERE history.segment IS NULL OR (position > low AND position <= high)
)"""


def _chained(path: str, bounds: dict[str, _Bounds], before: Previous) -> dict[str, Lines]:
    """Return the lines of every segment with its chain, carried on over the rows of the working file."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["segment", "position", "row_hash"])
    rows = rows.filter(rows.column("segment").is_valid()).sort_by([("segment", "ascending"), ("position", "ascending")])
    links = {segment: before.link(segment) for segment in bounds}
    counts = dict.fromkeys(bounds, 0)
    for batch in rows.to_batches():
        for segment, row in zip(batch.column(0).to_pylist(), batch.column(2).to_pylist(), strict=True):
            links[segment] = link(links[segment], row)
            counts[segment] += 1
    return {
        segment: Lines(
            begin=lines.begin,
            end=lines.end,
            rows=counts[segment],
            hash_before=before.link(segment).hex(),
            hash_after=links[segment].hex(),
            missing=lines.missing,
        )
        for segment, lines in bounds.items()
    }
