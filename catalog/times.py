"""Moments as people give them, as the catalog keeps them: UTC."""

from __future__ import annotations

from datetime import date, datetime, timezone

from catalog.errors import InvalidQuestion

Moment = datetime | date | str


def to_utc(moment: Moment, what: str) -> datetime:
    """Return a moment as UTC without a zone.

    Parameters
    ----------
    moment : datetime, date or str
        A string is ISO 8601. What has no zone is local time; a date is its midnight.
    what : str
        The name of the parameter, for the message.

    Returns
    -------
    datetime
        Naive, UTC.

    Raises
    ------
    InvalidQuestion
        If it cannot be read.
    """
    if isinstance(moment, str):
        moment = _parse(moment, what)
    if not isinstance(moment, date):
        raise InvalidQuestion(f"{what} is a datetime, a date or an ISO 8601 string, not {moment!r}")
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    try:
        return moment.astimezone(timezone.utc).replace(tzinfo=None)
    except (OverflowError, ValueError):  # the calendar's first or last day, which stands for "ever"
        return moment.replace(tzinfo=None)


def _parse(text: str, what: str) -> datetime:
    try:
        # Python 3.10 does not read the "Z" that everybody writes.
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise InvalidQuestion(
            f"{what}={text!r} is no date: write it as in ISO 8601, such as 2026-11-23 or 2026-11-23T18:30:00"
        ) from None


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
