"""Moments as people give them, as the catalog keeps them: UTC."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone
from typing import Any, Protocol

from catalog.errors import InvalidQuestion


class Datetime64(Protocol):
    """A `numpy.datetime64`, whose own type is known only where NumPy is loaded."""

    def astype(self, dtype: str, /) -> Any:
        """Return it in another unit."""


#: What is taken for a moment; a `pandas.Timestamp` is a datetime.
Moment = datetime | date | str | Datetime64

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST = datetime.min.replace(tzinfo=timezone.utc)
_LAST = datetime.max.replace(tzinfo=timezone.utc)
# ISO 8601 in its long and its short form, which Python 3.10 does not read, nor "Z" and fractions of any length.
_ISO = re.compile(
    r"(\d{4})(-?)(\d\d)\2(\d\d)(?:[T ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
).fullmatch


def to_utc(moment: Moment, what: str) -> datetime:
    """Return a moment as UTC.

    Parameters
    ----------
    moment : datetime, date, str or numpy.datetime64
        A string is ISO 8601. What has no zone is local time; a date is its midnight. Of a local time that the end of
        daylight time repeats, the first is meant, or the second if its `fold` is 1; one that the beginning of daylight
        time leaves out is as long after the change as it seems to be.
    what : str
        The name of the parameter, for the message.

    Returns
    -------
    datetime
        Aware, UTC. What lies beyond Python's calendar, from the year 1 to 9999, is its first or last moment.

    Raises
    ------
    InvalidQuestion
        If it cannot be read, or is NaT.
    """
    kind = type(moment)
    if isinstance(moment, str):
        given = _parse(moment, what)
    elif isinstance(moment, datetime):
        given = _python_datetime(moment, what)
    elif isinstance(moment, date):
        given = datetime(moment.year, moment.month, moment.day)
    elif (kind.__module__, kind.__name__) == ("numpy", "datetime64"):
        given = _of_numpy(moment, what)
    else:
        raise InvalidQuestion(f"{what} is a datetime, a date or an ISO 8601 string, not {moment!r}")
    try:
        return _of_local(given) if given.tzinfo is None else given.astimezone(timezone.utc)
    except (OverflowError, ValueError, OSError):  # the calendar's first or last day, which stands for "ever"
        return given.replace(tzinfo=timezone.utc)


def _of_local(moment: datetime) -> datetime:
    # By `timestamp`, since `astimezone` gives another moment for a time that the change to daylight time leaves out.
    seconds = int(moment.replace(microsecond=0).timestamp())
    return _EPOCH + timedelta(seconds=seconds, microseconds=moment.microsecond)


def _parse(text: str, what: str) -> datetime:
    try:
        return datetime.fromisoformat(_normal(text.strip()))
    except ValueError:
        raise InvalidQuestion(
            f"{what}={text!r} is no date: write it as in ISO 8601, such as 2026-11-23 or 2026-11-23T18:30:00"
        ) from None


def _normal(text: str) -> str:
    """Return ISO 8601 in the form that every version of Python reads; other text as it is."""
    found = _ISO(text)
    if not found:
        return text
    year, _, month, day, hour, minute, second, fraction, zone = found.groups()
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}.{(fraction or '')[:6]:0<6}"
    return f"{year}-{month}-{day}T{clock}{_offset(zone)}"


def _offset(zone: str | None) -> str:
    if not zone:
        return ""
    if zone in "Zz":
        return "+00:00"
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return f"{zone[0]}{digits[:2]}:{digits[2:]}"


def _python_datetime(moment: datetime, what: str) -> datetime:
    """Return a datetime of any class as one of Python's: those of pandas are no moments where they have no zone."""
    if moment != moment:
        raise _not_a_time(what)
    fields = (moment.hour, moment.minute, moment.second, moment.microsecond)
    try:
        return datetime(moment.year, moment.month, moment.day, *fields, tzinfo=moment.tzinfo, fold=moment.fold)
    except ValueError:  # pandas has a larger calendar
        return _FIRST if moment.year < 1 else _LAST


def _of_numpy(moment: Datetime64, what: str) -> datetime:
    if moment != moment:
        raise _not_a_time(what)
    try:
        year = int(moment.astype("datetime64[Y]").astype("int64")) + 1970
    except OverflowError:  # picoseconds and less reach over months only
        year = 1970
    if not 1 <= year <= 9999:  # microseconds may not reach that far
        return _FIRST if year < 1 else _LAST
    found = moment.astype("datetime64[us]").item()
    assert isinstance(found, datetime)
    return found


def _not_a_time(what: str) -> InvalidQuestion:
    return InvalidQuestion(f"{what} is NaT, which is no time: leave the argument out, or give it a moment")


def span(since: Moment | None, until: Moment | None) -> tuple[datetime | None, datetime | None]:
    """Return a span of time in UTC.

    Returns
    -------
    tuple of (datetime or None, datetime or None)
        The beginning and the end.

    Raises
    ------
    InvalidQuestion
        If a moment cannot be read, or `since` is after `until`.
    """
    first = None if since is None else to_utc(since, "since")
    last = None if until is None else to_utc(until, "until")
    if first is not None and last is not None and first > last:
        raise InvalidQuestion(f"since={since!r} is after until={until!r}: exchange them")
    return first, last
