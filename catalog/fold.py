"""Folding: what the journal and the folders say that the index does not know yet.

The journal says what happened, the blob at a name what is there. Events are a
set keyed by id, so a segment that is read twice, copied or overlaid changes
nothing. A save's line precedes its rename, so a segment's last save or removal
is *pending* until the blob shows its id or the segment has grown. Events of one
name that do not follow from one another (by ``replaces``, or by their order in
one segment) *compete*. Names with pending or competing events are settled by
one look at the blob each; nothing else is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.folder import Folder, Found, Unreadable
from catalog.names import candidates, decode, encode, from_text, to_text
from catalog.schema import BATCH, SELECT_BATCH, names_of

if TYPE_CHECKING:
    import duckdb

_CHUNK = 1 << 24  # bytes of journal that are folded at once: bounds the memory of a first fold
_SMALL_FOLDER = 2_000  # entries that can be looked through at every question, in a few ms
_RARELY = 50.0  # of the time it took: how long a larger folder in which results are being saved is left alone
_LONGEST = 600.0  # seconds: not even a clock that jumped back lets a folder alone for longer
_GRAIN = 2_000_000_000  # ns: within the coarsest clock of file systems, a folder may change and keep its time

_COLUMNS = names_of(BATCH)


@dataclass(frozen=True)
class Refreshed:
    """What one refresh did.

    Attributes
    ----------
    events : int
        Events that were new.
    torn : int
        Lines of the journal, over its whole length, that are no events: torn by a crash, or damaged.
    """

    events: int
    torn: int


class Fold:
    """One refresh of an index that is attached as `INDEX`, inside a transaction.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The instance to which the index is attached.
    folder : Folder
        The storage.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Folder) -> None:
        self._connection = connection
        self._folder = folder
        self._events = 0

    def refresh(self) -> Refreshed:
        """Fold in all that is new."""
        known = dict(self._rows("SELECT name, position FROM segments"))
        unended = 0
        for name, size in self._folder.segments():
            if size > known.get(name, 0):
                unended += self._fold_segment(name, known.get(name)) < size
        self._settle(self._doubtful())
        self._look_through_folders()
        torn = self._rows("SELECT coalesce(sum(torn), 0) FROM segments")[0][0]
        return Refreshed(self._events, int(torn) + unended)

    def settle(self, names: Iterable[tuple[str, str]]) -> None:
        """Look at the blobs of names, whatever is known of them, and believe them."""
        self._settle(names)

    # Journal

    def _fold_segment(self, segment: str, position: int | None) -> int:
        """Fold a segment from a position on; return the one behind its last whole line."""
        if position is None:
            self._run("INSERT INTO segments VALUES (?, 0, 0)", segment)
        for data, end in self._folder.lines(segment, position or 0, _CHUNK):
            self._fold_lines(segment, data, position or 0)
            position = end
            self._run("UPDATE segments SET position = ? WHERE name = ?", end, segment)
        return position or 0

    def _fold_lines(self, segment: str, data: bytes, position: int) -> None:
        # Lines are ASCII: what is not was damaged, and must not pass as text that was mended.
        text = data.decode("ascii") if data.isascii() else _without_damaged(data)
        lines = text.count("\n") + 1
        self._connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE batch AS
            WITH lines AS (
                SELECT unnest(parts) AS line, ? AS segment, ? + generate_subscripts(parts, 1) AS position
                FROM (SELECT string_split(?, chr(10)) AS parts)
            ) {SELECT_BATCH}""",
            [segment, position, text],
        ).fetchall()
        good = self._rows("SELECT count(*) FROM batch")[0][0]
        if good != lines:
            self._run("UPDATE segments SET torn = torn + ? WHERE name = ?", lines - good, segment)
        self._take_batch()
        # Whatever was pending in this segment is settled by the lines behind it; its newest event may be pending now.
        self._run("DELETE FROM pending WHERE segment = ?", segment)
        self._run(
            """INSERT INTO pending SELECT event_id, event, workflow, task, segment
            FROM (SELECT * FROM batch ORDER BY position DESC LIMIT 1) WHERE event IN ('save', 'remove')"""
        )
        # What was replaced had come true, in whatever order the lines of the two are read.
        self._run(
            """DELETE FROM pending WHERE event_id IN
            (SELECT replaces FROM history WHERE event_id > (SELECT min(event_id) FROM pending))"""
        )

    def _take_batch(self) -> None:
        """Add the new events of the batch to the history, and bring the names that they concern up to date."""
        self._insert_batch()
        workflows = self._rows("SELECT DISTINCT workflow FROM batch WHERE workflow IS NOT NULL")
        if workflows:
            self._mark_dirty([encode(from_text(workflow)) for (workflow,) in workflows])
        competing = self._pairs(_COMPETING)
        self._run(_LATEST)
        self._settle(competing)

    def _mark_dirty(self, folders: list[str]) -> None:
        # A folder that is not there gets its row too: lines may tell of what was deleted with the whole folder.
        self._run(
            """INSERT INTO folders SELECT folder, NULL, false, true, 0, 0
            FROM (SELECT unnest(?) AS folder) ANTI JOIN folders USING (folder)""",
            folders,
        )
        self._run("UPDATE folders SET dirty = true WHERE NOT dirty AND folder IN (SELECT unnest(?))", folders)

    # Blobs

    def _doubtful(self) -> Iterator[tuple[str, str]]:
        """Yield the names with pending events, but those under which just the listed blob is.

        Of the last save of a killed writer nobody ever learns more: it costs every question one look, no writing.
        """
        for workflow, task, listed, is_open in self._rows(_PENDING):
            if is_open or self._id_at(workflow, task) != listed:
                yield workflow, task

    def _id_at(self, workflow: str, task: str) -> str | None:
        try:
            found = self._folder.look(from_text(workflow), from_text(task))
        except Unreadable:
            return None
        return found.event_id if found else None

    def _settle(self, names: Iterable[tuple[str, str]]) -> None:
        """Look at the blobs of `names`, and believe them."""
        for workflow, task in names:
            try:
                found = self._folder.look(from_text(workflow), from_text(task))
            except Unreadable:
                continue  # damaged: the journal's word stands, and reading it says what is wrong
            if found is None:
                self._settle_absent(workflow, task)
            else:
                self._settle_present(workflow, task, found)

    def _settle_present(self, workflow: str, task: str, found: Found) -> None:
        self._run("DELETE FROM pending WHERE event_id = ?", found.event_id)
        if not self._rows("SELECT 1 FROM history WHERE event_id = ?", found.event_id):
            self._add([found])
        if self._rows("SELECT 1 FROM pending WHERE workflow = ? AND task = ? AND event = 'remove'", workflow, task):
            self._run(_REMOVED, workflow, task, found.event_id)
        listed = self._rows("SELECT event_id::VARCHAR FROM latest WHERE workflow = ? AND task = ?", workflow, task)
        if listed != [(found.event_id,)]:  # writing the same again would cost every question
            self._make_latest(workflow, task, "event_id = ?", found.event_id)

    def _settle_absent(self, workflow: str, task: str) -> None:
        self._run("DELETE FROM pending WHERE workflow = ? AND task = ? AND event = 'remove'", workflow, task)
        if self._rows("SELECT 1 FROM tasks WHERE workflow = ? AND task = ?", workflow, task):
            self._make_latest(workflow, task, "event = 'remove'")

    def _make_latest(self, workflow: str, task: str, condition: str, *parameters: str) -> None:
        self._run("DELETE FROM latest WHERE workflow = ? AND task = ?", workflow, task)
        self._run(
            f"""INSERT INTO latest SELECT {_COLUMNS} FROM history WHERE workflow = ? AND task = ? AND {condition}
            ORDER BY event_id DESC LIMIT 1""",
            workflow,
            task,
            *parameters,
        )

    def _add(self, found: list[Found]) -> None:
        """Add saves of which only the blobs tell."""
        self._connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE batch AS
            WITH lines AS (SELECT unnest(?) AS line, NULL AS segment, NULL AS position) {SELECT_BATCH}""",
            [[each.line for each in found]],
        ).fetchall()
        self._insert_batch()

    def _insert_batch(self) -> None:
        """Add to the history what of the batch is not in it, and leave just that in the batch."""
        self._run("DELETE FROM batch WHERE rowid NOT IN (SELECT min(rowid) FROM batch GROUP BY event_id)")
        self._run(
            """DELETE FROM batch USING history WHERE history.event_id = batch.event_id
            AND history.event_id >= (SELECT min(event_id) FROM batch)"""
        )
        self._events += self._rows("SELECT count(*) FROM batch")[0][0]
        self._run(f"INSERT INTO history SELECT {_COLUMNS} FROM batch")

    # Folders

    def _look_through_folders(self) -> None:
        """Find files that came or went without an event: copied in, of the older format, deleted by hand.

        A folder is looked through when it changed and no event explains that, or
        when it is small; one in which much is being saved, now and then.
        """
        rows = self._rows("SELECT folder, mtime, settled, dirty, due, entries FROM folders")
        known = {from_text(folder): state for folder, *state in rows}
        present = self._folder.workflows()
        for folder, mtime in present:
            before, settled, dirty, due, entries = known.pop(folder, (None, False, False, 0.0, 0))
            if mtime == before and settled and not dirty:
                continue
            unexplained = mtime != before and not dirty
            if unexplained or entries <= _SMALL_FOLDER or not time.time() < due < time.time() + _LONGEST:
                self._look_through(folder, mtime, (before, settled, dirty))
        for folder in known:  # of which nothing is left
            workflow = self._workflow_in(folder)
            self._settle(self._pairs("SELECT workflow, task FROM tasks WHERE workflow = ?", workflow))
            self._run("DELETE FROM folders WHERE folder = ?", to_text(folder))

    def _look_through(self, folder: str, mtime: int, known: tuple[object, ...]) -> None:
        began = time.time()
        files = set(self._folder.files(folder))
        workflow = self._workflow_in(folder)
        names = {name for _, name in self._pairs("SELECT workflow, task FROM tasks WHERE workflow = ?", workflow)}
        # Nearly every name is its own file name; only the others are encoded and decoded, one by one.
        unknown = [file for file in files - names if decode(file) is None or to_text(decode(file) or "") not in names]
        unknown = [file for file in unknown if not _is_hidden(file, files)]
        gone = [name for name in names - files if not files.intersection(candidates(from_text(name)))]
        self._take_arrived(list(self._readable(folder, unknown)))
        self._settle([(workflow, name) for name in gone])
        now = time.time()
        settled = abs(time.time_ns() - mtime) > _GRAIN
        due = now + (now - began) * _RARELY
        state = (mtime, settled, False, due, len(files))
        if state[:3] != known or len(files) > _SMALL_FOLDER:  # a question that finds nothing new writes nothing
            self._run("DELETE FROM folders WHERE folder = ?", to_text(folder))
            self._run("INSERT INTO folders VALUES (?, ?, ?, ?, ?, ?)", to_text(folder), *state)

    def _workflow_in(self, folder: str) -> str:
        name = decode(folder)
        if name is not None:
            return to_text(name)
        known = (text for (text,) in self._rows("SELECT DISTINCT workflow FROM tasks"))
        return next((text for text in known if encode(from_text(text)) == folder), folder)

    def _readable(self, folder: str, files: list[str]) -> Iterator[Found]:
        for file in files:
            try:
                found = self._folder.look_at(folder, file)
            except Unreadable:
                continue  # something else that lies there
            if found is not None:
                yield found

    def _take_arrived(self, found: list[Found]) -> None:
        if not found:
            return
        self._add(found)
        arrived = [each.event_id for each in found]
        self._run("CREATE OR REPLACE TEMP TABLE arrived AS SELECT unnest(?::UUID[]) AS event_id", arrived)
        self._run(
            """DELETE FROM latest USING (SELECT workflow, task FROM history SEMI JOIN arrived USING (event_id)) new
            WHERE latest.workflow = new.workflow AND latest.task = new.task"""
        )
        self._run(f"INSERT INTO latest SELECT {_COLUMNS} FROM history SEMI JOIN arrived USING (event_id)")
        self._run("DELETE FROM pending WHERE event_id IN (SELECT event_id FROM arrived)")

    # SQL

    def _run(self, sql: str, *parameters: object) -> None:
        self._connection.execute(sql, list(parameters)).fetchall()

    def _rows(self, sql: str, *parameters: object) -> list[Any]:
        return self._connection.execute(sql, list(parameters)).fetchall()

    def _pairs(self, sql: str, *parameters: object) -> list[tuple[str, str]]:
        return self._connection.execute(sql, list(parameters)).fetchall()


def _is_hidden(file: str, files: set[str]) -> bool:
    """Tell whether a file that the older format kept under the raw form of a name is hidden by its newer one."""
    name = decode(file)
    return name is not None and encode(name) != file and encode(name) in files


def _without_damaged(data: bytes) -> str:
    return "\n".join(line.decode() if line.isascii() else "" for line in data.split(b"\n"))


# Names with pending events: the save that is listed, and whether it is one of them, or a removal is.
_PENDING = """
    SELECT pending.workflow, pending.task, any_value(latest.event_id) FILTER (latest.event = 'save')::VARCHAR,
           bool_or(pending.event = 'remove' OR pending.event_id = latest.event_id)
    FROM pending LEFT JOIN latest ON latest.workflow = pending.workflow AND latest.task = pending.task
    GROUP BY pending.workflow, pending.task
"""

# Where a blob stands, a removal came true before it unless it meant that blob, or one that was overwritten instead.
_REMOVED = """
    DELETE FROM pending WHERE event_id IN (
        SELECT removal.event_id FROM history removal
        WHERE removal.workflow = $1 AND removal.task = $2 AND removal.event = 'remove' AND NOT EXISTS (
            SELECT 1 FROM history save
            WHERE save.workflow = removal.workflow AND save.task = removal.task AND save.event = 'save' AND (
                save.replaces = removal.replaces OR (save.event_id = $3 AND (
                    save.blob_id = removal.replaces OR (removal.replaces IS NULL AND save.format = 0)
                ))
            )
        )
    )
"""

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
    SELECT {_COLUMNS} FROM (
        SELECT *, row_number() OVER (PARTITION BY workflow, task ORDER BY event_id DESC) AS place
        FROM batch WHERE event IN ('save', 'remove')
    ) WHERE place = 1;
    DELETE FROM winners USING latest
    WHERE latest.workflow = winners.workflow AND latest.task = winners.task AND latest.event_id > winners.event_id;
    DELETE FROM latest USING winners WHERE latest.workflow = winners.workflow AND latest.task = winners.task;
    INSERT INTO latest SELECT {_COLUMNS} FROM winners;
"""
