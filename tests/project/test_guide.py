"""The guide's tables of columns are those of the schema."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from catalog.format.columns import EVENTS, RUNS, TASKS, Column

TABLE = re.compile(r"^\| column \| type \| meaning \|\n\| --- \| --- \| --- \|\n((?:\|.*\|\n)+)", re.MULTILINE)
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.md"


def rows_below(heading: str) -> list[str]:
    """Return the rows of the first table of columns below a heading of the guide."""
    _, _, below = GUIDE.read_text(encoding="utf-8").partition(f"### {heading}\n")
    table = TABLE.search(below)
    assert table, f"there is no table of columns below {heading!r}"
    return table[1].splitlines()


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        pytest.param("The table `tasks`", TASKS, id="tasks"),
        pytest.param("The table `events`", tuple(column for column in EVENTS if column not in TASKS), id="events"),
        pytest.param("The table `runs`", RUNS, id="runs"),
    ],
)
def test_columns(heading: str, columns: tuple[Column, ...]) -> None:
    """Every column is there with its type and its meaning, in the order in which it is in the table."""
    assert rows_below(heading) == [f"| `{column.name}` | {column.type} | {column.meaning} |" for column in columns]
