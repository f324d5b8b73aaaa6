"""What lies in a storage's folder, read by hand, and what its catalog says: the two have to agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from functionfuse.storage import Storage
from functionfuse.testing import read_blob

_COLUMNS = """workflow, task, blob_id::VARCHAR, checksum, size, strftime(saved_at, '%Y-%m-%dT%H:%M:%S.%fZ')"""


def left_over(root: Path) -> list[Path]:
    """Return the temporary files that nobody deleted."""
    return [path for path in (*root.glob("*/.*"), *root.glob(".catalog/tmp/**/*")) if path.is_file()]


def files(root: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the storage by its path: blobs, side files, what was left over."""
    kept = [path for path in root.rglob("*") if path.is_file() and ".catalog" not in path.relative_to(root).parts]
    found = {*kept, *left_over(root)}
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(found)}


def records(root: Path) -> dict[Path, tuple[dict[str, Any], int]]:
    """Return the footer of every blob, taken apart by hand, with the blob's size; fail if one is torn."""
    found = {}
    for path in root.glob("[!.]*/[!.]*"):
        if path.is_file():
            data = path.read_bytes()
            found[path] = (read_blob(data).record, len(data))
    return found


def lying(root: Path) -> list[tuple[Any, ...]]:
    """Return the names, id, checksum, size with side files, and time of every result in the folder."""
    rows = []
    for record, size in records(root).values():
        whole = size + sum(side["size"] for side in record.get("side_files", ()))
        rows.append(
            (*(record[name] for name in ("workflow", "task", "blob_id", "checksum")), whole, record["saved_at"])
        )
    return sorted(rows)


def listed(storage: Storage) -> list[tuple[Any, ...]]:
    """Return the same of every result in the catalog."""
    return sorted(storage.catalog.sql(f"SELECT {_COLUMNS} FROM tasks").fetchall())


def side_folders(root: Path) -> tuple[set[Path], set[Path]]:
    """Return the folders of side files that there are, and those that the blobs declare."""
    there = {path for path in root.glob("*/bigdata/*") if any(path.iterdir())}
    declared = {
        path.parent / "bigdata" / record["blob_id"]
        for path, (record, _) in records(root).items()
        if record.get("side_files")
    }
    return there, declared
