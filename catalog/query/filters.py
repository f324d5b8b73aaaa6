"""The filters that the questions for each table take, as SQL conditions and as an export notes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalog.errors import InvalidQuestion
from catalog.format.names import to_text
from catalog.query.conditions import Conditions
from catalog.query.times import to_utc

#: The column that `since` and `until` are about.
TIMES = {"tasks": "saved_at", "events": "time", "runs": "started"}
_ALWAYS = ("workflow", "task", "event")  # to leave none of them out is "*", not None
_GLOBS = (*_ALWAYS, "type", "status", "backend")
_OF_RESULTS = ("workflow", "task", "since", "until", "serializer", "type", "min_size", "max_size")
_FILTERS = {
    "tasks": _OF_RESULTS,
    "events": (*_OF_RESULTS, "event"),
    "runs": ("workflow", "since", "until", "status", "backend"),
}


def given(table: str, filters: dict[str, Any]) -> dict[str, Any]:
    """Return the filters that leave something out, each in its one form.

    Parameters
    ----------
    table : str
        ``tasks``, ``events`` or ``runs``.
    filters : dict
        By name; those that are None leave nothing out, nor do patterns that are ``"*"``.

    Returns
    -------
    dict
        JSON values: names as text, times as ISO 8601 in UTC.

    Raises
    ------
    InvalidQuestion
        If the table takes no such filter, or a time cannot be read.
    """
    found = {}
    for name, value in filters.items():
        if value is None or (name in _GLOBS and value == "*"):
            continue
        if name not in _FILTERS[table]:
            raise InvalidQuestion(f"{name}={value!r}: {table} takes no such filter; it takes {_listed(table)}")
        if name in ("since", "until"):
            value = to_utc(value, name).isoformat(timespec="microseconds").replace("+00:00", "Z")
        found[name] = to_text(value) if isinstance(value, str) else value
    return found


def conditions(table: str, filters: Mapping[str, Any]) -> Conditions:
    """Return filters as SQL conditions.

    Parameters
    ----------
    table : str
        ``tasks``, ``events`` or ``runs``.
    filters : mapping
        As the table's question takes them.

    Returns
    -------
    Conditions
        All of them.

    Raises
    ------
    InvalidQuestion
        If one cannot be understood.
    """
    wanted = Conditions()
    for name in _GLOBS:
        pattern = filters.get(name, "*")
        if pattern is not None or name in _ALWAYS:
            wanted.glob(name, pattern)
    wanted.between(TIMES[table], filters.get("since"), filters.get("until"))
    if (serializer := filters.get("serializer")) is not None:
        wanted.contains("serializers", serializer)
    wanted.within("size", filters.get("min_size"), filters.get("max_size"))
    return wanted


def _listed(table: str) -> str:
    return ", ".join(_FILTERS[table])
