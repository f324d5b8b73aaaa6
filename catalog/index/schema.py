"""The tables and views of the index, as SQL."""

from __future__ import annotations

from catalog.format.columns import BATCH, EVENTS, NAMES, RESULT, Column

SCHEMA_VERSION = 4


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
    f"""CREATE VIEW tasks AS SELECT {names_of((*NAMES, *RESULT))}, pinned IS NOT NULL AND pinned AS pinned
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

#: The bytes of several results. More than a BIGINT holds no storage has, but lines may say so.
TOTAL_SIZE = f"least(coalesce(sum(size), 0), {(1 << 63) - 1})::BIGINT"
