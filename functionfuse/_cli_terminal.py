"""What a person at a terminal sees: tables, and records where a table would be too wide."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from functionfuse._cli_answer import JSON_COLUMNS, Answer, Row
from functionfuse._cli_text import escaped, field, human_seconds, human_size, human_time, jsonable

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIZES = {"size", "bytes", "bytes_before", "bytes_after"}
_MOST = 1000  # rows: laying out a table of more takes longer than anybody reads
_UNBOUNDED = 100_000  # characters
_NESTED_WIDTH = 40  # characters of a JSON column in a table
_ONE_LINE = 80  # characters of JSON in a record that are left on one line
_COLUMN_WIDTH = 14  # characters: a table that has to squeeze its columns below this is printed as records


def print_table(answer: Answer, columns: Sequence[str]) -> None:
    """Print rows below each other or, where the terminal is too narrow for that, one record after another."""
    console = Console()
    rows = [{name: row[name] for name in columns} for row in islice(answer.rows, _MOST)]
    table = _table(answer, columns, rows)
    wanted = console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum
    if wanted > console.width and len(columns) * _COLUMN_WIDTH > console.width:
        for row in rows:
            print_record(row, is_raw=answer.raw)
            console.print()
    else:
        console.print(table)
    if answer.count > len(rows):
        left = answer.count - len(rows)
        Console(stderr=True, highlight=False).print(f"{left:,} more rows: name what you look for, or use a pipe")


def print_record(row: Row, is_raw: bool = False) -> None:
    """Print what is known of one thing, a line or more for each column that holds something."""
    show = _exact if is_raw else _readable
    grid = Table.grid(padding=(0, 2))
    for name, value in row.items():
        if value not in (None, [], ()) and (value != {} or name == "value"):
            grid.add_row(Text(escaped(name), style="bold"), Text(show(name, value)))
    Console().print(grid)


def _table(answer: Answer, columns: Sequence[str], rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    show = _exact if answer.raw else _human
    for name in columns:
        is_nested = name in JSON_COLUMNS
        is_number = not is_nested and any(isinstance(row[name], (int, float)) for row in rows)
        table.add_column(
            Text(escaped(name)),
            justify="right" if is_number else "left",
            max_width=_NESTED_WIDTH if is_nested else None,
            no_wrap=is_nested,
            overflow="ellipsis" if is_nested else "fold",  # of a name, nothing is left out
        )
    for row in rows:
        table.add_row(*(Text(show(name, value)) for name, value in row.items()))
    return table


def _exact(_: str, value: Any) -> str:
    return field(value)


def _human(column: str, value: Any) -> str:
    if isinstance(value, datetime):
        return human_time(value)
    if column in _SIZES and isinstance(value, int):
        return human_size(value)
    if column == "duration" and isinstance(value, float):
        return human_seconds(value)
    return field(value)


def _readable(name: str, value: Any) -> str:
    if name in JSON_COLUMNS and len(field(value)) > _ONE_LINE:
        return "\n".join(map(escaped, json.dumps(jsonable(value), indent=2, ensure_ascii=False).splitlines()))
    if isinstance(value, (list, tuple)) and name not in JSON_COLUMNS:
        return ", ".join(map(field, value))
    exact = f" ({value:,} bytes)" if name == "size" and isinstance(value, int) and value >= 1000 else ""
    return f"{_human(name, value)}{exact}"
