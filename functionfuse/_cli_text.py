"""Values as text: exact for programs, short for people."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any

#: What steers a terminal or breaks a line, and the bidirectional controls, which make a name look like another.
_AWKWARD = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = "=+-@"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]inf(inity)?", re.ASCII | re.IGNORECASE).fullmatch
_ESCAPES = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def jsonable(value: Any) -> Any:
    """Return a value as JSON has it: times in ISO 8601, numbers as numbers.

    Parameters
    ----------
    value : object
        What Arrow gives for a cell of an answer. Times with a zone, as the catalog's are, are written in UTC.

    Returns
    -------
    object
        Made of None, bool, int, float, str, list and dict. NaN and infinities, of which JSON knows nothing, are
        text, as they are in the catalog's column `value`.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, Decimal)):
        return _number(value)
    if isinstance(value, (datetime, date, time)):
        return utc_text(value)
    if isinstance(value, dict):
        return {str(key): jsonable(each) for key, each in value.items()}
    if hasattr(value, "nanoseconds"):  # Arrow's interval, which is a tuple too
        seconds, rest = divmod(abs(value.nanoseconds), 10**9)
        sign = "-" if value.nanoseconds < 0 else ""
        return f"P{value.months}M{value.days}DT{sign}{seconds}{f'.{rest:09}'.rstrip('0') if rest else ''}S"
    if isinstance(value, (list, tuple)):
        return [jsonable(each) for each in value]
    return value.hex() if isinstance(value, bytes) else str(value)


def _number(value: float | Decimal) -> Any:
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def utc_text(moment: datetime | date | time) -> str:
    """Return a time as ISO 8601: what has a zone in UTC, with Z; what has none, as a query may make it, without."""
    if not isinstance(moment, datetime):
        return moment.isoformat()
    if moment.tzinfo is None:
        return moment.isoformat(timespec="microseconds")
    return f"{moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def cell(value: Any) -> str:
    """Return a JSON-like value as the field of a line: nothing for null, nested values as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def exact(value: Any) -> str:
    """Return any value as text, a decimal with all of its digits."""
    return f"{value:f}" if isinstance(value, Decimal) and value.is_finite() else cell(jsonable(value))


def field(value: Any) -> str:
    """Return any value as the field of a line, on one line whatever it holds."""
    return escaped(exact(value))


def no_formula(text: str) -> str:
    """Return text that a spreadsheet does not compute: what it would take for a formula begins with an apostrophe.

    Numbers are left as they are. (OWASP, "CSV Injection".)
    """
    return f"'{text}" if text[:1] in _FORMULA and text and not _NUMBER(text) else text


def escaped(text: str) -> str:
    r"""Return text that stays on its line: names may hold tabs, line ends, and what would steer a terminal."""
    return _AWKWARD.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return _ESCAPES.get(match[0]) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def human_size(size: float) -> str:
    """Return a number of bytes in units of 1000, such as ``1.2 MB``."""
    unit = 0
    while abs(size) >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    if unit == 0:
        return f"{size:.0f} {_UNITS[unit]}" if size != 1 else "1 byte"
    return f"{size:.0f} {_UNITS[unit]}" if abs(size) >= 99.95 else f"{size:.1f} {_UNITS[unit]}"


def human_seconds(seconds: float) -> str:
    """Return a duration, such as ``3.2 ms`` or ``2 h 05 min``."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def human_time(moment: datetime) -> str:
    """Return a time as the clock on the wall shows it; one without a zone as it is."""
    return f"{moment if moment.tzinfo is None else moment.astimezone():%Y-%m-%d %H:%M:%S}"


def counted(number: int, thing: str) -> str:
    """Return a number of things, such as ``1 result`` or ``1,204 results``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
