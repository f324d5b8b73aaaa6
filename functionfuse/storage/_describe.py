"""What the catalog says of a result without unpickling it: its type, a summary and, if it is small, its value.

Captured at save, cheaply and within bounds; nothing here makes a save fail.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from typing import Any

from catalog.names import to_text
from catalog.record import fragment
from functionfuse.serializers.base import Statistics
from functionfuse.storage._plain import LONGEST, NotPlain, Plain, not_finite, to_json
from functionfuse.storage._summaries import add_statistics, package, summary

_log = logging.getLogger("functionfuse.storage")


def describe(obj: Any, tell: Callable[[], Statistics | None] = lambda: None) -> str:
    """Return the fragment of a record with ``type``, ``summary``, ``value`` and ``packages``.

    Parameters
    ----------
    obj : object
        The result.
    tell : callable
        Gives what the files that it was saved to say of it.

    Returns
    -------
    str
        The inside of a JSON object. ``value`` is null where the result is no
        small scalar or JSON-like container, ``summary`` where nothing is known.
    """
    cls = type(obj)
    try:
        scalar = _SCALARS.get(cls)
        if scalar is not None and (text := scalar(obj)) is not None:
            return f'"type":"{cls.__name__}","summary":null,"value":{text},"packages":{{}}'
        return _describe(obj, cls, tell)
    except Exception:  # an object of any class may do anything when it is looked at
        _log.debug("no summary of a %s", cls, exc_info=True)
        return fragment(type=_safe_type_name(cls), summary=None, value=None, packages={})


def type_name(cls: type) -> str:
    """Return the name of a type with its module, builtins without."""
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return to_text(name)


def _safe_type_name(cls: type) -> str | None:
    try:
        return type_name(cls)
    except Exception:  # a metaclass may do anything too
        return None


def _describe(obj: Any, cls: type, tell: Callable[[], Statistics | None]) -> str:
    value = to_json(_value(obj))
    found = summary(obj, cls)
    if found is not None:
        _add_told(found, tell)
    names = fragment(type=type_name(cls), packages=_packages(obj, cls))
    return f'{names},"summary":{_shortened(found)},"value":{value if len(value) <= LONGEST else "null"}'


def _add_told(found: dict[str, Any], tell: Callable[[], Statistics | None]) -> None:
    try:
        statistics = tell()
        if statistics is not None:
            add_statistics(found, statistics)
    except Exception:  # without the library that reads them, the files say nothing
        _log.debug("no statistics of the side files", exc_info=True)


def _shortened(found: dict[str, Any] | None) -> str:
    """Return a summary as JSON, without its longest parts where it would be too long."""
    while len(text := to_json(found)) > LONGEST and found:
        del found[max(found, key=lambda part: len(to_json(found[part])))]
    return text


def _int(number: int) -> str | None:
    return str(number) if -(2**63) <= number < 2**64 else None


def _float(number: float) -> str:
    return repr(number) if math.isfinite(number) else f'"{not_finite(number)}"'


def _str(text: str) -> str | None:
    # A character takes 18 at most: a lone surrogate becomes an escaped mark and six digits.
    return to_json(to_text(text)) if len(text) <= LONGEST // 18 else None


_SCALARS: dict[type, Callable[[Any], str | None]] = {
    int: _int,
    float: _float,
    str: _str,
    bool: lambda flag: "true" if flag else "false",
    type(None): lambda _: "null",
}


def _value(obj: Any) -> Any:
    try:
        return Plain().of(obj)
    except NotPlain:
        return None


def _packages(obj: Any, cls: type) -> dict[str, str]:
    classes = {cls}
    if cls in (list, tuple, dict) and len(obj) <= 50:
        classes.update(type(item) for item in (obj.values() if cls is dict else obj))
    names = sorted({package(each) for each in classes})
    versions = ((name, getattr(sys.modules.get(name), "__version__", None)) for name in names)
    return {name: version for name, version in versions if type(version) is str}
