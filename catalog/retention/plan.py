"""Which results a rule of retention would remove."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from catalog.errors import InvalidQuestion
from catalog.index.engine import relation
from catalog.index.question import Question
from catalog.query.conditions import Conditions
from catalog.query.times import Moment, to_utc

if TYPE_CHECKING:
    import duckdb

Age = timedelta | Moment

_AGE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([a-z]+)\s*").fullmatch
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]+)\s*").fullmatch
_UNITS_OF_AGE = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_UNITS_OF_SIZE = {"b": 1} | {
    f"{prefix}{end}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for end, base in (("b", 1000), ("ib", 1024))
}


def plan(workflow: str, keep_last: int | None, older_than: Age | None, larger_than: int | str | None) -> Question:
    """Return the question for what meets all conditions and is not pinned.

    Parameters
    ----------
    workflow : str
        A glob.
    keep_last : int, optional
        How many of each workflow are kept, the last that were saved.
    older_than : timedelta, datetime, date or str, optional
        Saved longer ago than that, or before then.
    larger_than : int or str, optional
        Bytes.

    Returns
    -------
    Question
        One row a result that would be removed.

    Raises
    ------
    InvalidQuestion
        If there is no condition, or one that cannot be understood.
    """
    if keep_last is None and older_than is None and larger_than is None:
        raise InvalidQuestion(
            "gc without a condition would remove everything: give keep_last, older_than or larger_than; "
            "who wants to remove a whole workflow names it"
        )
    conditions = Conditions()
    conditions.glob("workflow", workflow)
    if keep_last is not None:
        conditions.add("newest > ?", _count(keep_last))
    if older_than is not None:
        conditions.add("saved_at < ?", _moment(older_than))
    if larger_than is not None:
        conditions.add("size > ?", _bytes(larger_than))
    conditions.add("NOT pinned")
    return Question(f"{_PLAN}{conditions.where()} ORDER BY workflow, task", conditions.parameters)


def marked(planned: duckdb.DuckDBPyRelation, removed: list[bool]) -> duckdb.DuckDBPyRelation:
    """Return a plan with what became of each of its rows."""
    import pyarrow as pa

    table = planned.to_arrow_table()
    return relation(table.set_column(table.column_names.index("removed"), "removed", pa.array(removed, pa.bool_())))


_PLAN = """
    SELECT workflow, task, size, saved_at, blob_id, false AS removed FROM (
        SELECT *, row_number() OVER (PARTITION BY workflow ORDER BY saved_at DESC, blob_id DESC) AS newest FROM tasks
    )"""


def _count(keep_last: int) -> int:
    if not isinstance(keep_last, int) or isinstance(keep_last, bool) or keep_last < 0:
        raise InvalidQuestion(f"keep_last={keep_last!r}: it is how many results of each workflow stay, 0 or more")
    return keep_last


def _moment(older_than: Age) -> datetime:
    """Return the moment before which a result is old enough, UTC."""
    age = _parse_age(older_than) if isinstance(older_than, str) else older_than
    if isinstance(age, timedelta):
        if age < timedelta(0):
            raise InvalidQuestion(f"older_than={older_than!r}: an age is not negative")
        try:
            return datetime.now(timezone.utc) - age
        except OverflowError:  # older than the calendar
            return datetime.min.replace(tzinfo=timezone.utc)
    return to_utc(age, "older_than")


def _parse_age(text: str) -> timedelta | str:
    found = _AGE(text)
    if not found:
        return text  # a date
    if found[2] not in _UNITS_OF_AGE:
        raise InvalidQuestion(f"older_than={text!r}: an age is written as in 90min, 12h, 30d or 2w")
    try:
        return timedelta(seconds=float(found[1]) * _UNITS_OF_AGE[found[2]])
    except OverflowError:
        return timedelta.max


def _bytes(larger_than: int | str) -> int:
    if isinstance(larger_than, str):
        found = _SIZE(larger_than)
        if found and found[2].lower() in _UNITS_OF_SIZE:
            return int(float(found[1]) * _UNITS_OF_SIZE[found[2].lower()])
    elif isinstance(larger_than, int) and not isinstance(larger_than, bool) and larger_than >= 0:
        return larger_than
    raise InvalidQuestion(f"larger_than={larger_than!r}: a size is a number of bytes, or written as in 500MB or 2GiB")
