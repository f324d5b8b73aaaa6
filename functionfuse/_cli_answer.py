"""Answers: rows of the catalog or of a command, before anybody has decided how they are printed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.format.columns import TABLES
from catalog.format.names import from_text

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Row = dict[str, Any]

#: Columns that hold JSON, which Arrow has no type for.
JSON_COLUMNS = {column.name for table in TABLES.values() for column in table if column.type == "JSON"}
_AT_ONCE = 1000  # rows that become Python objects at once


@dataclass(frozen=True)
class Answer:
    """Rows to print.

    Attributes
    ----------
    columns : tuple of str
        Their names, in order.
    count : int
        How many rows there are.
    rows : iterable of dict
        Each with a value for every column; read once.
    raw : bool
        Whether people, too, are shown sizes and times as they are: those of somebody's own SQL.
    """

    columns: tuple[str, ...]
    count: int
    rows: Iterable[Row]
    raw: bool = False


def from_relation(relation: duckdb.DuckDBPyRelation, *, raw: bool = False) -> Answer:
    """Return the rows of the catalog's answer, with names as they were given and JSON columns parsed."""
    table = relation.to_arrow_table()
    return Answer(tuple(table.column_names), table.num_rows, _rows(table), raw)


def from_rows(rows: Sequence[Row], columns: Sequence[str] = ()) -> Answer:
    """Return rows that a command made; `columns` are needed where there may be none."""
    return Answer(tuple(columns or rows[0]), len(rows), rows)


def from_object(thing: Any) -> Answer:
    """Return a dataclass as one row."""
    return from_rows([as_row(thing)])


def as_row(thing: Any) -> Row:
    """Return a dataclass as a row."""
    return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}


def _rows(table: pa.Table) -> Iterator[Row]:
    import pyarrow as pa

    readers = {field.name: _reader(field.name, pa.types.is_map(field.type)) for field in table.schema}
    for batch in table.to_batches(max_chunksize=_AT_ONCE):
        for row in batch.to_pylist():
            yield {name: readers[name](value) for name, value in row.items()}


def _reader(column: str, is_map: bool) -> Callable[[Any], Any]:
    if is_map:
        return _mapped
    return _parsed if column in JSON_COLUMNS else _named


def _mapped(pairs: Any) -> Any:
    try:
        return None if pairs is None else dict(pairs)
    except TypeError:  # the keys are lists
        return pairs


def _named(value: Any) -> Any:
    if isinstance(value, str):
        return from_text(value)
    return [_named(each) for each in value] if type(value) in (list, tuple) else value  # an interval is a namedtuple


def _parsed(text: Any) -> Any:
    # In somebody's own SQL a column of that name may be anything.
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return _named(text)
