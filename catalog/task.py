"""One result with all that the catalog knows of it, for programs and for eyes."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

from catalog.format.columns import TASKS
from catalog.format.names import from_text


@dataclass(frozen=True)
class Happened:
    """A save or a removal of a result.

    Attributes
    ----------
    event : str
        ``save`` or ``remove``.
    event_id : str
        The id of the event; of a save, the blob's.
    time : datetime
        When, UTC.
    user, host : str or None
        Who, and on which machine; None where nothing is known.
    pid : int or None
        In which process.
    size : int or None
        Bytes, side files included: of what was saved, or of what was removed.
    checksum : str or None
        Of the blob's body, with the name of the algorithm.
    """

    event: str
    event_id: str
    time: datetime
    user: str | None
    host: str | None
    pid: int | None
    size: int | None
    checksum: str | None


@dataclass(frozen=True)
class Task:
    """One result: the columns of ``tasks`` as Python values, and what happened under its name.

    Attributes
    ----------
    workflow, task : str
        The names as they were given.
    serializers : tuple of str
        How it was written: pickle or cloudpickle, then registered serializers.
    size : int
        Bytes, side files included.
    logical_size : int
        Bytes that it would take without compression.
    saved_at : datetime
        UTC.
    blob_id : str
        A UUIDv7.
    checksum : str or None
        Of the blob's body, with the name of the algorithm.
    format : int
        Version of the blob's format; 0 is IBM Function Fuse's.
    type : str or None
        Type of the result.
    summary, value : object
        What is known of it, and the result itself where it is small, as JSON has it.
    run_id : str or None
        The run that made it.
    function, code_fingerprint : str or None
        The function that made it.
    inputs : dict or None
        One fingerprint for each argument.
    parents : tuple of str
        The names of the tasks whose results were arguments.
    duration : float or None
        Seconds that the function took.
    host, user, pid, python
        Who wrote it.
    packages : dict or None
        Versions of the packages that its type comes from.
    pinned : bool
        Whether `gc` leaves it alone.
    history : tuple of Happened
        The saves and removals under this name, oldest first; not compared.
    """

    workflow: str
    task: str
    serializers: tuple[str, ...]
    size: int
    logical_size: int
    saved_at: datetime
    blob_id: str
    checksum: str | None
    format: int
    type: str | None
    summary: Any
    value: Any
    run_id: str | None
    function: str | None
    code_fingerprint: str | None
    inputs: dict[str, Any] | None
    parents: tuple[str, ...]
    duration: float | None
    host: str | None
    user: str | None
    pid: int | None
    python: str | None
    packages: dict[str, Any] | None
    pinned: bool
    history: tuple[Happened, ...]

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what is known, and what happened."""
        known = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "history"]
        rows = "".join(_row(name, _shown(name, value)) for name, value in known if value not in (None, (), {}))
        told = "".join(_event_row(each) for each in self.history)
        head = "".join(f"<th>{name}</th>" for name in ("when (UTC)", "what", "who", "size", "checksum"))
        return (
            f"<table><caption>{_escaped(self.task)} in {_escaped(self.workflow)}</caption>{rows}</table>"
            f"<details><summary>{len(self.history)} in its history</summary>"
            f"<table><tr>{head}</tr>{told}</table></details>"
        )


def task_of(row: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Task:
    """Return the task that a row of ``tasks`` and the rows of ``events`` under its name tell of."""
    values = {column.name: _value(column.type, row[column.name]) for column in TASKS}
    return Task(**values, history=tuple(_happened(event) for event in events))


def _happened(event: Mapping[str, Any]) -> Happened:
    values = {field.name: _plain(event[field.name]) for field in fields(Happened)}
    return Happened(**{**values, "time": _aware(event["time"])})


def _value(kind: str, value: Any) -> Any:
    if kind == "VARCHAR[]":
        return tuple(from_text(each) for each in value or ())
    if value is None:
        return None
    if kind == "JSON":
        return _parsed(value)
    return _aware(value) if kind == "TIMESTAMPTZ" else _plain(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # an older or a foreign line
        return text


def _plain(value: Any) -> Any:
    return from_text(value) if isinstance(value, str) else value


def _aware(value: datetime) -> datetime:
    return value.astimezone(timezone.utc)  # not in the zone of the library that Arrow found


def _row(name: str, shown: str) -> str:
    return f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{shown}</td></tr>'


def _event_row(event: Happened) -> str:
    who = "@".join(part for part in (event.user, event.host) if part)
    size = "" if event.size is None else _readable(event.size)
    cells = (f"{event.time:%Y-%m-%d %H:%M:%S}", event.event, who, size, event.checksum or "")
    return f"<tr>{''.join(f'<td>{_escaped(cell)}</td>' for cell in cells)}</tr>"


def _shown(name: str, value: Any) -> str:
    if name in ("size", "logical_size"):
        return f"{value:,} bytes" if value < 1024 else f"{_readable(value)} ({value:,} bytes)"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, tuple):
        return _escaped(", ".join(value))
    if name in ("summary", "value", "inputs", "packages"):
        return f"<code>{_escaped(_cut(json.dumps(value, ensure_ascii=False)))}</code>"
    return _escaped(f"{value:.3g} s" if name == "duration" else str(value))


def _cut(text: str, most: int = 500) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _escaped(text: str) -> str:
    """Return text that HTML shows as it is; what is no valid Unicode is shown as an escape."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def _readable(size: int) -> str:
    """Return a number of bytes as people read it."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
