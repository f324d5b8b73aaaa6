"""How a blob becomes a result again."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, NamedTuple

from catalog.format.footer import Footer
from catalog.store.base import Store
from functionfuse.errors import TaskNotFound
from functionfuse.storage import _blob, _codec
from functionfuse.storage._options import Options
from functionfuse.storage._side_files import side_files

_log = logging.getLogger("functionfuse.storage")


class Restored(NamedTuple):
    """A result that was read.

    Attributes
    ----------
    value : object
        The result.
    footer : Footer or None
        What its blob says of itself; None for the older format.
    """

    value: Any
    footer: Footer | None


def restore(store: Store, registry: _codec.Registry, options: Options, folder: str, file: str) -> Restored:
    """Return the result in a file; once more where it was overwritten while it was read."""
    while True:
        blob = _blob.read_blob(_loaded(store, folder, file, options.mmap), options.verify)
        try:
            return Restored(_load(store, registry, blob, folder, options.verify), blob.footer)
        except Exception as error:  # whatever a serializer says of files that vanish while it reads them
            if _unchanged(store, folder, file, blob):
                raise
            _log.debug("task %r was overwritten while it was read, which ended in: %s", file, str(error))


def mapped(store: Store, folder: str, file: str, blob_id: str, verify: bool) -> Any:
    """Return a result whose buffers lie over its file; None for another blob, and for one that is not read so.

    What cloudpickle saved is not, either: its classes would come back as other ones.
    """
    blob = _blob.read_blob(store.load(f"{folder}/{file}"), verify)
    footer = blob.footer
    if footer is None or footer.blob_id != blob_id:
        return None
    record = footer.known
    if record is None or any(place.codec is not None for place in record.places) or record.serializers != ("pickle",):
        return None
    return _codec.load(blob.stream, blob.buffers, footer)


def footer_at(store: Store, folder: str, file: str) -> Footer | None:
    """Return the footer of the blob in a file; None for the older format and for what is damaged."""
    while True:
        try:
            opened = store.open(f"{folder}/{file}")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TaskNotFound(f"nothing is stored there ({store.root}/{folder}/{file})") from error
        with opened as source, suppress(FileNotFoundError):  # it was overwritten, or removed, between two requests
            return _blob.peek_footer(source)


def _loaded(store: Store, folder: str, file: str, is_mapped: bool) -> memoryview:
    try:
        return store.load(f"{folder}/{file}", is_mapped)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise TaskNotFound(f"nothing is stored there ({store.root}/{folder}/{file})") from error


def _load(store: Store, registry: _codec.Registry, blob: _blob.Blob, folder: str, verify: bool) -> Any:
    footer = blob.footer
    if footer is not None and (footer.plain or len(footer.record.serializers) == 1):
        return _codec.load(blob.stream, blob.buffers, footer)
    side = side_files(store, folder, footer.blob_id if footer else "")
    side.expect(footer.record if footer else None, verify)
    return _codec.load_with_serializers(blob.stream, blob.buffers, registry, side.protocols)


def _unchanged(store: Store, folder: str, file: str, blob: _blob.Blob) -> bool:
    now = footer_at(store, folder, file)
    return (now and now.blob_id) == (blob.footer and blob.footer.blob_id)
