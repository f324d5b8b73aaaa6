"""Side files: what a result declares, what there is, and what nobody declares.

Only folders whose names are ids of blobs are looked at. What else lies there may
be side files of the older format: which result refers to them only its pickle
says, and the catalog unpickles nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from catalog.names import SIDE_FOLDER, from_text

#: Seconds for which nothing may have changed in a side folder that no running save can own any more.
QUIET = 3600.0

_BLOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


def side_path(folder: str, *parts: str) -> str:
    """Return the path of a side file or folder, relative to the storage's."""
    return "/".join((folder, SIDE_FOLDER, *parts))


def entries(root: str, folders: Iterable[str]) -> set[tuple[str, str]]:
    """Return workflow's folder and blob's id of every side folder."""
    found = set()
    for folder in folders:
        try:
            with os.scandir(f"{root}/{side_path(folder)}") as listing:
                found |= {(folder, entry.name) for entry in listing if _BLOB_ID(entry.name)}
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
    return found


def declared(record: Mapping[str, Any]) -> dict[str, int]:
    """Return name and size of the side files that a record declares."""
    return {from_text(side["name"]): int(side["size"]) for side in record.get("side_files") or ()}


def faults(root: str, folder: str, record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return kind of finding, path and reason for every side file of a result that is lost, or too many."""
    wanted = declared(record)
    blob_id = record["blob_id"]
    there = dict(_files(f"{root}/{side_path(folder, blob_id)}"))
    lost = [
        ("lost", name, "it is gone" if name not in there else f"it has {there[name]} bytes, declared are {size}")
        for name, size in wanted.items()
        if there.get(name) != size
    ]
    orphans = [("orphans", name, "its result does not declare it") for name in there.keys() - wanted.keys()]
    return [(kind, side_path(folder, blob_id, name), reason) for kind, name, reason in lost + orphans]


def is_quiet(path: str) -> bool:
    """Tell whether nothing changed for an hour in a file, or in a folder and what is in it."""
    newest = _changed(path)
    for folder, folders, files in os.walk(path):
        newest = max(newest, *(_changed(os.path.join(folder, name)) for name in (*folders, *files)), newest)
    return time.time() - newest > QUIET


def _changed(path: str) -> float:
    # Not only when it was written: what is copied in, before its blob is, keeps the times of the original.
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0.0
    return max(status.st_mtime, status.st_ctime)


def _files(path: str) -> Iterable[tuple[str, int]]:
    for folder, _, names in os.walk(path):
        for name in names:
            whole = os.path.join(folder, name)
            try:
                yield os.path.relpath(whole, path), os.path.getsize(whole)
            except FileNotFoundError:  # removed since
                continue
