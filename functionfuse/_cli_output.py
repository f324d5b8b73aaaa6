"""What a command prints: one array of JSON, CSV, lines with tabs, or what suits a terminal."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import click

from functionfuse._cli_answer import Answer
from functionfuse._cli_text import escaped, exact, field, jsonable, no_formula

_AT_ONCE = 1000  # lines


def emit(answer: Answer, form: str | None, shown: Sequence[str] = ()) -> None:
    """Print an answer.

    Parameters
    ----------
    answer : Answer
        The rows.
    form : {"json", "csv", None}
        As the user wants it; None is a table on a terminal, else lines with tabs.
    shown : sequence of str
        The columns of the table and the lines, where not all; JSON and CSV have all.
    """
    if form == "json":
        return _write(_json_lines(answer))
    if form == "csv":
        return _write(_csv_lines(answer, escaped if on_terminal() else str))
    columns = [name for name in shown or answer.columns if name in answer.columns]
    if on_terminal():
        from functionfuse._cli_terminal import print_table

        return print_table(answer, columns)
    return _write("\t".join(field(row[name]) for name in columns) + "\n" for row in answer.rows)


def on_terminal() -> bool:
    """Tell whether a person sees what is printed."""
    return sys.stdout.isatty()


def say(message: str) -> None:
    """Tell the person something that is no part of the answer."""
    click.echo(message, err=True)


def _write(lines: Iterable[str]) -> None:
    rest = iter(lines)
    while chunk := "".join(islice(rest, _AT_ONCE)):
        sys.stdout.write(chunk)  # click.echo would take colours out of names
    sys.stdout.flush()


def _json_lines(answer: Answer) -> Iterator[str]:
    separator = "["
    for row in answer.rows:
        text = json.dumps(jsonable(row)).replace("\x7f", r"\u007f")  # the one control that JSON has in ASCII as it is
        yield f"{separator}{text}"
        separator = ",\n "
    yield "[]\n" if separator == "[" else "]\n"


def _csv_lines(answer: Answer, shown: Callable[[str], str]) -> Iterator[str]:
    """Yield the rows as CSV; `shown` is what becomes of each cell but for the mark of formulas."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")  # so that a cell with either of them is put in quotes
    yield _taken(writer, buffer, (shown(no_formula(name)) for name in answer.columns))
    for row in answer.rows:
        yield _taken(writer, buffer, (shown(no_formula(exact(row[name]))) for name in answer.columns))


def _taken(writer: Any, buffer: io.StringIO, cells: Iterable[str]) -> str:
    writer.writerow(cells)
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.removesuffix("\r\n") + "\n"
