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
from catalog.index.small_tables import Name, SmallTables
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
    tables : SmallTables
        What is known of its small tables.
    reads_only : bool
        Whether they cannot be written.
    confirms_repeated : bool
        Whether a repeated event is confirmed.

    Attributes
    ----------
    reads_only : bool
        As above.
    added : int
        Events that were new.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        tables: SmallTables,
        reads_only: bool = False,
        confirms_repeated: bool = False,
    ) -> None:
        self._connection = connection
        self._tables = tables
        self.reads_only = reads_only
        self._confirms_repeated = confirms_repeated
        self.added = 0

    # SQL

    def run(self, sql: str, *parameters: object) -> None:
        """Run a statement that may write."""
        self._tables.are_written = True
        self._connection.execute(sql, list(parameters)).fetchall()

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """Return the rows of a statement."""
        return self._connection.execute(sql, list(parameters)).fetchall()

    def all_of(self, table: Name) -> list[Any]:
        """Return all rows of a small table."""
        return self._tables.rows(table, self.rows)

    def write(self, table: Name, sql: str, *parameters: object) -> list[Any]:
        """Run a statement that writes a small table, and return its rows."""
        self._tables.forget(table)
        self._tables.are_written = True
        return self.rows(sql, *parameters)

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
            self.write("segments", _MOVED, *map(list, zip(*moved, strict=True)))

    def forget_watermarks(self, segments: list[str]) -> None:
        """Note that nothing of segments is folded."""
        self.write("segments", "DELETE FROM segments WHERE name IN (SELECT unnest(?))", segments)

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
            Segments whose newest lines it holds, and of which only the last event is unconfirmed.
        opened : iterable of str
            Segments all of whose events are.

        Returns
        -------
        list of (str, str)
            Workflow and task of the names at which only the blob says what counts.
        """
        events, distinct, first, last, *found = self.rows(_SURVEY)[0]
        is_late = bool(events) and first <= self._newest_from(first)  # as is rarely so: ids grow
        again: list[tuple[str, str]] = []
        if distinct < events or is_late:
            again = self._leave_new(first, distinct == events, is_late)
            if self.rows("SELECT count(*) FROM batch") != [(events,)]:
                events, _, _, _, *found = self.rows(_SURVEY)[0]
        named, names, known, replaced, pins, workflows = found
        if events:
            self._tables.newest = max(self._newest_from(first), last)
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
        since = first if replaced or is_late else None
        return again + competing + self._update_pending(list(growing), list(opened), since)

    def _newest_from(self, first: str) -> str:
        """Return the greatest id of the history; an empty text if that is known to be less than `first`."""
        if self._tables.newest is None:
            newest = "SELECT max(event_id)::VARCHAR FROM history WHERE event_id >= ?::UUID"
            self._tables.newest = self.rows(newest, first)[0][0] or ""
        return self._tables.newest

    def _leave_new(self, first: str, is_once: bool, is_late: bool) -> list[tuple[str, str]]:
        """Leave in the batch, once, what is not in the history; return the names of what is repeated."""
        again: list[tuple[str, str]] = []
        if not is_once:
            if self._confirms_repeated:
                again += self.rows(_REPEATED_IN_BATCH)
            self.run("DELETE FROM batch WHERE rowid NOT IN (SELECT min(rowid) FROM batch GROUP BY event_id)")
        if is_late:
            if self._confirms_repeated:
                again += self.rows(_REPEATED)
                self.write("pending", "DELETE FROM pending WHERE event_id IN (SELECT event_id FROM batch)")
            self.run(
                "DELETE FROM batch USING history WHERE history.event_id = batch.event_id AND history.event_id >= ?",
                first,
            )
        return again

    def close(self, segments: Iterable[str]) -> list[tuple[str, str]]:
        """Confirm all events of segments.

        Returns
        -------
        list of (str, str)
            Workflow and task of those whose footer was read before that, and has to be once more.
        """
        return self._confirmed(segments)

    def pending_in(self, segments: Collection[str]) -> list[tuple[str, str]]:
        """Return workflow and task of the pending events of segments."""
        return [(workflow, task) for _, _, workflow, task, segment, _ in self.all_of("pending") if segment in segments]

    def give_up(self, segments: Collection[str]) -> None:
        """Forget the pending events of segments, but where nothing else is known of a name."""
        pending = "SELECT event_id FROM pending WHERE segment IN (SELECT unnest(?))"
        self.run(f"DELETE FROM past WHERE event_id IN ({pending})", list(segments))
        unknown = "SELECT event_id FROM pending ANTI JOIN latest USING (event_id) WHERE segment IN (SELECT unnest(?))"
        self.write("pending", f"DELETE FROM pending WHERE event_id IN ({unknown})", list(segments))

    def confirm(self, table: pa.Table) -> list[tuple[str, str]]:
        """Confirm the events in compacted rows; returns as `close` does."""
        ids = f"SELECT TRY_CAST(event_id AS UUID) FROM {_ROWS}"
        with lent(self._connection, _ROWS, table):
            return self.write("pending", f"DELETE FROM pending WHERE event_id IN ({ids}) RETURNING workflow, task")

    def _confirmed(self, segments: Iterable[str]) -> list[tuple[str, str]]:
        with_pending = {segment for _, _, _, _, segment, _ in self.all_of("pending")}.intersection(segments)
        if not with_pending:
            return []
        confirmed = "DELETE FROM pending WHERE segment IN (SELECT unnest(?)) RETURNING workflow, task, looked"
        rows = self.write("pending", confirmed, list(with_pending))
        return [(workflow, task) for workflow, task, looked in rows if looked is not None]

    def _update_pending(self, growing: list[str], opened: list[str], since: str | None) -> list[tuple[str, str]]:
        # Whatever was pending in a segment is confirmed by the lines behind it; its newest event may be pending now.
        # Where the footer was read before that, it has to be read again.
        seen = self._confirmed(growing)
        self.write(
            "pending",
            """INSERT INTO pending SELECT event_id, event, workflow, task, segment, NULL
            FROM batch SEMI JOIN (
                SELECT segment, max(position) AS position FROM batch
                WHERE segment IN (SELECT unnest(?)) GROUP BY segment
            ) USING (segment, position) WHERE event IN ('save', 'remove')""",
            growing,
        )
        if opened:
            self.write(
                "pending",
                """INSERT INTO pending SELECT event_id, event, workflow, task, segment, NULL
                FROM batch WHERE event IN ('save', 'remove') AND segment IN (SELECT unnest(?))""",
                opened,
            )
        # What was replaced had come true, in whatever order the lines of the two are read; the later id replaces.
        if since is not None and self.all_of("pending"):
            replaced = "SELECT replaces FROM history WHERE event_id >= ?::UUID"
            self.write("pending", f"DELETE FROM pending WHERE event_id IN ({replaced})", since)
        return seen

    def _mark_dirty(self, folders: list[str]) -> None:
        # A folder that is not there gets its row too: lines may be about what was deleted with the whole folder.
        known = {folder: dirty for folder, _, _, dirty, _, _ in self.all_of("folders")}
        new = [folder for folder in folders if folder not in known]
        if new:
            self.write("folders", "INSERT INTO folders SELECT unnest(?), NULL, false, true, 0, 0", new)
        if not all(known.get(folder, True) for folder in folders):
            self.write(
                "folders", "UPDATE folders SET dirty = true WHERE NOT dirty AND folder IN (SELECT unnest(?))", folders
            )

    # What compaction asks (`catalog.journal.compaction.FoldedJournal`)

    def parsed(self, part: Part) -> pa.Table:
        """Return the events of lines as rows of a compacted file."""
        rows = select_batch(f", {UNKNOWN_FIELDS}")
        with lent(self._connection, LINES, table_of([part])):
            return self._connection.sql(f"SELECT {STORED}, line FROM ({rows})").to_arrow_table()

    def folded(self) -> set[str]:
        """Return the names of the segments that are folded."""
        return {name for name, *_ in self.all_of("segments")}

    def pending_ids(self) -> set[str]:
        """Return the ids of the events that are not confirmed."""
        return {str(event_id) for event_id, *_ in self.all_of("pending")}

    # Single events

    def knows(self, event_ids: Iterable[str]) -> set[str]:
        """Return those of the ids that are in the history, as all pending ones are."""
        ids = set(event_ids)
        pending = ids & self.pending_ids()
        others = list(ids - pending)
        known = "SELECT event_id::VARCHAR FROM history WHERE event_id IN (SELECT unnest(?::UUID[]))"
        return pending.union(event_id for (event_id,) in self.rows(known, others)) if others else pending

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

# Two of the same hash count as one: then what is always right is done, which takes longer.
_SURVEY = """
    SELECT count(*), count(DISTINCT hash(event_id)), min(event_id)::VARCHAR, max(event_id)::VARCHAR,
           count(*) FILTER (named), count(DISTINCT hash(workflow, task)) FILTER (named),
           (SELECT count(*) FROM latest SEMI JOIN batch USING (workflow, task)), count(replaces),
           coalesce(bool_or(event IN ('pin', 'unpin')), false),
           list(DISTINCT workflow) FILTER (workflow IS NOT NULL)
    FROM (SELECT *, event IN ('save', 'remove') AS named FROM batch)
"""

_REPEATED_IN_BATCH = """
    SELECT workflow, task FROM batch WHERE event IN ('save', 'remove')
    GROUP BY workflow, task, event_id HAVING count(*) > 1
"""

_REPEATED = """
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
