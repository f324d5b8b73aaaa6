"""Events: their kinds, and the lines that the journal has of them; each is built here, in one place.

All kinds are fixed, also those that this version neither writes nor acts on: it keeps such an event in the table
`events`, as it does one of a kind that it does not know at all, and lets no result appear or go by it. What is really
there the blobs tell whoever reads or verifies (design note 17).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from catalog.format.author import author, now_text
from catalog.format.footer import FORMAT, Footer
from catalog.format.ids import new_id
from catalog.format.json_text import to_json
from catalog.format.names import to_text
from catalog.format.record import Record


class Kind(str, Enum):
    """What an event tells."""

    #: A result was stored, perhaps over another.
    SAVE = "save"
    #: A result was removed.
    REMOVE = "remove"
    #: A version became the result of its name again; the whole record, with `blob_id` and `replaces`. Not written yet.
    RESTORE = "restore"
    #: Versions were pruned, one event a run; their ids in `details`. Not written yet.
    EXPIRE = "expire"
    #: Source of a function or class, once for each fingerprint. Not written yet.
    CODE = "code"
    RUN_STARTED = "run-started"
    RUN_FINISHED = "run-finished"
    TASK_FAILED = "task-failed"
    #: A name was protected from `gc`, and no longer.
    PIN = "pin"
    UNPIN = "unpin"

    def __str__(self) -> str:
        return str(self.value)


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An event that is no save; its members are in the order of the line, those that are None are not written.

    Attributes
    ----------
    event : Kind
        What happened.
    event_id : str
        A UUIDv7.
    time : str
        When, as `utc_text` says it.
    workflow, task : str
        Where, as text; no task where it is the whole workflow.
    run_id : str or None
        In which run.
    replaces, blob_id : str or None
        Of a removal, both: the blob that went.
    size, logical_size : int or None
        Its bytes with side files, and what they would be without compression.
    checksum : str or None
        Of its body.
    details : mapping, optional
        What else there is to say.
    host, user, pid, python
        Who wrote it.
    """

    event: Kind
    event_id: str
    time: str
    workflow: str
    task: str | None = None
    run_id: str | None = None
    replaces: str | None = None
    blob_id: str | None = None
    size: int | None = None
    checksum: str | None = None
    logical_size: int | None = None
    details: Mapping[str, Any] | None = None
    host: str
    user: str
    pid: int
    python: str


def save_line(record: Record, footer: bytes, size: int, logical_size: int | None = None) -> str:
    """Return the line of a save: what its footer says but for where buffers are, with the size in front.

    Parameters
    ----------
    record : Record
        What the footer says.
    footer : bytes
        The same, by `to_json`.
    size : int
        Bytes of the blob and its side files.
    logical_size : int, optional
        Those that it would have if no buffer were compressed.

    Returns
    -------
    str
        One JSON object, without the line's end.
    """
    # Both are the same bytes, as far as they say the same: to encode them once more takes 2 of a save's 50 µs.
    members = footer if record.stream is None else to_json(replace(record, stream=None, buffers=()))
    logical = b"" if logical_size is None else b'"logical_size":%d,' % logical_size
    line = b'{"event":"save","format":%d,"size":%d,%b%b' % (FORMAT, size, logical, members[1:])
    return line.decode("ascii")


def found_line(footer: Footer, size: int, moved: Mapping[str, str] | None = None) -> str:
    """Return the line of a save of which no line told: all that its footer says, known or not.

    Parameters
    ----------
    footer : Footer
        What the blob says; valid.
    size : int
        Bytes of the blob and its side files.
    moved : mapping, optional
        The members `event_id`, `workflow` and `task` of a blob that stands under another name than it was saved under.

    Returns
    -------
    str
        One JSON object, without the line's end.
    """
    members = msgspec.json.decode(footer.text)
    for name in ("event_id", "time"):  # an event's own, no record's
        members.pop(name, None)
    own = {"event": Kind.SAVE, "format": footer.format, "size": size}
    own["logical_size"] = size + footer.record.saved_by_packing
    return to_json({**members, **own, **(moved or {})}).decode("ascii")


def older_line(record: Record, size: int) -> str:
    """Return the line of a file of the older format, with the little that is known of it."""
    return to_json({"event": Kind.SAVE, "format": 0, "size": size, **msgspec.to_builtins(record)}).decode("ascii")


def removal_line(
    names: tuple[str, str | None],
    blob_id: str | None,
    size: int | None,
    checksum: str | None,
    logical_size: int | None = None,
    details: Mapping[str, Any] | None = None,
) -> str:
    """Return the line of a removal, whose id is greater than that of the blob that goes.

    Parameters
    ----------
    names : tuple of (str, str or None)
        Workflow and task, as they were given.
    blob_id, size, checksum, logical_size
        Of the blob, as far as they are known; the logical size where buffers are compressed.
    details : mapping, optional
        Why it goes, where it was not asked for by name.

    Returns
    -------
    str
        One JSON object, without the line's end.
    """
    about = {"replaces": blob_id, "blob_id": blob_id, "size": size, "checksum": checksum, "logical_size": logical_size}
    return event_line(Kind.REMOVE, names, details, after=blob_id, **about)


def event_line(
    kind: Kind,
    names: tuple[str, str | None],
    details: Mapping[str, Any] | None = None,
    after: str | None = None,
    **more: Any,
) -> str:
    """Return the line of an event that is no save, and happens now.

    Parameters
    ----------
    kind : Kind
        What happens.
    names : tuple of (str, str or None)
        Workflow and task, as they were given; no task where it is the whole workflow.
    details : mapping, optional
        What else there is to say.
    after : str, optional
        An id that the event's is greater than.
    **more
        Other members of `Event`.

    Returns
    -------
    str
        One JSON object, without the line's end.
    """
    workflow, task = names
    event = Event(
        event=Kind(kind),
        event_id=new_id(after),
        time=now_text(),
        workflow=to_text(workflow),
        task=None if task is None else to_text(task),
        details=details
        and {key: to_text(value) if isinstance(value, str) else value for key, value in details.items()},
        **more,
        **author()._asdict(),
    )
    return to_json(event).decode("ascii")
