"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable
from datetime import datetime, time, timedelta, timezone
from typing import Any, TypeVar

import click

from functionfuse._cli_storage import open_storage

Function = TypeVar("Function", bound=Callable[..., Any])

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp]?)(i?)b)?", re.IGNORECASE)


def duration(text: str) -> timedelta:
    """Return a span of time that is written as ``30d``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration: write 45s, 90m, 12h, 30d or 2w")
    try:
        return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer than any calendar") from None


def size(text: str) -> int:
    """Return a number of bytes that is written as ``1.5GB``."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no size: write 1500, 20kB, 1.5GB or 4GiB")
    power = " kmgtp".index((found[2] or " ").lower())
    try:
        return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    except OverflowError:
        raise click.BadParameter(f"{text!r} is larger than any result") from None


def when(text: str) -> datetime | str:
    """Return a moment: ``today``, ``yesterday``, how long ago (``7d``), or ISO 8601, which is the catalog's to read."""
    if _DURATION.fullmatch(text):
        try:
            return datetime.now(timezone.utc) - duration(text)
        except OverflowError:
            raise click.BadParameter(f"{text!r} ago there was no calendar") from None
    days = {"today": 0, "yesterday": 1}.get(text)
    if days is None:
        return text
    return datetime.combine(datetime.now().date() - timedelta(days=days), time.min).astimezone()


def assignment(text: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``; a value that reads as a JSON scalar is one."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise click.BadParameter(f"{text!r} gives no value: write name=value, for $name in the query")
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    return name, value if isinstance(parsed, (dict, list, str)) or parsed != parsed else parsed


def _names(column: str, ctx: click.Context, incomplete: str) -> list[str]:
    """Return what a name may be completed to: a shell that asks wants an answer or none, never an error."""
    try:
        catalog = open_storage(ctx.params["storage"]).catalog
        workflow = "*" if column == "workflow" else glob.escape(ctx.params["workflow"])
        rows = catalog.tasks(workflow, order_by=column).project(column).distinct().fetchall()
    except Exception:
        return []
    return sorted(name for (name,) in rows if name.startswith(incomplete))


def complete_workflow(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the storage's workflows that begin so."""
    return _names("workflow", ctx, incomplete)


def complete_task(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the workflow's tasks that begin so."""
    return _names("task", ctx, incomplete)


def given(**filters: Any) -> dict[str, Any]:
    """Return those filters that the user gave."""
    return {name: value for name, value in filters.items() if value is not None}


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  functionfuse {line}" for line in lines)])


def several(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Return a decorator that adds several options, in this order."""

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


storage_argument = click.argument("storage", type=click.Path())
workflow_argument = click.argument("workflow", shell_complete=complete_workflow)
any_workflow = click.argument("workflow", default="*", shell_complete=complete_workflow)
task_argument = click.argument("task", shell_complete=complete_task)

form_options = several(
    click.option("--json", "form", flag_value="json", default=None, help="Print one array of objects."),
    click.option("--csv", "form", flag_value="csv", default=None, help="Print comma-separated values."),
)
time_options = several(
    click.option(
        "--since", type=when, metavar="TIME", help="From then on: ISO 8601, today, yesterday, or how long ago: 7d."
    ),
    click.option("--until", type=when, metavar="TIME", help="Before, written in the same way."),
)
limit_option = click.option("--limit", type=click.IntRange(min=0), metavar="N", help="The most rows.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
