"""What the footers of Parquet files say of the columns in them: the statistics of their row groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from functionfuse.serializers._needed import needed
from functionfuse.serializers._sides import Sides
from functionfuse.serializers.base import Statistics

_LONGEST = 100  # characters of a text that is kept as minimum or maximum
_MOST_COLUMNS = 200  # more would not have room where the statistics go


def statistics(names: Iterable[str], protocols: Mapping[str, Any]) -> Statistics:
    """Return the statistics of a table in one Parquet file or several.

    Parameters
    ----------
    names : iterable of str
        Its side files.
    protocols : mapping
        Through which they are reached.
    """
    rows = 0
    columns: dict[str, _Column] | None = None
    for name in names:
        with Sides(protocols).open(name, "rb") as file:
            found = needed("pyarrow.parquet", "arrow").read_metadata(file)
        if columns is None:
            columns = {found.schema.column(at).path: _Column(at) for at in _flat(found.schema)}
        rows += found.num_rows
        for number in range(found.num_row_groups):
            group = found.row_group(number)
            for column in columns.values():
                column.add(group.column(column.at))
    return Statistics(rows, {name: column.known() for name, column in (columns or {}).items()})


def _flat(schema: Any) -> list[int]:
    """Return the numbers of the columns that are no parts of nested ones."""
    top = set(schema.to_arrow_schema().names)
    leaves = [schema.column(number) for number in range(min(len(schema.names), _MOST_COLUMNS))]
    return [
        number
        for number, leaf in enumerate(leaves)
        if leaf.path in top and leaf.max_definition_level <= 1 and not leaf.max_repetition_level
    ]


class _Column:
    """The statistics of one column, row group after row group.

    Parameters
    ----------
    at : int
        Its number.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self._nulls: int | None = 0
        self._bounds: tuple[Any, Any] | tuple[()] | None = ()

    def add(self, chunk: Any) -> None:
        """Take the statistics of a row group; what one does not have is not known of the column."""
        found = chunk.statistics
        nulls = found.null_count if found is not None and found.has_null_count else None
        self._nulls = None if nulls is None or self._nulls is None else self._nulls + nulls
        if self._bounds is not None and nulls != chunk.num_values:
            bounds = _bounds(found)
            self._bounds = bounds and (min(*bounds, *self._bounds), max(*bounds, *self._bounds))

    def known(self) -> dict[str, Any]:
        """Return what is known, as JSON has it."""
        found = dict(zip(("min", "max"), map(_as_json, self._bounds or ()), strict=False))
        found["nulls"] = self._nulls or None
        return {key: value for key, value in found.items() if value is not None}


def _bounds(found: Any) -> tuple[Any, Any] | None:
    if found is None or not found.has_min_max:
        return None
    try:
        return found.min, found.max
    except (ValueError, OverflowError):  # a time beyond Python's, a text that is none
        return None


def _as_json(value: Any) -> Any:
    if isinstance(value, float):
        return value + 0.0  # Parquet has -0.0 as the minimum of zeros
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (str, Decimal)) and len(str(value)) <= _LONGEST:
        return str(value)
    return None
