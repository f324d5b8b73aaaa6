"""The questions that the catalog's methods ask, as SQL over the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from catalog.names import to_text
from catalog.query import Conditions, limited, order
from catalog.schema import EVENTS, RUNS, TASKS, names_of
from catalog.times import Moment, to_utc


@dataclass(frozen=True)
class Question:
    """A query over the index, with its parameters."""

    sql: str
    parameters: list[Any]


@dataclass(frozen=True)
class Filters:
    """What the rows of `tasks` and of `events` are picked by.

    Attributes
    ----------
    workflow, task : str
        Globs as in `fnmatch`.
    since, until : datetime, date, str or None
        At or after `since`, before `until`.
    serializer : str or None
        The name of a serializer that took part.
    type : str or None
        A glob on the type of the result.
    min_size, max_size : int or None
        Bytes, both included.
    """

    workflow: str = "*"
    task: str = "*"
    since: Moment | None = None
    until: Moment | None = None
    serializer: str | None = None
    type: str | None = None
    min_size: int | None = None
    max_size: int | None = None

    def of_names(self) -> Conditions:
        """Return the conditions on the names alone."""
        conditions = Conditions()
        conditions.glob("workflow", self.workflow)
        conditions.glob("task", self.task)
        return conditions

    def add_rest(self, conditions: Conditions, time: str) -> Conditions:
        """Add the other conditions, `since` and `until` on the column `time`."""
        conditions.between(time, self.since, self.until)
        if self.serializer is not None:
            conditions.contains("serializers", self.serializer)
        if self.type is not None:
            conditions.glob("type", self.type)
        conditions.within("size", self.min_size, self.max_size)
        return conditions


def tasks(filters: Filters, as_of: Moment | None, order_by: str | None, limit: int | None) -> Question:
    """Return the question for results: those of now, or those of a moment."""
    rest = order(order_by, TASKS, "workflow, task") + limited(limit)
    columns = names_of(TASKS)
    if as_of is None:
        conditions = filters.add_rest(filters.of_names(), "saved_at")
        return Question(f"SELECT {columns} FROM tasks{conditions.where()}{rest}", conditions.parameters)
    at_that_time = _at(filters.of_names(), as_of)
    conditions = filters.add_rest(Conditions(), "saved_at")
    sql = f"SELECT {columns} FROM ({at_that_time.sql}){conditions.where()}{rest}"
    return Question(sql, at_that_time.parameters + conditions.parameters)


def names(workflow: str, pattern: str, since: Moment | None, until: Moment | None, as_of: Moment | None) -> Question:
    """Return the question for the names of one workflow's results."""
    of_names = Conditions()
    of_names.add("workflow = ?", to_text(workflow))
    of_names.glob("task", pattern)
    if as_of is None:
        of_names.between("saved_at", since, until)
        return Question(f"SELECT task FROM tasks{of_names.where()}", of_names.parameters)
    at_that_time = _at(of_names, as_of)
    times = Conditions()
    times.between("saved_at", since, until)
    return Question(f"SELECT task FROM ({at_that_time.sql}){times.where()}", at_that_time.parameters + times.parameters)


def _at(conditions: Conditions, as_of: Moment) -> Question:
    """Return the question for what was stored at a moment under the names that meet `conditions`.

    Of each name the event with the greatest id counts, not the latest one: ids
    follow what they replace, whatever the clocks say. Only where writers
    competed does the blob that won count, as in `tasks`, once its time has come.
    """
    moment = to_utc(as_of, "as_of")
    conditions.add("event IN ('save', 'remove')")
    conditions.add('"time" <= ?', moment)
    sql = f"""
        SELECT events.*, coalesce(pinned, false) AS pinned FROM events SEMI JOIN (
            SELECT coalesce(max(event_id) FILTER (stands), max(event_id)) AS event_id FROM (
                SELECT workflow, task, event_id, winner.event_id IS NOT NULL AS stands
                FROM (SELECT workflow, task, event_id FROM events{conditions.where()})
                LEFT JOIN (SELECT event_id FROM latest WHERE event = 'save') winner USING (event_id)
            ) GROUP BY workflow, task
        ) USING (event_id) LEFT JOIN (
            SELECT workflow, task, max_by(event = 'pin', event_id) AS pinned FROM events
            WHERE event IN ('pin', 'unpin') AND "time" <= ? GROUP BY workflow, task
        ) USING (workflow, task) WHERE event = 'save'"""
    return Question(sql, [*conditions.parameters, moment])


def events(filters: Filters, event: str, order_by: str | None, limit: int | None) -> Question:
    """Return the question for what happened."""
    conditions = filters.add_rest(filters.of_names(), "time")
    conditions.glob("event", event)
    rest = order(order_by, EVENTS, "event_id") + limited(limit)
    return Question(f"SELECT {names_of(EVENTS)} FROM events{conditions.where()}{rest}", conditions.parameters)


def runs(
    filters: Filters, status: str | None, backend: str | None, order_by: str | None, limit: int | None
) -> Question:
    """Return the question for runs; of the filters, workflow, since and until count."""
    conditions = Conditions()
    conditions.glob("workflow", filters.workflow)
    conditions.between("started", filters.since, filters.until)
    for column, pattern in (("status", status), ("backend", backend)):
        if pattern is not None:
            conditions.glob(column, pattern)
    rest = order(order_by, RUNS, "started, run_id") + limited(limit)
    return Question(f"SELECT {names_of(RUNS)} FROM runs{conditions.where()}{rest}", conditions.parameters)


def one(workflow: str, task: str, table: str) -> Question:
    """Return the question for one name in `tasks`, or for its saves and removals in `events`, oldest first."""
    columns, rest = {
        "tasks": (TASKS, ""),
        "events": (EVENTS, " AND event IN ('save', 'remove') ORDER BY event_id"),
    }[table]
    sql = f"SELECT {names_of(columns)} FROM {table} WHERE workflow = ? AND task = ?{rest}"
    return Question(sql, [to_text(workflow), to_text(task)])
