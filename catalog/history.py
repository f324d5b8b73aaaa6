"""The tables of the index, as events come into them.

Events arrive as the temporary table ``batch``, with the columns of `BATCH`. They
are a set keyed by id: what is known already is left out, so a segment that is
read twice, copied or overlaid changes nothing. A segment's last save or removal
is *pending* until the blob shows its id or the segment has grown. Events of one
name that do not follow from one another (by ``replaces``, or by their order in
one segment) *compete*, and only the blob can tell which came true.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from catalog.names import encode, from_text
from catalog.schema import BATCH, names_of, select_batch

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

COLUMNS = names_of(BATCH)
_CASTS = ", ".join(f'"{column.name}"::{column.type} AS "{column.name}"' for column in BATCH)


class History:
    """The tables of an attached index, inside a transaction.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The instance in which the index's tables have their plain names.

    Attributes
    ----------
    added : int
        Events that were new.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.added = 0

    # SQL

    def run(self, sql: str, *parameters: object) -> None:
        """Run a statement."""
        self._connection.execute(sql, list(parameters)).fetchall()

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """Return the rows of a statement."""
        return self._connection.execute(sql, list(parameters)).fetchall()

    # Batches

    def batch_of_lines(self, text: str, segment: str, known: int) -> int:
        """Make the batch of a text of journal lines that stand behind `known` others of their segment.

        Returns
        -------
        int
            The number of lines that are no events.
        """
        lines = text.count("\n") + 1
        self.run(
            f"""CREATE OR REPLACE TEMP TABLE batch AS
            WITH lines AS (
                SELECT unnest(parts) AS line, ? AS segment, ? + generate_subscripts(parts, 1) AS position
                FROM (SELECT string_split(?, chr(10)) AS parts)
            ) {select_batch()}""",
            segment,
            known,
            text,
        )
        return lines - int(self.rows("SELECT count(*) FROM batch")[0][0])

    def batch_of_table(self, table: pa.Table) -> None:
        """Make the batch of rows of a compacted part of the journal, but those behind their segments' watermarks."""
        self._connection.register("compacted_rows", table)
        self.run(
            f"""CREATE OR REPLACE TEMP TABLE batch AS SELECT {_CASTS} FROM compacted_rows
            LEFT JOIN (SELECT name, lines FROM segments) ON name = segment WHERE position > coalesce(lines, 0)"""
        )
        self._connection.unregister("compacted_rows")

    def take(self, segments: list[str]) -> list[tuple[str, str]]:
        """Add what is new in the batch, which holds the newest lines of `segments`.

        Returns
        -------
        list of (str, str)
            Workflow and task of the names whose events compete.
        """
        self._add_new()
        workflows = self.rows("SELECT DISTINCT workflow FROM batch WHERE workflow IS NOT NULL")
        if workflows:
            self._mark_dirty([encode(from_text(workflow)) for (workflow,) in workflows])
        competing: list[tuple[str, str]] = self.rows(_COMPETING)
        self.run(_LATEST)
        if self.rows("SELECT 1 FROM batch WHERE event IN ('pin', 'unpin') LIMIT 1"):
            self.run(_PINS)
        self._update_pending(segments)
        return competing

    def _add_new(self) -> None:
        """Add to the history what of the batch is not in it, and leave just that in the batch."""
        self.run("DELETE FROM batch WHERE rowid NOT IN (SELECT min(rowid) FROM batch GROUP BY event_id)")
        self.run(
            """DELETE FROM batch USING history WHERE history.event_id = batch.event_id
            AND history.event_id >= (SELECT min(event_id) FROM batch)"""
        )
        self.added += self.rows("SELECT count(*) FROM batch")[0][0]
        self.run(f"INSERT INTO history SELECT {COLUMNS} FROM batch")

    def _update_pending(self, segments: list[str]) -> None:
        # Whatever was pending in a segment is settled by the lines behind it; its newest event may be pending now.
        self.run("DELETE FROM pending WHERE segment IN (SELECT unnest(?))", segments)
        self.run(
            """INSERT INTO pending SELECT event_id, event, workflow, task, segment
            FROM batch SEMI JOIN (SELECT segment, max(position) AS position FROM batch GROUP BY segment)
            USING (segment, position) WHERE event IN ('save', 'remove')"""
        )
        # What was replaced had come true, in whatever order the lines of the two are read.
        self.run(
            """DELETE FROM pending WHERE event_id IN
            (SELECT replaces FROM history WHERE event_id > (SELECT min(event_id) FROM pending))"""
        )

    def _mark_dirty(self, folders: list[str]) -> None:
        # A folder that is not there gets its row too: lines may tell of what was deleted with the whole folder.
        self.run(
            """INSERT INTO folders SELECT folder, NULL, false, true, 0, 0
            FROM (SELECT unnest(?) AS folder) ANTI JOIN folders USING (folder)""",
            folders,
        )
        self.run("UPDATE folders SET dirty = true WHERE NOT dirty AND folder IN (SELECT unnest(?))", folders)

    # Single events

    def knows(self, event_ids: Iterable[str]) -> set[str]:
        """Return those of the ids that are in the history."""
        ids = list(event_ids)
        known = "SELECT event_id::VARCHAR FROM history WHERE event_id IN (SELECT unnest(?::UUID[]))"
        return {event_id for (event_id,) in self.rows(known, ids)} if ids else set()

    def make_latest(self, workflow: str, task: str, condition: str, *parameters: str) -> None:
        """Let the newest event of a name that meets a condition be the one that counts."""
        self.run("DELETE FROM latest WHERE workflow = ? AND task = ?", workflow, task)
        self.run(
            f"""INSERT INTO latest SELECT {COLUMNS} FROM history WHERE workflow = ? AND task = ? AND {condition}
            ORDER BY event_id DESC LIMIT 1""",
            workflow,
            task,
            *parameters,
        )

    def make_all_latest(self, event_ids: list[str]) -> None:
        """Let these events be the ones that count for their names, and be true."""
        self.run("CREATE OR REPLACE TEMP TABLE arrived AS SELECT unnest(?::UUID[]) AS event_id", event_ids)
        self.run(
            """DELETE FROM latest USING (SELECT workflow, task FROM history SEMI JOIN arrived USING (event_id)) new
            WHERE latest.workflow = new.workflow AND latest.task = new.task"""
        )
        self.run(f"INSERT INTO latest SELECT {COLUMNS} FROM history SEMI JOIN arrived USING (event_id)")
        self.run("DELETE FROM pending WHERE event_id IN (SELECT event_id FROM arrived)")


_COMPETING = """
    WITH names AS (SELECT DISTINCT workflow, task FROM batch WHERE event IN ('save', 'remove')),
    entries AS (
        SELECT workflow, task, event_id, segment, position, replaces FROM batch WHERE event IN ('save', 'remove')
        UNION ALL
        SELECT workflow, task, event_id, segment, position, replaces FROM latest SEMI JOIN names USING (workflow, task)
    ),
    ordered AS (
        SELECT *, lag(event_id) OVER by_name AS before, lag(segment) OVER by_name AS before_segment,
               lag(position) OVER by_name AS before_position
        FROM entries WINDOW by_name AS (PARTITION BY workflow, task ORDER BY event_id)
    )
    SELECT DISTINCT workflow, task FROM ordered
    WHERE before IS NOT NULL AND replaces IS DISTINCT FROM before
      AND NOT coalesce(segment = before_segment AND position > before_position, false)
"""

_LATEST = f"""
    CREATE OR REPLACE TEMP TABLE winners AS
    SELECT {COLUMNS} FROM (
        SELECT *, row_number() OVER (PARTITION BY workflow, task ORDER BY event_id DESC) AS place
        FROM batch WHERE event IN ('save', 'remove')
    ) WHERE place = 1;
    DELETE FROM winners USING latest
    WHERE latest.workflow = winners.workflow AND latest.task = winners.task AND latest.event_id > winners.event_id;
    DELETE FROM latest USING winners WHERE latest.workflow = winners.workflow AND latest.task = winners.task;
    INSERT INTO latest SELECT {COLUMNS} FROM winners;
"""

_PINS = """
    CREATE OR REPLACE TEMP TABLE pinning AS
    SELECT workflow, task, max(event_id) AS event_id, max_by(pinned, event_id) AS pinned FROM (
        SELECT workflow, task, event_id, event = 'pin' AS pinned FROM batch WHERE event IN ('pin', 'unpin')
        UNION ALL FROM pins
    ) GROUP BY workflow, task;
    DELETE FROM pins;
    INSERT INTO pins FROM pinning;
"""
