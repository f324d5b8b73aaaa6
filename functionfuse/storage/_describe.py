"""What the catalog says of a result without unpickling it: its type, a summary and, if it is small, its value.

Captured at save, cheaply and within bounds; nothing here makes a save fail.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from catalog.format.names import to_text
from functionfuse.serializers.base import Statistics
from functionfuse.storage import _static
from functionfuse.storage._json_readers import (
    LONGEST,
    Reason,
    read_bool,
    read_float,
    read_int,
    read_none,
    read_str,
    to_json,
)
from functionfuse.storage._json_value import JsonValue, json_value
from functionfuse.storage._summaries import add_statistics, summary

_log = logging.getLogger("functionfuse.storage")


class Description(Struct, frozen=True, gc=False):
    """What a record says of a result.

    Attributes
    ----------
    type : str
        Its full name.
    summary, value : str
        JSON; ``value`` is null where nothing of the result is short and JSON-like, ``summary`` where nothing is known.
    packages : dict
        The versions of the packages that it needs.
    """

    type: str
    summary: str
    value: str
    packages: dict[str, str]


def describe(obj: Any, tell: Callable[[], Statistics | None] = lambda: None) -> Description:
    """Return what a record says of a result, besides where it comes from.

    Parameters
    ----------
    obj : object
        The result.
    tell : callable
        Gives what the files that it was saved to say of it.

    Returns
    -------
    Description
        Within bounds, whatever the result is.
    """
    cls = type(obj)
    try:
        scalar = _SCALARS.get(cls) if type(cls) is type else None  # a metaclass may have its own idea of equality
        if scalar is not None and type(text := scalar(obj)) is str:
            return Description(cls.__name__, "null", text, {})
        return _describe(obj, cls, tell)
    except Exception:  # an object of any class may do anything when it is looked at
        _log.debug("no summary of a %s", type_name(cls), exc_info=True)
        return Description(type_name(cls), "null", "null", {})


def type_name(cls: type) -> str:
    """Return the name of a type with its module, builtins without."""
    module = _static.module_of(cls)
    name = _static.qualname(cls)
    return to_text(name if module in ("builtins", "") else f"{module}.{name}")


def _describe(obj: Any, cls: type, tell: Callable[[], Statistics | None]) -> Description:
    value = json_value(obj)
    found = summary(obj, cls)
    if found is not None:
        _add_told(found, tell)
    return Description(type_name(cls), _summary_text(found, value), value.text, _packages(obj, cls))


def _add_told(found: dict[str, Any], tell: Callable[[], Statistics | None]) -> None:
    try:
        statistics = tell()
        if statistics is not None:
            add_statistics(found, statistics)
    except Exception:  # without the library that reads them, the files say nothing
        _log.debug("no statistics of the side files", exc_info=True)


def _summary_text(found: dict[str, Any] | None, value: JsonValue) -> str:
    """Return a summary as JSON, with what was left out of the value, and without what is longest if it is too long."""
    if not value.omitted_count:
        return _shortened(found, LONGEST)
    omitted: dict[str, Any] = {"omitted": value.omitted}
    if value.omitted_count > len(value.omitted):
        omitted["omitted_count"] = value.omitted_count
    text = to_json(omitted)
    others = _shortened(found or {}, LONGEST - len(text))
    return text if others == "{}" else f"{others[:-1]},{text[1:]}"


def _shortened(found: dict[str, Any] | None, room: int) -> str:
    while len(text := to_json(found)) > room and found:
        del found[max(found, key=lambda part: len(to_json(found[part])))]
    return text


def _short_str(text: str) -> str | Reason:
    # A character takes 18 at most: a lone surrogate becomes an escaped mark and six digits.
    return read_str(text) if len(text) <= LONGEST // 18 else Reason.LONG


_SCALARS: dict[type, Callable[[Any], str | Reason]] = {
    int: read_int,
    float: read_float,
    str: _short_str,
    bool: read_bool,
    type(None): read_none,
}


def _packages(obj: Any, cls: type) -> dict[str, str]:
    names = {_static.package(cls)}
    if (cls is list or cls is tuple or cls is dict) and len(obj) <= 50:
        names.update(_static.package(type(item)) for item in (obj.values() if cls is dict else obj))
    versions = ((name, _static.version(name)) for name in sorted(names - {"builtins"}))
    return {to_text(name): to_text(version) for name, version in versions if version is not None}
