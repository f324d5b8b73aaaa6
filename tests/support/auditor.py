"""An auditor of exports who knows `docs/audit.md` and pyarrow, and not the code under test; and one who forges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ENDLESS = {2**63 - 1: "infinity", 1 - 2**63: "-infinity"}
PASSING = {"digest", "exported_at", "library", "path"}


def manifest_of(path: Path | str) -> dict[str, Any]:
    """Return what a file says of itself."""
    return dict(json.loads(pq.read_metadata(path).metadata[b"functionfuse"]))


def field_of(value: Any, data_type: pa.DataType) -> bytes:
    """Return the canonical text of one value."""
    if value is None:
        return b"-"
    if pa.types.is_list(data_type):
        text = b"".join(field_of(item, data_type.value_type) for item in value)
    elif pa.types.is_floating(data_type):
        text = b"%.16e" % value
    elif pa.types.is_boolean(data_type):
        text = b"true" if value else b"false"
    elif pa.types.is_integer(data_type):
        text = b"%d" % value
    else:
        text = value.encode()
    return b"%d:%s" % (len(text), text)


def hashes_of(table: pa.Table) -> list[bytes]:
    """Return the hash of every row."""
    columns = []
    for column in table.columns:
        if pa.types.is_timestamp(column.type):
            micros = column.cast(pa.int64())
            texts = [None if us is None else ENDLESS.get(us, str(us)) for us in micros.to_pylist()]
            column = pa.chunked_array([pa.array(texts, pa.string())])
        columns.append([field_of(value, column.type) for value in column.to_pylist()])
    return [hashlib.sha256(b"".join(row)).digest() for row in zip(*columns, strict=True)]


def digest_of(table: pa.Table, manifest: dict[str, Any]) -> str:
    """Return the digest that a file should have."""
    content = {name: value for name, value in manifest.items() if name not in PASSING}
    text = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"".join([*hashes_of(table), text])).hexdigest()


def link(before: str, hashes: list[bytes]) -> str:
    """Return the end of a chain that goes on over rows."""
    last = bytes.fromhex(before)
    for row in hashes:
        last = hashlib.sha256(last + row).digest()
    return last.hex()


def forge(
    path: Path,
    *,
    rows: Callable[[pa.Table], pa.Table] = lambda table: table,
    manifest: Callable[[dict[str, Any]], None] = lambda _: None,
    resealed: bool = False,
) -> None:
    """Change an export, and compute its digest again if the forger knows how."""
    table = rows(pq.read_table(path, partitioning=None))
    said = manifest_of(path)
    manifest(said)
    if resealed:
        said["digest"] = digest_of(table, said)
    metadata = {**(table.schema.metadata or {}), b"functionfuse": json.dumps(said).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")
