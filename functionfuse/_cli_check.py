"""The commands that look for what is wrong: verify, audit verify."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from functionfuse._cli_answer import Row, as_row, from_rows
from functionfuse._cli_options import any_workflow, examples, form_options, storage_argument
from functionfuse._cli_output import emit, say
from functionfuse._cli_storage import open_storage
from functionfuse._cli_text import counted

_PROBLEM = ("problem", "workflow", "task", "path", "reason")


@click.command(
    epilog=examples("verify results", "verify results weather --json", "verify results --repair"),
)
@storage_argument
@any_workflow
@click.option("--repair", is_flag=True, help="Mend the index, and put aside what is damaged; no data is deleted.")
@form_options
@click.pass_context
def verify(context: click.Context, storage: str, workflow: str, repair: bool, form: str | None) -> None:
    """Hold files and catalog against each other.

    WORKFLOW is a glob. Prints one row for each result that is missing, unlisted or damaged, and each orphan side
    file. The exit code is 1 if there was any, repaired or not.
    """
    _report(context, open_storage(storage).verify(workflow, repair=repair), form)


@click.group()
def audit() -> None:
    """Check exports that an auditor was given."""


@audit.command(
    "verify",
    epilog=examples("audit verify tasks.parquet", "audit verify 2026-10.parquet 2026-11.parquet"),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@form_options
@click.pass_context
def audit_verify(context: click.Context, files: tuple[str, ...], form: str | None) -> None:
    """Check exported files.

    The digest of each has to be right, and exports that continue each other must have no gap. Prints one row for each
    thing that is wrong; the exit code is 1 if there was any.
    """
    from catalog.audit import verify_exports

    _report(context, verify_exports(*files), form)


def _report(context: click.Context, report: Any, form: str | None) -> None:
    """Print what a frozen report found: its tuples hold what is wrong, its numbers say what was looked at."""
    rows = _problems(report)
    known = dict.fromkeys((*_PROBLEM[:1], *(name for row in rows for name in row)))
    emit(from_rows([{name: row.get(name) for name in known} for row in rows], tuple(known)), form)
    looked = [f"{name} {value:,}" for name, value in as_row(report).items() if type(value) is int]
    say(f"{counted(len(rows), 'problem')}{', of: ' if looked else ''}{', '.join(looked)}")
    if rows:
        context.exit(1)


def _problems(report: Any) -> list[Row]:
    found = []
    for field in dataclasses.fields(report):
        value = getattr(report, field.name)
        if isinstance(value, (tuple, list)):
            found += [{"problem": field.name, **_described(entry)} for entry in value]
    return found


def _described(entry: Any) -> Row:
    if dataclasses.is_dataclass(entry):
        return as_row(entry)
    if isinstance(entry, tuple):
        return dict(zip(getattr(entry, "_fields", _PROBLEM[1:]), entry, strict=False))
    return {"path": entry}
