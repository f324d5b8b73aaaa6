"""Side files: what a result declares, what there is, and what nobody declares.

Only folders whose names are ids of blobs are looked at. What else lies there may
be side files of the older format: which result refers to them only its pickle
says, and the catalog unpickles nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from catalog.names import SIDE_FOLDER, from_text
from catalog.upkeep import Upkeep

#: Seconds for which nothing may have changed in a side folder that no running save can own any more.
QUIET = 3600.0

_BLOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


def side_path(folder: str, *parts: str) -> str:
    """Return the path of a side file or folder, relative to the storage's."""
    return "/".join((folder, SIDE_FOLDER, *parts))


def entries(upkeep: Upkeep, folders: Iterable[str]) -> set[tuple[str, str]]:
    """Return workflow's folder and blob's id of every side folder."""
    return {(folder, name) for folder in folders for name in upkeep.side_folders(folder) if _BLOB_ID(name)}


def declared(record: Mapping[str, Any]) -> dict[str, int]:
    """Return name and size of the side files that a record declares."""
    return {from_text(side["name"]): int(side["size"]) for side in record.get("side_files") or ()}


def faults(
    upkeep: Upkeep, folder: str, record: Mapping[str, Any], folders: set[tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """Return kind of finding, path and reason for every side file of a result that is lost, or too many.

    Parameters
    ----------
    upkeep : Upkeep
        The storage's.
    folder : str
        The workflow's folder.
    record : mapping
        What the result says of itself.
    folders : set of (str, str)
        The side folders that there are, from `entries`.

    Returns
    -------
    list of (str, str, str)
        Empty if all is well.
    """
    wanted = declared(record)
    blob_id = record["blob_id"]
    if not wanted and (folder, blob_id) not in folders:
        return []
    there = dict(upkeep.below(side_path(folder, blob_id)))
    lost = [
        ("lost", name, "it is gone" if name not in there else f"it has {there[name]} bytes, declared are {size}")
        for name, size in wanted.items()
        if there.get(name) != size
    ]
    orphans = [("orphans", name, "its result does not declare it") for name in there.keys() - wanted.keys()]
    return [(kind, side_path(folder, blob_id, name), reason) for kind, name, reason in lost + orphans]


def is_quiet(upkeep: Upkeep, path: str) -> bool:
    """Tell whether nothing changed for an hour in a file, or in a folder and what is in it."""
    return upkeep.quiet_for(path) > QUIET
