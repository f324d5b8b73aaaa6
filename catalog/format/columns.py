"""The columns of the catalog: of its tables, of the journal's lines, and of a compacted journal.

Times are moments (UTC on disk), sizes bytes, durations seconds. JSON columns hold
text that DuckDB's JSON operators take: ``value->>'accuracy'``.
"""

from __future__ import annotations

from dataclasses import dataclass


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


NAMES = (
    Column("workflow", "VARCHAR", "name of the workflow"),
    Column("task", "VARCHAR", "name of the task"),
)
RESULT = (
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
TASKS = (*NAMES, *RESULT, Column("pinned", "BOOLEAN", "whether `gc` leaves it alone"))
EVENTS = (
    Column("event", "VARCHAR", "save, remove, run-started, run-finished, task-failed, pin, unpin"),
    Column("event_id", "UUID", "id of the event, a UUIDv7; of a save, the blob's"),
    Column("time", "TIMESTAMPTZ", "when it happened"),
    *NAMES,
    *RESULT,
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
