"""How a line of the journal becomes a row: parsed by DuckDB, and valid."""

from __future__ import annotations

import json

from catalog.format.columns import BATCH
from catalog.format.ids import LIMIT
from catalog.format.names import MARK, MARKED

_TRANSFORM = json.dumps(
    {
        column.name: ["VARCHAR"] if column.type == "VARCHAR[]" else column.type
        for column in BATCH
        if column.name not in ("segment", "position")
    }
)

_EXPRESSIONS = {
    "event_id": "coalesce(row.event_id, row.blob_id) AS event_id",
    "time": 'coalesce(row."time", row.saved_at) AS "time"',
    "logical_size": "coalesce(row.logical_size, row.size) AS logical_size",
    "segment": "segment",
    "position": "position",
}
_BATCH_FIELDS = ", ".join(_EXPRESSIONS.get(column.name, f'row."{column.name}"') for column in BATCH)

# What only blobs need to tell: a compacted journal does without.
_OF_BLOBS = ("lineage", "scheme", "code", "side_files", "side_list", "side_digest")
_KNOWN = ", ".join(f"'{name}'" for name in (*(column.name for column in BATCH), *_OF_BLOBS))


_FIRST, _LAST = "TIMESTAMPTZ '1970-01-01 00:00:00+00'", "TIMESTAMPTZ '9998-12-31 23:59:59.999999+00'"


def _valid(row: str, event_id: str, time: str) -> str:
    """Return the SQL condition that an event makes sense: one that does not would spoil whatever it is asked with.

    It has a kind and an id; a save and a removal have names and a time, a save its size. Ids and names are such as this
    package makes, times such as Python has in every zone, numbers are not negative.
    """
    ids = [f"{event_id} IS NOT NULL", *(_is_id(each) for each in (event_id, f"{row}blob_id", f"{row}replaces"))]
    sizes = [f"coalesce({row}{name}, 0) >= 0" for name in ("size", "logical_size", "format")]
    counts = [
        f"TRY_CAST(coalesce({row}details->>'{name}', '0') AS BIGINT) IS NULL" for name in ("computed", "restored")
    ]
    return " AND ".join(
        [
            f"{row}event IS NOT NULL",
            *ids,
            f"coalesce({time} BETWEEN {_FIRST} AND {_LAST}, {row}event NOT IN ('save', 'remove'))",
            f"({row}event NOT IN ('save', 'remove') OR ({row}workflow IS NOT NULL AND {row}task IS NOT NULL))",
            f"{_is_name(row + 'workflow')} AND {_is_name(row + 'task')}",
            f"({row}event <> 'save' OR {row}size IS NOT NULL)",
            *sizes,
            f"isfinite(coalesce({row}duration, 0))",
            f"CASE WHEN {row}event = 'run-finished' THEN NOT ({' OR '.join(counts)}) ELSE true END",
        ]
    )


def _is_id(value: str) -> str:
    return f"({value} IS NULL OR (uuid_extract_version({value}) = 7 AND {value} < UUID '{LIMIT}'))"


def _is_name(value: str) -> str:
    canonical = f"regexp_full_match({value}, '([^{MARK}]|{MARK}({MARKED}))+', 's')"
    return f"({value} IS NULL OR ({value} <> '' AND (NOT contains({value}, '{MARK}') OR {canonical})))"


def _written_as_text(name: str) -> str:
    """Return the condition that a name is a text in the line too: JSON's other values would be made one."""
    doubtful = f"regexp_matches(row.{name}, '^([-0-9{{\\[]|true$|false$)')"
    return f"CASE WHEN {doubtful} THEN json_type(line, '$.{name}') = 'VARCHAR' ELSE true END"


#: The name by which journal lines are read (`catalog.index.engine.lent`).
LINES = "_functionfuse_lines"


def select_batch(more: str = "") -> str:
    """Return SQL that turns `LINES`, with ``line, segment, position``, into rows as `BATCH` has them.

    A line that is no event is left out: read_ndjson would make it a row of NULLs. A save has one id and one time, its
    blob's; it and a removal have names. (With `TRY`, lines are parsed once more, one by one, only where one is no JSON;
    to ask for `json_valid` first takes a fifth of the time. The `unnest` of one element keeps DuckDB from parsing a
    line once a column.)

    Parameters
    ----------
    more : str
        Further expressions, over ``line`` too, with a comma in front.

    Returns
    -------
    str
        A SELECT.
    """
    return f"""
    SELECT {_BATCH_FIELDS}{more}
    FROM (
        SELECT unnest([TRY(json_transform(line, '{_TRANSFORM}'))]) AS row, line, segment, position FROM {LINES}
    )
    WHERE {_valid("row.", "coalesce(row.event_id, row.blob_id)", 'coalesce(row."time", row.saved_at)')}
      AND {_written_as_text("workflow")} AND {_written_as_text("task")}
    """


def select_valid(table: str) -> str:
    """Return SQL that selects from a table of compacted rows, as text, those that are valid, as `BATCH` has them."""
    columns = ", ".join(f'TRY_CAST("{column.name}" AS {column.type}) AS "{column.name}"' for column in BATCH)
    valid = _valid("", "event_id", '"time"')
    return f"SELECT * FROM (SELECT {columns} FROM {table}) WHERE segment IS NOT NULL AND position > 0 AND {valid}"


#: The columns of a compacted journal: ids and JSON are stored as text, which every engine reads.
STORED = ", ".join(
    f'"{column.name}"::VARCHAR AS "{column.name}"' if column.type in ("UUID", "JSON") else f'"{column.name}"'
    for column in BATCH
)

#: The whole line, where it has fields that are no columns and that its blob does not tell either.
UNKNOWN_FIELDS = f"CASE WHEN NOT list_has_all([{_KNOWN}], json_keys(line)) THEN rtrim(line, chr(10)) END AS line"
