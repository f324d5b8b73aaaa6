"""The commands that ask: ls, show, sql, runs, du."""

from __future__ import annotations

import sys
from typing import Any

import click

from functionfuse._cli_answer import Answer, Row, as_row, from_relation, from_rows
from functionfuse._cli_options import (
    any_workflow,
    assignment,
    examples,
    form_options,
    given,
    limit_option,
    storage_argument,
    task_argument,
    time_options,
    when,
    workflow_argument,
)
from functionfuse._cli_output import emit, on_terminal, say
from functionfuse._cli_storage import open_storage
from functionfuse._cli_text import counted, field, human_size

_SHORT = ("workflow", "task", "size", "saved_at", "type")
_LONG = (*_SHORT, "pinned", "duration", "function", "value", "summary", "serializers", "host", "user", "run_id")
_EVENT = ("time", "event", "user", "host", "pid", "size", "checksum")
_RUN = ("started", "workflow", "status", "computed", "restored", "finished", "backend")
_USAGE = """
    SELECT workflow, count(*) AS results, least(sum(size), 9223372036854775807)::BIGINT AS size,
           max(saved_at) AS last_saved
    FROM tasks GROUP BY workflow ORDER BY size DESC, workflow
"""


@click.command(
    "ls",
    epilog=examples(
        "ls results",
        "ls results descent 'rate=0.1 *' --sort 'size DESC' --limit 10",
        "ls results --since yesterday --json | jq '.[].task'",
        "ls results descent | cut -f2",
        "ls results --as-of 2026-11-23T18:30:00Z",
    ),
)
@storage_argument
@any_workflow
@click.argument("pattern", default="*")
@time_options
@click.option("--as-of", type=when, metavar="TIME", help="What was stored at that moment.")
@click.option("--sort", metavar="COLUMN", help="Columns, with DESC where wanted: 'size DESC, task'.")
@limit_option
@click.option("--long", is_flag=True, help="More columns: value, summary and where it came from.")
@form_options
def list_results(
    storage: str, workflow: str, pattern: str, sort: str | None, long: bool, form: str | None, **filters: Any
) -> None:
    """List the results that are stored.

    WORKFLOW and PATTERN, for the tasks, are globs: *, ?, [abc], [!abc]. Without a terminal the lines hold workflow,
    task, size in bytes, UTC time and type, with a tab between them and no header; --json and --csv have all columns.
    """
    catalog = open_storage(storage).catalog
    answer = from_relation(catalog.tasks(workflow, pattern, order_by=sort, **given(**filters)))
    if not answer.count:
        say("nothing matches")
    emit(answer, form, _LONG if long else _SHORT)


@click.command(
    epilog=examples("show results weather day", "show results weather day --json | jq '.[0].inputs'"),
)
@storage_argument
@workflow_argument
@task_argument
@form_options
def show(storage: str, workflow: str, task: str, form: str | None) -> None:
    """Show all that is known of one result.

    Its names, size, times, type, summary and value, where it came from, and the history of what was stored under this
    name. No result is read for it: nothing is unpickled.
    """
    row = as_row(open_storage(storage).catalog.task(workflow, task))
    events = [as_row(event) for event in row.pop("history")]
    if form == "csv":
        emit(from_rows([row]), form)
    elif form == "json":
        emit(from_rows([{**row, "history": events}]), form)
    elif on_terminal():
        _print_readably(row, events)
    else:
        _print(row, events)


def _print(row: Row, events: list[Row]) -> None:
    """Print the columns that hold something, one a line, and behind them the events, each behind "history"."""
    fields = [(name, value) for name, value in row.items() if value is not None]
    for line in (*fields, *(("history", *(event[name] for name in _EVENT)) for event in events)):
        click.echo("\t".join(map(field, line)))


def _print_readably(row: Row, events: list[Row]) -> None:
    from functionfuse._cli_terminal import print_record

    print_record(row)
    emit(from_rows(events, _EVENT), None, _EVENT)


@click.command(
    epilog=examples(
        "sql results \"SELECT task, value->>'loss' AS loss FROM tasks ORDER BY loss::DOUBLE LIMIT 3\"",
        "sql results 'FROM events WHERE task = $task' --param task=day",
        "sql results - --csv < query.sql",
        'sql results "SELECT count(*) FROM tasks"',
    ),
)
@storage_argument
@click.argument("query")
@click.option(
    "--param",
    "params",
    type=assignment,
    metavar="NAME=VALUE",
    multiple=True,
    help="A value for $name; may be repeated.",
)
@click.option("--memory-limit", default="1GB", show_default=True, help="The most memory that it may take.")
@click.option("--time-limit", type=float, default=60.0, show_default=True, help="Seconds after which it is stopped.")
@form_options
def sql(
    storage: str,
    query: str,
    params: tuple[tuple[str, Any], ...],
    memory_limit: str,
    time_limit: float,
    form: str | None,
) -> None:
    """Answer a query in SQL.

    QUERY is DuckDB's SQL over the tables tasks, events and runs, or - to read it from the standard input. It can read
    the catalog and do nothing else. Times are UTC. Without a terminal each line is a row, with tabs and no header.
    """
    text = sys.stdin.read() if query == "-" else query
    catalog = open_storage(storage).catalog
    answer = catalog.sql(text, dict(params), memory_limit=memory_limit, time_limit=time_limit)
    emit(from_relation(answer, raw=True), form)


@click.command(
    epilog=examples("runs results", "runs results weather --since 7d --status failed"),
)
@storage_argument
@any_workflow
@time_options
@click.option("--status", help="finished, failed, interrupted, or running where no end was recorded.")
@click.option("--sort", metavar="COLUMN", default="started DESC", show_default=True, help="As in ls.")
@limit_option
@form_options
def runs(storage: str, workflow: str, sort: str, form: str | None, **filters: Any) -> None:
    """List the runs of workflows.

    WORKFLOW is a glob. The latest run comes first.
    """
    relation = open_storage(storage).catalog.runs(workflow, order_by=sort, **given(**filters))
    emit(from_relation(relation), form, _RUN)


@click.command(
    epilog=examples("du results", "du results --json"),
)
@storage_argument
@form_options
def du(storage: str, form: str | None) -> None:
    """Tell what each workflow takes.

    Workflow, number of results, bytes, and when the last one was saved; the largest first.
    """
    answer = from_relation(open_storage(storage).catalog.sql(_USAGE))
    rows = list(answer.rows)
    emit(Answer(answer.columns, answer.count, rows), form)
    if on_terminal() and not form:
        total = sum(row["results"] for row in rows)
        say(f"{counted(total, 'result')}, {human_size(sum(row['size'] for row in rows))}")
