"""The questions that the catalog's methods ask, as SQL over the index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalog.format.columns import EVENTS, RUNS, TABLES, TASKS, Column
from catalog.format.names import to_text
from catalog.index.question import Question
from catalog.index.schema import names_of
from catalog.query.conditions import Conditions, limited, order
from catalog.query.filters import conditions
from catalog.query.times import Moment, to_utc

Filters = Mapping[str, Any]  # by the names that `catalog.query.filters` knows


def tasks(filters: Filters) -> Question:
    """Return the question for results: those of now, or those of a moment."""
    rest = _rows(filters, TASKS, "workflow, task")
    columns = names_of(TASKS)
    as_of = filters.get("as_of")
    if as_of is None:
        now = conditions("tasks", filters)
        return Question(f"SELECT {columns} FROM tasks{now.where()}{rest}", now.parameters)
    of_names = {name: filters[name] for name in ("workflow", "task")}
    then = _at(conditions("tasks", of_names), as_of)
    others = conditions("tasks", {name: value for name, value in filters.items() if name not in of_names})
    return Question(f"SELECT {columns} FROM ({then.sql}){others.where()}{rest}", then.parameters + others.parameters)


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


def events(filters: Filters) -> Question:
    """Return the question for what happened."""
    return _of_table("events", filters, _rows(filters, EVENTS, "event_id"))


def runs(filters: Filters) -> Question:
    """Return the question for runs."""
    return _of_table("runs", filters, _rows(filters, RUNS, "started, run_id"))


def _rows(filters: Filters, columns: tuple[Column, ...], default: str) -> str:
    return order(filters.get("order_by"), columns, default) + limited(filters.get("limit"))


def _of_table(table: str, filters: Filters, rest: str) -> Question:
    wanted = conditions(table, filters)
    return Question(f"SELECT {names_of(TABLES[table])} FROM {table}{wanted.where()}{rest}", wanted.parameters)


def one(workflow: str, task: str, table: str) -> Question:
    """Return the question for one name in `tasks`, or for its saves and removals in `events`, oldest first."""
    columns, rest = {
        "tasks": (TASKS, ""),
        "events": (EVENTS, " AND event IN ('save', 'remove') ORDER BY event_id"),
    }[table]
    sql = f"SELECT {names_of(columns)} FROM {table} WHERE workflow = ? AND task = ?{rest}"
    return Question(sql, [to_text(workflow), to_text(task)])
