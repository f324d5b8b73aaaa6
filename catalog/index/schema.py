"""The tables of the index, their columns, and how a journal line becomes a row.

Times are moments (UTC on disk), sizes bytes, durations seconds. JSON columns hold
text that DuckDB's JSON operators take: ``value->>'accuracy'``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from catalog.format.ids import LIMIT
from catalog.format.names import MARK, MARKED

SCHEMA_VERSION = 4


@dataclass(frozen=True)
class Column:
    """One column of the catalog.

    Attributes
    ----------
    name : str
        Its name in the tables and in the journal's lines.
    type : str
        Its DuckDB type.
    meaning : str
        What it holds, with its unit.
    """

    name: str
    type: str
    meaning: str


_NAMES = (
    Column("workflow", "VARCHAR", "name of the workflow"),
    Column("task", "VARCHAR", "name of the task"),
)
_RESULT = (
    Column("serializers", "VARCHAR[]", "how it was written: pickle or cloudpickle, then registered serializers"),
    Column("size", "BIGINT", "bytes, side files included"),
    Column("logical_size", "BIGINT", "bytes that it would take without compression"),
    Column("saved_at", "TIMESTAMPTZ", "when it was saved"),
    Column("blob_id", "UUID", "id of the blob, a UUIDv7"),
    Column("checksum", "VARCHAR", "checksum of the blob's body, with the name of the algorithm"),
    Column("format", "INTEGER", "version of the blob's format; 0 is IBM Function Fuse's"),
    Column("type", "VARCHAR", "type of the result"),
    Column("summary", "JSON", "shape, dtype, length, columns, bytes, statistics, where cheap; what `value` omits"),
    Column("value", "JSON", "the result as JSON: what of it is scalar or small"),
    Column("run_id", "UUID", "id of the run that made it"),
    Column("function", "VARCHAR", "function that made it"),
    Column("code_fingerprint", "VARCHAR", "fingerprint of that function's code; null is unknown"),
    Column("inputs", "JSON", "fingerprint of each argument by name; parents by blob id; null is unknown"),
    Column("parents", "VARCHAR[]", "names of the tasks whose results were arguments"),
    Column("duration", "DOUBLE", "seconds that the function took"),
    Column("host", "VARCHAR", "machine that wrote it"),
    Column("user", "VARCHAR", "user who wrote it"),
    Column("pid", "BIGINT", "process that wrote it"),
    Column("python", "VARCHAR", "version of Python that wrote it"),
    Column("packages", "JSON", "versions of the packages that its type comes from"),
)
TASKS = (*_NAMES, *_RESULT, Column("pinned", "BOOLEAN", "whether `gc` leaves it alone"))
EVENTS = (
    Column("event", "VARCHAR", "save, remove, run-started, run-finished, task-failed, pin, unpin"),
    Column("event_id", "UUID", "id of the event, a UUIDv7; of a save, the blob's"),
    Column("time", "TIMESTAMPTZ", "when it happened"),
    *_NAMES,
    *_RESULT,
    Column("details", "JSON", "what only this kind of event has: status, counts, traceback"),
)
RUNS = (
    Column("run_id", "UUID", "id of the run"),
    Column("workflow", "VARCHAR", "name of the workflow"),
    Column("backend", "VARCHAR", "what ran it: local, ray"),
    Column("started", "TIMESTAMPTZ", "when it began"),
    Column("finished", "TIMESTAMPTZ", "when it ended; null while it runs, or when it was killed"),
    Column("status", "VARCHAR", "finished, failed or interrupted; running where no end was recorded"),
    Column("computed", "BIGINT", "number of nodes that were computed"),
    Column("restored", "BIGINT", "number of nodes whose stored result was read"),
)
TABLES = {"tasks": TASKS, "events": EVENTS, "runs": RUNS}

# Where a row comes from decides between events that compete for one name.
ORIGIN = (
    Column("replaces", "UUID", "id of the blob that this event replaced or removed"),
    Column("segment", "VARCHAR", "journal segment; one of this index's own for what a journal could not be told of"),
    Column("position", "BIGINT", "number of the line within the segment, from 1"),
)
BATCH = (*EVENTS, *ORIGIN)


def _table(name: str, columns: tuple[Column, ...]) -> str:
    declarations = ", ".join(f'"{column.name}" {column.type}' for column in columns)
    return f"CREATE TABLE {name} ({declarations})"


def names_of(columns: tuple[Column, ...]) -> str:
    """Return the columns' names, quoted, as SQL lists them."""
    return ", ".join(f'"{column.name}"' for column in columns)


#: The statements that make an empty index, in SQL whose text every supported DuckDB tells in the same way, whichever
#: wrote it (`catalog.index.definitions`): a literal TRUE or FALSE is not.
#:
#: `latest` holds the last event of every name, removals too, so that a line that arrives late does not bring back what
#: was removed; `past` all other events; `pending` those of which nobody knows yet whether they came true, and which
#: blob was there when that was last looked after; `pins` the last word on every name that was ever pinned.
CREATE = (
    "CREATE TABLE meta (schema_version INTEGER, storage VARCHAR, index_id VARCHAR)",
    "CREATE TABLE segments (name VARCHAR, position BIGINT, lines BIGINT, torn BIGINT)",
    "CREATE TABLE compacted (name VARCHAR)",
    "CREATE TABLE folders (folder VARCHAR, mtime BIGINT, settled BOOLEAN, dirty BOOLEAN, due DOUBLE, entries BIGINT)",
    _table("past", BATCH),
    _table("latest", BATCH),
    f"CREATE VIEW history AS SELECT {names_of(BATCH)} FROM past UNION ALL SELECT {names_of(BATCH)} FROM latest",
    """CREATE TABLE pending
    (event_id UUID, event VARCHAR, workflow VARCHAR, task VARCHAR, segment VARCHAR, looked VARCHAR)""",
    "CREATE TABLE pins (workflow VARCHAR, task VARCHAR, event_id UUID, pinned BOOLEAN)",
    f"""CREATE VIEW tasks AS SELECT {names_of((*_NAMES, *_RESULT))}, pinned IS NOT NULL AND pinned AS pinned
    FROM (SELECT * FROM latest WHERE event = 'save')
    LEFT JOIN (SELECT workflow, task, pinned FROM pins) USING (workflow, task)""",
    f"CREATE VIEW events AS SELECT {names_of(EVENTS)} FROM history ANTI JOIN pending USING (event_id)",
    """CREATE VIEW runs AS
    SELECT began.run_id, began.workflow, began.details->>'backend' AS backend,
           began."time" AS started, ended."time" AS finished,
           coalesce(ended.details->>'status', 'running') AS status,
           (ended.details->>'computed')::BIGINT AS computed, (ended.details->>'restored')::BIGINT AS restored
    FROM (SELECT * FROM past WHERE event = 'run-started') began
    LEFT JOIN (SELECT * FROM past WHERE event = 'run-finished') ended USING (run_id)""",
)

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
_OF_BLOBS = ("lineage", "scheme", "side_files", "side_list", "side_digest")
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
    blob's; it and a removal have names. (The `unnest` of one element keeps DuckDB from parsing a line once a column.)

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
        SELECT unnest([json_transform(line, '{_TRANSFORM}')]) AS row, line, segment, position
        FROM {LINES} WHERE json_valid(line)
    )
    WHERE {_valid("row.", "coalesce(row.event_id, row.blob_id)", 'coalesce(row."time", row.saved_at)')}
      AND {_written_as_text("workflow")} AND {_written_as_text("task")}
    """


def select_valid(table: str) -> str:
    """Return SQL that selects from a table of compacted rows, as text, those that are valid, as `BATCH` has them."""
    columns = ", ".join(f'TRY_CAST("{column.name}" AS {column.type}) AS "{column.name}"' for column in BATCH)
    valid = _valid("", "event_id", '"time"')
    return f"SELECT * FROM (SELECT {columns} FROM {table}) WHERE segment IS NOT NULL AND position > 0 AND {valid}"


#: The bytes of several results. More than a BIGINT holds no storage has, but lines may say so.
TOTAL_SIZE = f"least(coalesce(sum(size), 0), {(1 << 63) - 1})::BIGINT"

#: The whole line, where it has fields that are no columns and that its blob does not tell either.
UNKNOWN_FIELDS = f"CASE WHEN NOT list_has_all([{_KNOWN}], json_keys(line)) THEN rtrim(line, chr(10)) END AS line"
