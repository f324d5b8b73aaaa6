"""The commands that change a storage, or hold it against what it should be: rm, gc, pin, verify, rebuild, ..."""

from __future__ import annotations

import glob
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from functionfuse._cli_answer import Answer, Row, from_object, from_relation, from_rows
from functionfuse._cli_options import (
    duration,
    examples,
    form_options,
    given,
    size,
    storage_argument,
    task_argument,
    workflow_argument,
    yes_option,
)
from functionfuse._cli_output import emit, say
from functionfuse._cli_storage import open_storage
from functionfuse._cli_text import counted, human_size
from functionfuse.errors import TaskNotFound
from functionfuse.storage._retention import reason

if TYPE_CHECKING:
    from functionfuse.storage import Storage

_PLAN = ("workflow", "task", "size")


class Refused(click.ClickException):
    """What was asked for is not done: exit code 2."""

    exit_code = 2


def _agreed(question: str) -> None:
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)  # the question is left standing in its line
        raise Refused("nothing was removed, for want of an answer: --yes removes without asking") from None
    if not agreed:
        raise Refused("nothing was removed")


def _total(rows: list[Row]) -> str:
    return f"{counted(len(rows), 'result')}, {human_size(sum(row['size'] or 0 for row in rows))}"


@click.command(
    epilog=examples(
        "rm results weather day",
        "rm results descent --pattern 'rate=0.1 *' --dry-run",
        "rm results descent --all --yes",
    ),
)
@storage_argument
@workflow_argument
@click.argument("task", required=False)
@click.option("--pattern", metavar="GLOB", help="All tasks that match.")
@click.option("--all", "everything", is_flag=True, help="The whole workflow.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@yes_option
@form_options
def rm(
    storage: str,
    workflow: str,
    task: str | None,
    pattern: str | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    form: str | None,
) -> None:
    """Remove results, with their side files.

    WORKFLOW and TASK are exact names. Lists what goes and how many bytes that is, and asks before it removes.
    """
    if (task is not None) + (pattern is not None) + everything != 1:
        raise click.UsageError("name one of TASK, --pattern GLOB and --all")
    opened = open_storage(storage)
    glob_of_tasks = "*" if pattern is None else pattern
    rows = _plan_of(opened, workflow, task) if task is not None else _matching(opened, workflow, glob_of_tasks)
    if not form:
        emit(from_rows(rows, _PLAN), form)
    if not dry_run and (rows or everything):
        if not yes:
            _agreed(f"Remove {_total(rows)}?")
        _remove(opened, workflow, rows, everything)
    say(f"{'would remove' if dry_run else 'removed'} {_total(rows)}")
    if form:
        emit(from_rows(rows, _PLAN), form)


def _matching(storage: Storage, workflow: str, pattern: str) -> list[Row]:
    answer = from_relation(storage.catalog.tasks(glob.escape(workflow), pattern))
    return [{name: row[name] for name in (*_PLAN, "blob_id")} for row in answer.rows]


def _plan_of(storage: Storage, workflow: str, task: str) -> list[Row]:
    if not storage.file_exists(workflow, task):
        raise TaskNotFound(f"task {task!r} of workflow {workflow!r}: nothing is stored there")
    # A result so damaged that the catalog does not know it can be removed, too.
    unknown = {"workflow": workflow, "task": task, "size": None, "blob_id": None}
    return _matching(storage, workflow, glob.escape(task)) or [unknown]


def _remove(storage: Storage, workflow: str, rows: list[Row], everything: bool) -> None:
    if everything:
        return storage.remove_workflow(workflow)
    for row in rows:
        with suppress(TaskNotFound):  # another process was quicker, or has saved it anew
            storage._remove(workflow, row["task"], storage._find(workflow, row["task"]), planned=row["blob_id"])
    return None


@click.command(
    epilog=examples(
        "gc results --older-than 30d --larger-than 1GB",
        "gc results --keep-last 100 --workflow 'sweep *' --delete",
        "gc results --older-than 52w --yes",
    ),
)
@storage_argument
@click.option("--keep-last", type=click.IntRange(min=0), metavar="N", help="Keep the N latest results of a workflow.")
@click.option("--older-than", type=duration, metavar="AGE", help="Only what was saved longer ago, such as 30d.")
@click.option("--larger-than", type=size, metavar="SIZE", help="Only what takes more, such as 1GB.")
@click.option("--workflow", default="*", metavar="GLOB", help="Only these workflows.")
@click.option("--delete", is_flag=True, help="Remove what is listed, after a question.")
@yes_option
@form_options
def gc(
    storage: str,
    keep_last: int | None,
    older_than: timedelta | None,
    larger_than: int | None,
    workflow: str,
    delete: bool,
    yes: bool,
    form: str | None,
) -> None:
    """Remove results by age, size or number.

    Lists them; removes them with --delete, after a question, or with --yes. A result goes when all that is given is
    true of it, unless it is pinned. Every removal stays in the history.
    """
    opened = open_storage(storage)
    rules = given(keep_last=keep_last, older_than=older_than, larger_than=larger_than)
    planned = opened.gc(**rules, workflow=workflow, dry_run=True)
    plan = from_relation(planned)
    columns = (*_PLAN, "saved_at", "reason")
    rows = list(plan.rows)
    removes = bool(rows) and (delete or yes)
    if not (form and removes):
        emit(Answer(plan.columns, plan.count, rows), form, columns)
    if not removes:
        hint = ": --delete removes them" if rows else ""
        return say(f"would remove {_total(rows)}{hint}")
    if not yes:
        _agreed(f"Remove {_total(rows)}?")
    done = list(from_relation(opened._collect(planned, reason(**rules))).rows)  # what was shown, and no new plan
    if form:
        emit(Answer(plan.columns, plan.count, done), form, columns)
    return say(f"removed {_total([row for row in done if row['removed']])}")


@click.command(epilog=examples("pin results weather day"))
@storage_argument
@workflow_argument
@task_argument
def pin(storage: str, workflow: str, task: str) -> None:
    """Keep a result from gc."""
    open_storage(storage).pin(workflow, task)


@click.command(epilog=examples("unpin results weather day"))
@storage_argument
@workflow_argument
@task_argument
def unpin(storage: str, workflow: str, task: str) -> None:
    """Let gc remove a pinned result again."""
    open_storage(storage).unpin(workflow, task)


@click.command(epilog=examples("rebuild results"))
@storage_argument
@form_options
def rebuild(storage: str, form: str | None) -> None:
    """Build the catalog's index anew.

    It comes from the journal and the results' files, and nothing else changes.
    """
    emit(from_object(open_storage(storage).catalog.rebuild()), form)


@click.command(epilog=examples("compact results"))
@storage_argument
@form_options
def compact(storage: str, form: str | None) -> None:
    """Pack the journal into less space.

    Segments that nobody writes to any more become Parquet; nothing of the history is lost.
    """
    emit(from_object(open_storage(storage).catalog.compact()), form)
