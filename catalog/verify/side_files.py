"""Side files: what a result declares, what there is, and what nobody declares.

Only folders whose names are ids of blobs are looked at. What else lies there may
be side files of the older format: which result refers to them only its pickle
says, and the catalog unpickles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from catalog.format.ids import is_id
from catalog.format.names import SIDE_FOLDER, side_path
from catalog.format.record import Record
from catalog.format.side_files import DamagedList, Digest, declared, is_known
from catalog.store.base import Store, Unreadable
from catalog.store.reading import content_of, opened, pieces

#: Seconds for which nothing may have changed in a side folder that no running save can own any more.
QUIET = 3600.0


def entries(store: Store, folders: Iterable[str]) -> set[tuple[str, str]]:
    """Return workflow's folder and blob's id of every side folder."""
    return {(folder, name) for folder in folders for name in _names(store, folder) if is_id(name)}


def _names(store: Store, folder: str) -> list[str]:
    try:
        found = store.ls(f"{folder}/{SIDE_FOLDER}/", deep=False)
    except PermissionError:
        return []
    return [path.rpartition("/")[2] for path in (*found.folders, *(entry.key for entry in found.entries))]


class Examination(NamedTuple):
    """What a look at the side files of a result found.

    Attributes
    ----------
    faults : list of (str, str, str)
        Kind of finding, path and reason for every side file that is lost, damaged, or too many.
    size : int
        Bytes that were read and checked.
    unhashed : int
        How many have no digest, so that nothing but their size could be checked.
    """

    faults: list[tuple[str, str, str]]
    size: int = 0
    unhashed: int = 0


def examine(store: Store, folder: str, record: Record, folders: set[tuple[str, str]]) -> Examination:
    """Hold the side files of a result against what it declares.

    Parameters
    ----------
    store : Store
        The storage.
    folder : str
        The workflow's folder.
    record : Record
        What the result says of itself.
    folders : set of (str, str)
        The side folders that there are, from `entries`.

    Returns
    -------
    Examination
        Without faults if all is well.
    """
    if not record.side_count and (folder, record.blob_id) not in folders:
        return Examination([])
    side = partial(side_path, folder, record.blob_id)
    try:
        files = declared(record, lambda name: content_of(store, side(name)))
    except FileNotFoundError:
        return _of_list("lost", record, side, "the list of its side files is gone")
    except DamagedList as error:
        return _of_list("damaged", record, side, str(error))
    except Unreadable as error:
        return _of_list("unchecked", record, side, str(error))
    try:
        there = {entry.key[len(side()) + 1 :]: entry.size for entry in store.ls(f"{side()}/").entries}
    except PermissionError:
        return Examination([("unchecked", side(file.name), "its folder may not be read") for file in files])
    found = [
        ("lost", file.name, _lost(there.get(file.name), file.size))
        for file in files
        if there.get(file.name) != file.size
    ]
    whole = [file for file in files if there.get(file.name) == file.size]
    judged = zip(whole, store.map(lambda file: fault_of(store, side(file.name), file.digest), whole), strict=True)
    found += [(fault[0], file.name, fault[1]) for file, fault in judged if fault is not None]
    known = {file.name for file in files}
    found += [("orphans", name, "its result does not declare it") for name in there.keys() - known]
    size = sum(file.size for file in whole if is_known(file.digest))
    unhashed = sum(file.digest is None for file in files)
    return Examination([(kind, side(name), reason) for kind, name, reason in found], size, unhashed)


def _lost(size: int | None, declared: int) -> str:
    return "it is gone" if size is None else f"it has {size} bytes, declared are {declared}"


def _of_list(kind: str, record: Record, side: Callable[[str], str], reason: str) -> Examination:
    assert record.side_list is not None, "only a list is read"
    return Examination([(kind, side(record.side_list.name), reason)])


def fault_of(store: Store, path: str, digest: str | None) -> tuple[str, str] | None:
    """Return kind of finding and reason if a side file is not what was written; None if it is, or nobody can know."""
    if digest is None:
        return None
    if not is_known(digest):
        return "unchecked", f"its digest is {digest.partition(':')[0]}, which this version does not know"
    found = Digest()
    try:
        with opened(store, path) as file:
            for piece in pieces(file):
                found.update(piece)
    except FileNotFoundError:
        return "lost", "it is gone"
    except Unreadable as error:
        return "unchecked", str(error)
    return None if found.text() == digest else ("damaged", "the checksum of the side file is wrong")


def is_quiet(store: Store, path: str) -> bool:
    """Tell whether nothing changed for an hour in a file, or in a folder and what is in it."""
    return store.unchanged_for(path) > QUIET
