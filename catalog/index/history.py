"""The tables of the index, as events come into them.

Events arrive as the temporary table ``batch``, with the columns of `BATCH`. They
are a set keyed by id: what is known already is left out, so a segment that is
read twice, copied or overlaid changes nothing. A segment's last save or removal
is *pending* until the blob shows its id or the segment has grown. Events of one
name that do not follow from one another (by ``replaces``, or by their order in
one segment) *compete*, and only the blob can tell which came true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from catalog.format.columns import BATCH
from catalog.format.names import encode, from_text
from catalog.index.engine import lent
from catalog.index.parsing import LINES, STORED, UNKNOWN_FIELDS, select_batch, select_valid
from catalog.index.schema import names_of
from catalog.journal.lines import Part, table_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

COLUMNS = names_of(BATCH)


class History:
    """The tables of an attached index, inside a transaction.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The instance in which the index's tables have their plain names.
    reads_only : bool
        Whether they cannot be written.
    twice_is_true : bool
        Whether an event of which is told a second time came true.

    Attributes
    ----------
    reads_only : bool
        As above.
    added : int
        Events that were new.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, reads_only: bool = False, twice_is_true: bool = False
    ) -> None:
        self._connection = connection
        self.reads_only = reads_only
        self._twice_is_true = twice_is_true
        self.added = 0
        self._newest: str | None = None  # the greatest id in the history, once it matters

    # SQL

    def run(self, sql: str, *parameters: object) -> None:
        """Run a statement."""
        self._connection.execute(sql, list(parameters)).fetchall()

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """Return the rows of a statement."""
        return self._connection.execute(sql, list(parameters)).fetchall()

    # Batches

    def batch_of_lines(self, parts: list[Part]) -> dict[str, int]:
        """Make the batch of parts of segments.

        Returns
        -------
        dict of str to int
            For each segment, the number of its lines that are no events.
        """
        with lent(self._connection, LINES, table_of(parts)):
            made = self.rows(f"CREATE OR REPLACE TEMP TABLE batch AS {select_batch()}")
        torn = dict.fromkeys((part.segment for part in parts), 0)
        if made == [(sum(part.count for part in parts),)]:
            return torn
        for part in parts:
            torn[part.segment] += part.count
        for segment, events in self.rows("SELECT segment, count(*) FROM batch GROUP BY segment"):
            torn[segment] -= events
        return torn

    def move_watermarks(self, moved: list[tuple[str, int, int, int]]) -> None:
        """Note how much of segments is folded: name, bytes, lines, and how many more of these are torn."""
        if moved:
            self.run(_MOVED, *map(list, zip(*moved, strict=True)))

    def forget_watermarks(self, segments: list[str]) -> None:
        """Note that nothing of segments is folded."""
        self.run("DELETE FROM segments WHERE name IN (SELECT unnest(?))", segments)

    def batch_of_table(self, table: pa.Table) -> None:
        """Make the batch of rows of a compacted part of the journal, but those behind their segments' watermarks."""
        with lent(self._connection, _ROWS, table):
            self.run(
                f"""CREATE OR REPLACE TEMP TABLE batch AS
                SELECT {COLUMNS} FROM ({select_valid(_ROWS)}) compacted
                LEFT JOIN (SELECT name, lines FROM segments) ON name = segment WHERE position > coalesce(lines, 0)"""
            )

    def take(self, growing: Iterable[str], opened: Iterable[str] = ()) -> list[tuple[str, str]]:
        """Add what is new in the batch.

        Parameters
        ----------
        growing : iterable of str
            Segments whose newest lines it holds, and of which only the last event is doubtful.
        opened : iterable of str
            Segments all of whose events are.

        Returns
        -------
        list of (str, str)
            Workflow and task of the names at which only the blob tells what counts.
        """
        events, distinct, first, last, *found = self.rows(_SURVEY)[0]
        again: list[tuple[str, str]] = []
        if events and (distinct < events or first <= self._newest_from(first)):
            again = self._leave_new(first, is_once=distinct == events)
            if self.rows("SELECT count(*) FROM batch") != [(events,)]:
                events, _, _, _, *found = self.rows(_SURVEY)[0]
        named, names, known, pins, workflows = found
        if events:
            self._newest = max(self._newest_from(first), last)
        self.added += events
        if workflows:
            self._mark_dirty([encode(from_text(workflow)) for workflow in workflows])
        competing: list[tuple[str, str]] = []
        if named == names and not known:  # nothing was overwritten or removed, as in nearly every batch
            self.run(f"INSERT INTO latest SELECT {COLUMNS} FROM batch WHERE event IN ('save', 'remove')")
            if named < events:
                self.run(f"INSERT INTO past SELECT {COLUMNS} FROM batch WHERE event NOT IN ('save', 'remove')")
        else:
            competing = self.rows(_COMPETING)
            self.run(_LATEST)
        if pins:
            self.run(_PINS)
        return again + competing + self._update_pending(list(growing), list(opened), first)

    def _newest_from(self, first: str) -> str:
        """Return the greatest id of the history; an empty text if that is known to be less than `first`."""
        if self._newest is None:
            newest = "SELECT max(event_id)::VARCHAR FROM history WHERE event_id >= ?::UUID"
            self._newest = self.rows(newest, first)[0][0] or ""
        return self._newest

    def _leave_new(self, first: str, is_once: bool) -> list[tuple[str, str]]:
        """Leave in the batch, once, what is not in the history; return the names of what was told again."""
        again: list[tuple[str, str]] = []
        if not is_once:
            if self._twice_is_true:
                again += self.rows(_TOLD_TWICE)
            self.run("DELETE FROM batch WHERE rowid NOT IN (SELECT min(rowid) FROM batch GROUP BY event_id)")
        if first <= self._newest_from(first):  # as is rarely so: ids grow
            if self._twice_is_true:
                again += self.rows(_TOLD_AGAIN)
                self.run("DELETE FROM pending WHERE event_id IN (SELECT event_id FROM batch)")
            self.run(
                "DELETE FROM batch USING history WHERE history.event_id = batch.event_id AND history.event_id >= ?",
                first,
            )
        return again

    def close(self, segments: Iterable[str]) -> list[tuple[str, str]]:
        """Take all events of segments to have come true.

        Returns
        -------
        list of (str, str)
            Workflow and task of those whose blob was looked at before that, and has to be once more.
        """
        opened = {segment for (segment,) in self.rows("SELECT DISTINCT segment FROM pending")}
        closed = list(opened.intersection(segments))
        return self._settled(closed) if closed else []

    def pending_in(self, segments: Collection[str]) -> list[tuple[str, str]]:
        """Return workflow and task of the pending events of segments."""
        rows = self.rows("SELECT workflow, task, segment FROM pending")
        return [(workflow, task) for workflow, task, segment in rows if segment in segments]

    def give_up(self, segments: Collection[str]) -> None:
        """Forget the pending events of segments, but where nothing else is known of a name."""
        pending = "SELECT event_id FROM pending WHERE segment IN (SELECT unnest(?))"
        self.run(f"DELETE FROM past WHERE event_id IN ({pending})", list(segments))
        unknown = "SELECT event_id FROM pending ANTI JOIN latest USING (event_id) WHERE segment IN (SELECT unnest(?))"
        self.run(f"DELETE FROM pending WHERE event_id IN ({unknown})", list(segments))

    def confirm(self, table: pa.Table) -> list[tuple[str, str]]:
        """Take the events in compacted rows to have come true; returns as `close` does."""
        ids = f"SELECT TRY_CAST(event_id AS UUID) FROM {_ROWS}"
        with lent(self._connection, _ROWS, table):
            return self.rows(f"DELETE FROM pending WHERE event_id IN ({ids}) RETURNING workflow, task")

    def _settled(self, segments: list[str]) -> list[tuple[str, str]]:
        settled = "DELETE FROM pending WHERE segment IN (SELECT unnest(?)) RETURNING workflow, task, looked"
        return [(workflow, task) for workflow, task, looked in self.rows(settled, segments) if looked is not None]

    def _update_pending(self, growing: list[str], opened: list[str], first: str | None) -> list[tuple[str, str]]:
        # Whatever was pending in a segment is settled by the lines behind it; its newest event may be pending now.
        # Where the blob was seen before that, as it was, it has to be looked at again.
        seen = self._settled(growing)
        self.run(
            """INSERT INTO pending SELECT event_id, event, workflow, task, segment, NULL
            FROM batch SEMI JOIN (
                SELECT segment, max(position) AS position FROM batch
                WHERE segment IN (SELECT unnest(?)) GROUP BY segment
            ) USING (segment, position) WHERE event IN ('save', 'remove')""",
            growing,
        )
        if opened:
            self.run(
                """INSERT INTO pending SELECT event_id, event, workflow, task, segment, NULL
                FROM batch WHERE event IN ('save', 'remove') AND segment IN (SELECT unnest(?))""",
                opened,
            )
        # What was replaced had come true, in whatever order the lines of the two are read; the later id replaces.
        self.run(
            "DELETE FROM pending WHERE event_id IN (SELECT replaces FROM history WHERE event_id >= ?::UUID)", first
        )
        return seen

    def _mark_dirty(self, folders: list[str]) -> None:
        # A folder that is not there gets its row too: lines may tell of what was deleted with the whole folder.
        known = dict(self.rows("SELECT folder, dirty FROM folders"))
        new = [folder for folder in folders if folder not in known]
        if new:
            self.run("INSERT INTO folders SELECT unnest(?), NULL, false, true, 0, 0", new)
        if not all(known.get(folder, True) for folder in folders):
            self.run("UPDATE folders SET dirty = true WHERE NOT dirty AND folder IN (SELECT unnest(?))", folders)

    # What compaction asks (`catalog.journal.compaction.FoldedJournal`)

    def parsed(self, part: Part) -> pa.Table:
        """Return the events of lines as rows of a compacted file."""
        rows = select_batch(f", {UNKNOWN_FIELDS}")
        with lent(self._connection, LINES, table_of([part])):
            return self._connection.sql(f"SELECT {STORED}, line FROM ({rows})").to_arrow_table()

    def folded(self) -> set[str]:
        """Return the names of the segments that are folded."""
        return {name for (name,) in self.rows("SELECT name FROM segments")}

    def pending_ids(self) -> set[str]:
        """Return the ids of the events that are not confirmed."""
        return {event_id for (event_id,) in self.rows("SELECT event_id::VARCHAR FROM pending")}

    # Single events

    def knows(self, event_ids: Iterable[str]) -> set[str]:
        """Return those of the ids that are in the history."""
        ids = list(event_ids)
        known = "SELECT event_id::VARCHAR FROM history WHERE event_id IN (SELECT unnest(?::UUID[]))"
        return {event_id for (event_id,) in self.rows(known, ids)} if ids else set()

    def choose(self, chosen: str, *parameters: object) -> None:
        """Let other events of their names be the ones that count.

        Parameters
        ----------
        chosen : str
            SQL that selects their ids, at most one of a name.
        *parameters : object
            Its parameters.
        """
        self.run(f"CREATE OR REPLACE TEMP TABLE chosen AS FROM history WHERE event_id IN ({chosen})", *parameters)
        self.run(
            f"""INSERT INTO past SELECT {COLUMNS} FROM latest SEMI JOIN chosen USING (workflow, task);
            DELETE FROM latest USING chosen WHERE latest.workflow = chosen.workflow AND latest.task = chosen.task;
            DELETE FROM past USING chosen WHERE past.event_id = chosen.event_id;
            INSERT INTO latest SELECT {COLUMNS} FROM chosen"""
        )

    def forget_latest(self, names: list[tuple[str, str]]) -> None:
        """Let no save of these names count: the newest removal of each does, if one is known."""
        self.run(_NAMES, [workflow for workflow, _ in names], [task for _, task in names])
        self.choose(
            """SELECT max(event_id) FROM history SEMI JOIN names USING (workflow, task)
            WHERE event = 'remove' GROUP BY workflow, task"""
        )
        self.run(
            f"""CREATE OR REPLACE TEMP TABLE gone AS
            FROM latest SEMI JOIN names USING (workflow, task) WHERE event = 'save';
            INSERT INTO past SELECT {COLUMNS} FROM gone;
            DELETE FROM latest WHERE event_id IN (SELECT event_id FROM gone)"""
        )


_ROWS = "_functionfuse_rows"  # the name by which rows of compacted files are read

_MOVED = """
    MERGE INTO segments USING (
        SELECT unnest(?::VARCHAR[]) AS name, unnest(?::BIGINT[]) AS position,
               unnest(?::BIGINT[]) AS lines, unnest(?::BIGINT[]) AS torn
    ) moved ON segments.name = moved.name
    WHEN MATCHED THEN UPDATE SET position = moved.position, lines = moved.lines, torn = segments.torn + moved.torn
    WHEN NOT MATCHED THEN INSERT VALUES (moved.name, moved.position, moved.lines, moved.torn)
"""

_SURVEY = """
    SELECT count(*), count(DISTINCT event_id), min(event_id)::VARCHAR, max(event_id)::VARCHAR,
           count(*) FILTER (named), count(DISTINCT (workflow, task)) FILTER (named),
           (SELECT count(*) FROM latest SEMI JOIN batch USING (workflow, task)),
           coalesce(bool_or(event IN ('pin', 'unpin')), false),
           list(DISTINCT workflow) FILTER (workflow IS NOT NULL)
    FROM (SELECT *, event IN ('save', 'remove') AS named FROM batch)
"""

_TOLD_TWICE = """
    SELECT workflow, task FROM batch WHERE event IN ('save', 'remove')
    GROUP BY workflow, task, event_id HAVING count(*) > 1
"""

_TOLD_AGAIN = """
    SELECT workflow, task FROM batch WHERE event IN ('save', 'remove')
    AND event_id IN (SELECT event_id FROM history WHERE event_id >= (SELECT min(event_id) FROM batch))
"""

_NAMES = "CREATE OR REPLACE TEMP TABLE names AS SELECT unnest(?::VARCHAR[]) AS workflow, unnest(?::VARCHAR[]) AS task"

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
    SELECT workflow, task, max(event_id) AS event_id FROM batch WHERE event IN ('save', 'remove') GROUP BY ALL;
    DELETE FROM winners USING latest
    WHERE latest.workflow = winners.workflow AND latest.task = winners.task AND latest.event_id > winners.event_id;
    INSERT INTO past SELECT {COLUMNS} FROM latest SEMI JOIN winners USING (workflow, task);
    DELETE FROM latest USING winners WHERE latest.workflow = winners.workflow AND latest.task = winners.task;
    INSERT INTO latest SELECT {COLUMNS} FROM batch SEMI JOIN winners USING (event_id);
    INSERT INTO past SELECT {COLUMNS} FROM batch ANTI JOIN winners USING (event_id);
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
