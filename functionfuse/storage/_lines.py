"""The lines that a storage writes to its journal, beside those of saves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from catalog.format import footer as record
from catalog.format import ids, names
from catalog.format.events import Kind


def moment() -> str:
    """Return the present as footers and lines have it."""
    return record.utc_text(time.time())


def event(kind: Kind | str, fields: str, after: str | None = None) -> str:
    """Return the line of an event, whose id is greater than `after`."""
    return record.event_line(kind, ids.new_id(after), time.time(), fields)


def details(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an event has to say beside its columns, as JSON can hold it."""
    return {key: names.to_text(value) if isinstance(value, str) else value for key, value in said.items()}
