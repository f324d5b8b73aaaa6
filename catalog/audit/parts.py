"""The files of an export, written from the working file: one, or a folder with one for each part."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.audit.destination import PART_FILE, part_folder
from catalog.audit.manifest import KEY, Manifest, Part
from catalog.audit.working_file import ARROW, COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS_AT_ONCE = 1 << 16  # also the size of a row group


def write_parts(working_file: str, made: str, manifest: Manifest, by: str | None) -> dict[str, Manifest]:
    """Write the files of an export.

    Parameters
    ----------
    working_file : str
        The working file (`catalog.audit.working_file.write_working_file`).
    made : str
        The file, or the folder, to be made.
    manifest : Manifest
        What all files tell.
    by : str or None
        How the export is parted; None makes one file.

    Returns
    -------
    dict of str to Manifest
        What each file tells, by its name in the folder, empty for the one that is in none.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(working_file) as file:
        rows = _Rows(file)
        if by is None:
            whole = replace(manifest, rows=file.metadata.num_rows)
            return {"": _write(made, whole, rows)}
        parts = _parts(file)
        written = {}
        for value, count in parts:
            part = replace(manifest, rows=count, part=Part(by, value, len(parts)))
            name = f"{part_folder(by, value)}/{PART_FILE}" if count else PART_FILE
            os.makedirs(os.path.dirname(os.path.join(made, name)), exist_ok=True)
            written[name] = _write(os.path.join(made, name), part, rows)
        return written


def _parts(file: pq.ParquetFile) -> list[tuple[str | None, int]]:
    """Return the parts in the order of the working file, with their rows; an export of nothing has an empty one."""
    if not file.metadata.num_rows:  # older versions of pyarrow raise where there is no row group
        return [(None, 0)]
    values = file.read(columns=["part"]).column("part").to_pylist()
    return [(value, len(list(same))) for value, same in itertools.groupby(values)]


class _Rows:
    """Hands out the rows of the working file, in their order."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._batches = file.iter_batches(_ROWS_AT_ONCE) if file.metadata.num_rows else iter(())
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

    schema = _schema(manifest.table)
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


def _schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a table's exports; each field has in its metadata the key ``meaning``."""
    import pyarrow as pa

    types = {
        "list": pa.list_(pa.string()),
        "timestamp[us, tz=UTC]": pa.timestamp("us", tz="UTC"),
        "bool": pa.bool_(),
        "double": pa.float64(),
    }
    return pa.schema(
        pa.field(
            column.name,
            types.get(ARROW[column.type]) or pa.type_for_alias(ARROW[column.type]),
            metadata={"meaning": column.meaning},
        )
        for column in COLUMNS[table]
    )
