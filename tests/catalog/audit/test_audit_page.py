"""The page on audits has the columns of the exports, as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from catalog.audit.working_file import ARROW, COLUMNS
from catalog.format.columns import TASKS, Column

TABLE = re.compile(r"^\| column \| type \| meaning \|\n\| --- \| --- \| --- \|\n((?:\|.*\|\n)+)", re.MULTILINE)
PAGE = Path(__file__).resolve().parents[3] / "docs" / "audit.md"


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        pytest.param("tasks", COLUMNS["tasks"], id="tasks"),
        pytest.param("events", tuple(column for column in COLUMNS["events"] if column not in TASKS), id="events"),
        pytest.param("runs", COLUMNS["runs"], id="runs"),
    ],
)
def test_columns(table: str, columns: tuple[Column, ...]) -> None:
    """Every column of an export is there with its Arrow type and its meaning, in the order of the file."""
    _, _, below = PAGE.read_text(encoding="utf-8").partition(f"### Exports of `{table}`\n")
    found = TABLE.search(below)
    assert found, f"there is no table of the columns of {table}"
    types = {**ARROW, "VARCHAR[]": "list of string"}
    assert found[1].splitlines() == [f"| `{c.name}` | {types[c.type]} | {c.meaning} |" for c in columns]
