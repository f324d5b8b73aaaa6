"""How a result becomes a blob and a line of the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Raw

from catalog.format.author import author, now_text
from catalog.format.events import save_line
from catalog.format.footer import close_blob
from catalog.format.ids import new_id
from catalog.format.json_text import to_json
from catalog.format.names import to_text
from catalog.format.record import Origin, Record
from catalog.journal.base import Journal, Publication
from catalog.store.base import Store
from functionfuse.storage import _codec, _lazy, _removal
from functionfuse.storage._blob import BlobWriter
from functionfuse.storage._describe import describe
from functionfuse.storage._options import Options

_UNKNOWN = Origin()


@dataclass(frozen=True)
class Target:
    """Where and how a result is stored.

    Attributes
    ----------
    store : Store
        Where bytes go.
    journal : Journal
        Where events go.
    registry : Registry
        The serializers.
    options : Options
        How it is written.
    at : tuple of (str, str)
        Folder and file.
    task : tuple of (str, str)
        The names of workflow and task.
    is_new : bool
        Whether it is known that nothing is stored there, so that nobody needs to look.
    """

    store: Store
    journal: Journal
    registry: _codec.Registry
    options: Options
    at: tuple[str, str]
    task: tuple[str, str]
    is_new: bool = False


def keep(target: Target, obj: Any, origin: Origin | None, record_event: Callable[[Publication], None]) -> str:
    """Store an object, over what is there, and return the id of the blob.

    Parameters
    ----------
    target : Target
        Where and how.
    obj : object
        What.
    origin : Origin or None
        Where it comes from, if a run computed it.
    record_event : callable
        Appends to the journal, or leaves that to a thread.
    """
    store = target.store
    present = None if target.is_new else _removal.present(store, *target.at)
    blob_id = new_id(present.blob_id if present else None)
    writer = BlobWriter(store, *target.at, blob_id)

    def clean_up() -> None:
        if target.options.fsync:
            store.sync(target.at[0])
            target.journal.sync()
        if present:
            _removal.forget(present, target.registry, *target.at)

    try:
        line = _write(writer, target, obj, origin or _UNKNOWN, present.blob_id if present else None)
        key = "/".join(target.at)
        record_event(Publication(line, key, writer.publish, writer.discard, clean_up, writer.size))
    except BaseException:  # also an interrupt on the way from one to the other
        writer.discard()
        raise
    return blob_id


def _write(writer: BlobWriter, target: Target, obj: Any, origin: Origin, replaces: str | None) -> str:
    """Write all of a blob and return the line that tells of it."""
    registry, options = target.registry, target.options
    dumped = _codec.dump(obj, writer, registry, lambda: writer.side.protocols)
    if dumped.lazy:
        _lazy.warn(dumped.lazy, *target.task)
    described = describe(obj, lambda: _codec.statistics(dumped.root, registry, writer.side.protocols))
    stream = writer.size if dumped.buffers else None
    buffers = writer.write_buffers(dumped.buffers, options.packing) if dumped.buffers else ()
    checksum = writer.checksum()
    saved_at = now_text()
    sides = None if dumped.serializers == ("pickle",) else writer.declare_sides()
    workflow, task = target.task
    writing = author()
    record = Record(  # by name, one after another: unpacking mappings takes twice as long
        blob_id=writer.blob_id,
        workflow=to_text(workflow),
        task=to_text(task),
        replaces=replaces,
        run_id=origin.run_id,
        function=origin.function,
        code_fingerprint=origin.code_fingerprint,
        lineage=origin.lineage,
        inputs=origin.inputs,
        parents=origin.parents,
        scheme=origin.scheme,
        duration=origin.duration,
        details=origin.details,
        code=origin.code,
        type=described.type,
        summary=Raw(described.summary),
        value=Raw(described.value),
        packages=described.packages,
        saved_at=saved_at,
        checksum=f"xxh3:{checksum.hex()}",
        serializers=dumped.serializers,
        side_files=sides.files if sides else None,
        side_list=sides.listed if sides else None,
        side_digest=sides.digest if sides else None,
        host=writing.host,
        user=writing.user,
        pid=writing.pid,
        python=writing.python,
        stream=stream,
        buffers=buffers,
    )
    footer = to_json(record)
    end = close_blob(footer, checksum, plain=stream is None and len(dumped.serializers) == 1)
    size = writer.finish(end, options.fsync) + (sides.size if sides else 0)
    saved = writer.saved_by_packing
    return save_line(record, footer, size, None if saved is None else size + saved)
