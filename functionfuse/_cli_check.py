"""The commands that look for what is wrong: verify, audit verify."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from functionfuse._cli_answer import Row, as_row, from_rows
from functionfuse._cli_options import any_workflow, examples, form_options, storage_argument
from functionfuse._cli_output import emit, say
from functionfuse._cli_storage import open_storage
from functionfuse._cli_text import counted, human_size

if TYPE_CHECKING:
    from catalog.audit.audit import Audit
    from catalog.verify.report import Verification

_FINDING = ("kind", "workflow", "task", "path", "reason", "perhaps_in_use", "done")
_FILE = ("path", "ok", "table", "rows", "digest", "follows", "findings")


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

    WORKFLOW is a glob. Prints one row for each result that is missing, unlisted or damaged, each side file that is lost
    or an orphan, and each strange file, which is no fault. The exit code is 1 if there was a fault, repaired or not.
    """
    report = open_storage(storage).catalog.verify(workflow, repair=repair)
    emit(from_rows(_findings(report), _FINDING), form)
    looked = ", ".join(
        (
            counted(report.results, "result"),
            counted(report.workflows, "workflow"),
            counted(report.side_files, "side file")
            + (f" ({report.unhashed} without a digest)" if report.unhashed else ""),
            f"{human_size(report.size)} read",
            *([f"{counted(report.torn, 'line')} of the journal torn or damaged"] if report.torn else []),
        )
    )
    say(f"{'ok' if report.ok else 'faults found'}: {looked}")
    context.exit(0 if report.ok else 1)


def _findings(report: Verification) -> list[Row]:
    """Return what was found, with its kind: the name of the report's field that holds it."""
    kinds = [(field.name, getattr(report, field.name)) for field in dataclasses.fields(report)]
    return [{"kind": kind, **as_row(found)} for kind, each in kinds if isinstance(each, tuple) for found in each]


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

    The digest of each has to be right, and exports that continue each other must have no gap. Prints one row a file,
    with what is wrong; the exit code is 1 if anything is. Neither the storage nor its catalog is needed.
    """
    from catalog.audit.audit import verify_exports

    report = verify_exports(*files)
    emit(from_rows(_audited(report), _FILE), form)
    say("ok" if report.ok else f"{counted(len(report.findings), 'finding')}: do not rely on these files")
    context.exit(0 if report.ok else 1)


def _audited(report: Audit) -> list[Row]:
    found: dict[str, list[str]] = {file.path: [] for file in report.files}
    for finding in report.findings:
        found.setdefault(finding.path, []).append(f"{finding.kind}: {finding.message}")
    known: dict[str, Any] = {file.path: as_row(file) for file in report.files}
    return [
        {name: known.get(path, {}).get(name) for name in _FILE} | {"path": path, "ok": not wrong, "findings": wrong}
        for path, wrong in found.items()
    ]
