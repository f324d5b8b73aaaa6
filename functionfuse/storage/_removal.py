"""What is stored under a name before it goes, and how it goes with its side files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from catalog.format import names
from catalog.format.events import removal_line
from catalog.format.record import Record
from catalog.journal.base import Publication
from catalog.store.base import OpenFile, Store
from functionfuse.errors import TaskNotFound
from functionfuse.storage import _blob, _codec
from functionfuse.storage._side_files import SideFiles, side_files

_log = logging.getLogger("functionfuse.storage")


@dataclass(frozen=True)
class Present:
    """What is stored under a name just before it is overwritten or removed.

    A file that was copied to another name beside it says so itself; the side files are those of the original.
    `pids` is None where the file is damaged, or was never a result.
    """

    record: Record | None
    size: int
    logical_size: int
    pids: list[tuple[str, Any]] | None
    side: SideFiles
    older_format: bool
    is_copy: bool

    @property
    def has_sides(self) -> bool:
        """Whether it may have side files."""
        return self.record is None or len(self.record.serializers) != 1

    @property
    def is_result(self) -> bool:
        """Whether the file itself says that it is a result: by a footer, or as one of the older format."""
        return not self.older_format or self.pids is not None

    @property
    def blob_id(self) -> str | None:
        """The id of its blob, as far as that is known."""
        return None if self.record is None else self.record.blob_id


def present(store: Store, folder: str, file: str) -> Present | None:
    """Return what is stored in a file, or None; what is damaged counts with what is known of it."""
    try:
        opened = store.open(f"{folder}/{file}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    with opened as source:
        try:
            known = _blob.peek_record(source)
        except FileNotFoundError:  # it was overwritten, or removed, between two requests
            return present(store, folder, file)
        pids: list[tuple[str, Any]] | None = [] if known else None
        if len(known.serializers) > 1 if known else _may_be_older(source):
            pids = _pids(store, folder, file)
    if known is None:
        return Present(None, source.size, source.size, pids, side_files(store, folder), True, False)
    size = source.size + known.side_size
    is_copy = file not in names.candidates(names.from_text(known.task))
    side = side_files(store, folder, known.blob_id)
    return Present(known, size, size + known.saved_by_packing, pids, side, False, is_copy)


def _may_be_older(source: OpenFile) -> bool:
    """Tell whether a file may be of the older format: a pickle, which ends in a point, and 20 bytes."""
    return source.tail(21)[:1] == b"."


def _pids(store: Store, folder: str, file: str) -> list[tuple[str, Any]] | None:
    try:
        blob = _blob.read_blob(store.load(f"{folder}/{file}"))
        return _codec.persistent_ids(blob.stream, blob.buffers)
    except Exception as error:  # whatever is wrong with a result that goes away, it goes away
        _log.debug("nothing is known of the side files of %s/%s: %s", folder, file, str(error))
        return None


def remove(
    store: Store,
    registry: _codec.Registry,
    task: tuple[str, str],
    at: tuple[str, str],
    record_event: Callable[[Publication], None],
    why: Mapping[str, Any] | None = None,
    planned: str | None = None,
    is_recorded: Callable[[], bool] | None = None,
) -> None:
    """Remove what is stored in a folder and file; record that, and why.

    Parameters
    ----------
    store, registry, task, at
        Where, with which serializers, under which names.
    record_event : callable
        Appends to the journal, or leaves that to a thread.
    why : mapping, optional
        What the event says of the reason.
    planned : str, optional
        The id of the blob that is meant.
    is_recorded : callable, optional
        Tells whether the catalog has a result of that name: a file that does not say that it is one, since it is
        damaged or somebody's notes, goes only then. Without it, it goes.

    Raises
    ------
    TaskNotFound
        If nothing is there, another blob than the planned one, or a file that is no result.
    """
    folder, file = at
    found = present(store, folder, file)
    if found is None or (planned and found.blob_id not in (None, planned)):
        raise TaskNotFound
    if is_recorded is not None and not found.is_result and not is_recorded():
        raise TaskNotFound
    line = removal_line(
        task,
        found.blob_id,
        found.size,
        None if found.record is None else found.record.checksum,
        None if found.logical_size == found.size else found.logical_size,
        why,
    )
    key = f"{folder}/{file}"
    clean_up = partial(forget, found, registry, folder, file)
    record_event(Publication(line, key, partial(store.delete, key), on_success=clean_up, frees_space=True))


def forget(gone: Present, registry: _codec.Registry, folder: str, file: str) -> None:
    """Delete the side files of a result that was overwritten or removed."""
    if gone.is_copy:
        return
    if gone.pids is None:
        _log.warning("%s/%s was damaged: which side files went with it is not known", folder, file)
    for name, pid in gone.pids or ():
        serializer = registry.by_name.get(name)
        try:
            if serializer is not None:
                serializer.remove(pid, gone.side.protocols)
            elif gone.older_format and isinstance(pid, str):
                gone.side.remove(pid)
        except Exception:  # the result itself is gone already; a third party's cleaning cannot undo that
            _log.warning("the serializer %r did not remove %r of %s/%s", name, pid, folder, file, exc_info=True)
    if gone.has_sides and not gone.older_format:
        gone.side.discard()
