"""How a result becomes a blob and a line of the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from catalog.format import footer as record
from catalog.format import ids
from catalog.journal.base import Journal, Publication
from catalog.store.base import Store
from functionfuse.storage import _codec, _lazy, _lines, _removal
from functionfuse.storage._blob import BlobWriter
from functionfuse.storage._describe import describe
from functionfuse.storage._options import Options

_SERIALIZERS = record.fragment(serializers=["pickle"])


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
    names : str
        The fragment of a record that names the result.
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
    names: str
    task: tuple[str, str]
    is_new: bool = False


def keep(target: Target, obj: Any, origin: str, record_event: Callable[[Publication], None]) -> str:
    """Store an object, over what is there, and return the id of the blob.

    Parameters
    ----------
    target : Target
        Where and how.
    obj : object
        What.
    origin : str
        The inside of a JSON object, for the record.
    record_event : callable
        Appends to the journal, or leaves that to a thread.
    """
    store = target.store
    present = None if target.is_new else _removal.present(store, *target.at)
    blob_id = ids.new_id(present.blob_id if present else None)
    fields = [f'"blob_id":"{blob_id}",{target.names}']
    if present:
        fields.append(record.fragment(replaces=present.blob_id))
    if origin:
        fields.append(origin)
    writer = BlobWriter(store, *target.at, blob_id)

    def clean_up() -> None:
        if target.options.fsync:
            store.sync(target.at[0])
            target.journal.sync()
        if present:
            _removal.forget(present, target.registry, *target.at)

    try:
        line = _write(writer, target, obj, fields)
        key = "/".join(target.at)
        record_event(Publication(line, key, writer.publish, writer.discard, clean_up, writer.size))
    except BaseException:  # also an interrupt on the way from one to the other
        writer.discard()
        raise
    return blob_id


def _write(writer: BlobWriter, target: Target, obj: Any, fields: list[str]) -> str:
    """Write all of a blob and return the line that tells of it."""
    registry, options = target.registry, target.options
    dumped = _codec.dump(obj, writer, registry, lambda: writer.side.protocols)
    if dumped.lazy:
        _lazy.warn(dumped.lazy, *target.task)
    fields.append(describe(obj, lambda: _codec.statistics(dumped.root, registry, writer.side.protocols)))
    layout = f",{writer.write_buffers(dumped.buffers, options.packing)}" if dumped.buffers else ""
    plain = not layout and len(dumped.serializers) == 1
    checksum = writer.checksum()
    fields.append(f'"saved_at":"{_lines.moment()}","checksum":"xxh3:{checksum.hex()}"')
    side_size = 0
    if dumped.serializers == ("pickle",):
        fields.append(_SERIALIZERS)
    else:
        sides = writer.declare_sides()
        side_size = sides.size
        fields.append(f"{record.fragment(serializers=dumped.serializers)},{sides.fields}")
    fields.append(record.machine_fields())
    text = ",".join(fields)
    saved = writer.saved_by_packing
    footer = record.close_blob(f"{{{text}{layout}}}", checksum, plain)
    size = writer.finish(footer, options.fsync) + side_size
    logical = f'"logical_size":{size + saved},' if saved is not None else ""
    return f'{{"event":"save","format":{record.FORMAT},"size":{size},{logical}{text}}}'
