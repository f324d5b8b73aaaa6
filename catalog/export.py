"""The catalog as Parquet, for any other tool."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from catalog.errors import ExportRefused
from catalog.ids import new_id

if TYPE_CHECKING:
    import pyarrow as pa


def write_parquet(table: pa.Table, destination: str) -> None:
    """Write a table to a Parquet file, compressed with zstd, which appears when it is complete.

    Raises
    ------
    ExportRefused
        If the folder is not there, or the file cannot be written.
    """
    import pyarrow.parquet as pq

    folder = os.path.dirname(destination) or "."
    if not os.path.isdir(folder):
        raise ExportRefused(f"{destination} cannot be written: there is no folder {folder}; make it first")
    temporary = os.path.join(os.path.dirname(destination), f".{new_id()}.tmp")
    try:
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, destination)
    except OSError as error:
        raise ExportRefused(f"{destination} cannot be written: {error}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
