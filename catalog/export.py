"""The catalog as Parquet, for any other tool, with digests for an auditor.

An export is made in two steps. Within a question DuckDB copies the rows, in
their order and with their hashes, into a working file: nothing has to fit into
memory, and other questions wait no longer than that. Then the files are
written from it, each with its manifest, and published.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from catalog.destination import PART_FILE, destination, part_folder
from catalog.digest import hash_sql, link
from catalog.errors import CatalogError, ExportRefused, InvalidQuestion
from catalog.filters import TIMES, conditions, given
from catalog.manifest import FORMAT, KEY, Lines, Manifest, Part, digest_of_export
from catalog.previous import Previous, previous
from catalog.query import Conditions
from catalog.record import utc_text
from catalog.schema import SCHEMA_VERSION, TABLES, Column

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    from catalog.index import Index

_ROWS_AT_ONCE = 1 << 16  # also the size of a row group

#: Where a row of `events` was told: with both, an auditor sees that none is missing between two others.
PLACE = (
    Column("segment", "VARCHAR", "journal segment that told it"),
    Column("position", "BIGINT", "number of its line in the segment, from 1"),
)
COLUMNS = {**TABLES, "events": (*TABLES["events"], *PLACE)}

_ORDERS = {
    "tasks": "workflow, task",
    "events": "segment, position, event_id",
    "runs": "run_id, started, finished, status",
}
_PARTS = {"workflow": "workflow", "day": "strftime({time}, '%Y-%m-%d')"}

# What leaves the catalog as which type; UUIDs and JSON are text to every reader.
_ARROW = {
    "BIGINT": "int64",
    "BOOLEAN": "bool",
    "DOUBLE": "double",
    "INTEGER": "int32",
    "JSON": "string",
    "TIMESTAMP": "timestamp[us]",
    "UUID": "string",
    "VARCHAR": "string",
    "VARCHAR[]": "list",
}


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes
    ----------
    paths : tuple of str
        The files, as paths or URLs.
    rows : int
        In all of them.
    digest : str
        SHA-256 over rows and manifests, the same for the same content.
    """

    paths: tuple[str, ...]
    rows: int
    digest: str


@dataclass(frozen=True)
class Request:
    """What is to be exported, and how.

    Attributes
    ----------
    table : str
        ``tasks``, ``events`` or ``runs``.
    filters : dict
        As the table's question takes them.
    partition_by : str or None
        ``workflow`` or ``day``.
    after : str, path-like or None
        The export of events to be continued.
    overwrite : bool
        Whether an export that is there is replaced.
    storage_options : dict or None
        Keyword arguments of the file system of a URL.
    """

    table: str
    filters: dict[str, Any]
    partition_by: str | None = None
    after: str | os.PathLike[str] | None = None
    overwrite: bool = False
    storage_options: dict[str, Any] | None = None


def export(index: Index, root: str, place: str | os.PathLike[str], request: Request) -> Export:
    """Write a table, or the part of it that filters leave, as Parquet.

    Parameters
    ----------
    index : Index
        The storage's.
    root : str
        The storage's folder.
    place : str or path-like
        A path or a URL.
    request : Request
        What and how.

    Returns
    -------
    Export
        What is there now.

    Raises
    ------
    InvalidQuestion
        If the request cannot be understood.
    ExportRefused
        If it cannot be carried out there; then whatever was there is as it was.
    """
    is_folder = _check(place, request)
    wanted = conditions(request.table, request.filters)
    filters = given(request.table, request.filters)
    target = destination(place, request.storage_options)
    target.check(is_folder=is_folder, overwrite=request.overwrite)
    before = Previous()
    if request.after is not None:
        before = previous(request.after, filters, request.storage_options)
    with _translated(place), target.workshop() as folder:
        spool = os.path.join(folder, "rows.parquet")
        storage, bounds = _spool(index, spool, request, wanted, before)
        segments = _chained(spool, bounds, before) if request.table == "events" else {}
        manifest = _manifest(request.table, filters, storage, root, before.digest, segments)
        made = os.path.join(folder, "made")
        written = _written(spool, made, manifest, request.partition_by)
        target.publish(made, overwrite=request.overwrite)
    paths = tuple(os.path.join(os.fspath(place), name) if name else os.fspath(place) for name in written)
    return Export(paths, sum(each.rows for each in written.values()), digest_of_export(written.values()))


def _check(place: str | os.PathLike[str], request: Request) -> bool:
    """Refuse what cannot be understood; tell whether the export is a folder."""
    if request.table not in TABLES:
        raise InvalidQuestion(f"there is no table {request.table!r} to export; there are {', '.join(TABLES)}")
    if request.partition_by not in (None, *_PARTS):
        raise InvalidQuestion(f"partition_by={request.partition_by!r}: it is None, 'workflow' or 'day'")
    if request.after is not None and request.table != "events":
        raise InvalidQuestion(f"after continues exports of events; {request.table} are exported as a whole")
    if request.after is not None and os.fspath(request.after) == os.fspath(place):
        raise InvalidQuestion(f"after={place}: an export cannot take the place of the one that it continues")
    return request.partition_by is not None


@contextmanager
def _translated(place: str | os.PathLike[str]) -> Iterator[None]:
    import duckdb
    import pyarrow as pa

    try:
        yield
    except CatalogError:
        raise
    except (OSError, pa.ArrowException, duckdb.IOException) as error:
        raise ExportRefused(f"{os.fspath(place)} cannot be written: {error}") from error


# From the index into the working file


def _spool(
    index: Index, spool: str, request: Request, wanted: Conditions, before: Previous
) -> tuple[str, dict[str, _Bounds]]:
    """Copy the rows in their order, each with its hash and its part; return whose they are, and from which lines."""
    with index.question() as (connection, _):
        ((storage,),) = connection.execute("SELECT storage FROM meta").fetchall()
        source, bounds = request.table, {}
        if request.table == "events":
            bounds = _bounds(connection, storage, before)
            source = _BETWEEN
        columns = COLUMNS[request.table]
        hashed = hash_sql((column.name, _ARROW[column.type]) for column in columns)
        part = _PARTS[request.partition_by].format(time=f'"{TIMES[request.table]}"') if request.partition_by else "NULL"
        quoted = spool.replace("'", "''")
        connection.execute(
            f"""COPY (
                SELECT *, {hashed} AS row_hash
                FROM (SELECT {_cast(columns)}, {part} AS part FROM {source} {wanted.where()})
                ORDER BY part, {_ORDERS[request.table]}
            ) TO '{quoted}' (FORMAT parquet)""",
            wanted.parameters,
        ).fetchall()
    return storage, bounds


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


def _chained(spool: str, bounds: dict[str, _Bounds], before: Previous) -> dict[str, Lines]:
    """Return the lines of every segment with its chain, carried on over the rows of the working file."""
    import pyarrow.parquet as pq

    rows = pq.read_table(spool, columns=["segment", "position", "row_hash"])
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


# From the working file into the export


def _manifest(
    table: str, filters: dict[str, Any], storage: str, root: str, previous: str | None, segments: dict[str, Lines]
) -> Manifest:
    return Manifest(
        format=FORMAT,
        schema_version=SCHEMA_VERSION,
        library=_library(),
        exported_at=utc_text(time.time()),
        table=table,
        rows=0,
        columns=[[column.name, _ARROW[column.type]] for column in COLUMNS[table]],
        storage=storage,
        path=root,
        filter=filters,
        part=None,
        previous=previous,
        segments=segments,
    )


def _library() -> str:
    try:
        return f"functionfuse {importlib.metadata.version('functionfuse')}"
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "functionfuse"


def _written(spool: str, made: str, manifest: Manifest, by: str | None) -> dict[str, Manifest]:
    """Write the export's files; return their manifests by their names in its folder, "" for the one that has none."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(spool) as file:
        rows = _Rows(file)
        if by is None:
            whole = replace(manifest, rows=file.metadata.num_rows)
            return {"": _write(made, whole, rows)}
        parts = _parts(spool)
        written = {}
        for value, count in parts:
            part = replace(manifest, rows=count, part=Part(by, value, len(parts)))
            name = f"{part_folder(by, value)}/{PART_FILE}" if count else PART_FILE
            os.makedirs(os.path.dirname(os.path.join(made, name)), exist_ok=True)
            written[name] = _write(os.path.join(made, name), part, rows)
        return written


def _parts(spool: str) -> list[tuple[str | None, int]]:
    """Return the parts in the order of the working file, with their rows; an export of nothing has an empty one."""
    import pyarrow.parquet as pq

    values = (pq.read_table(spool, columns=["part"])).column("part").to_pylist()
    return [(value, len(list(same))) for value, same in itertools.groupby(values)] or [(None, 0)]


class _Rows:
    """Hands out the rows of the working file, in their order."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._batches = file.iter_batches(_ROWS_AT_ONCE)
        self._rest: pa.RecordBatch | None = None

    def take(self, count: int) -> Iterator[pa.RecordBatch]:
        """Yield the next `count` rows."""
        while count:
            batch = self._rest or next(self._batches)
            self._rest = batch.slice(count) if batch.num_rows > count else None
            yield batch.slice(0, count)
            count -= min(count, batch.num_rows)


def _write(path: str, manifest: Manifest, rows: _Rows) -> Manifest:
    import pyarrow.parquet as pq

    schema = schema_of(manifest.table)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        sealed = manifest.sealed(_hashes_of_written(writer, schema, rows.take(manifest.rows)))
        writer.add_key_value_metadata({KEY: sealed.to_json()})
    return sealed


def _hashes_of_written(
    writer: pq.ParquetWriter, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Iterator[bytes]:
    import pyarrow as pa

    for batch in batches:
        table = pa.Table.from_batches([batch])
        writer.write_table(table.select(schema.names).cast(schema))
        yield from batch.column("row_hash").to_pylist()


def schema_of(table: str) -> pa.Schema:
    """Return the Arrow schema of a table's exports.

    Parameters
    ----------
    table : str
        ``tasks``, ``events`` or ``runs``.

    Returns
    -------
    pyarrow.Schema
        Each field has in its metadata the key ``meaning``.
    """
    import pyarrow as pa

    types = {
        "list": pa.list_(pa.string()),
        "timestamp[us]": pa.timestamp("us"),
        "bool": pa.bool_(),
        "double": pa.float64(),
    }
    return pa.schema(
        pa.field(
            column.name,
            types.get(_ARROW[column.type]) or pa.type_for_alias(_ARROW[column.type]),
            metadata={"meaning": column.meaning},
        )
        for column in COLUMNS[table]
    )
