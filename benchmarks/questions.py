"""What a question costs beside plain DuckDB, which attaches the same file, inserts the same rows, asks and detaches.

With 1,000,000 results, and with 200 and a question after each save.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import duckdb
import million
from measuring import Times, milliseconds, show

from catalog import Catalog
from catalog.format.columns import BATCH
from catalog.format.names import CATALOG_FOLDER
from catalog.journal.append import JOURNAL_FOLDER, SEGMENT_SUFFIX
from functionfuse.storage import storage_factory

WORKFLOW, PREFIX = "workflow_3", "task_0000"
LATER = (1, 1_000)
SMALL = 200
_ASK = "SELECT task FROM plain.tasks WHERE workflow = ? AND starts_with(task, ?)"
# The columns that a line has; all others stay null.
_READ = "{{{}}}".format(", ".join(f"'{each.name}': '{each.type}'" for each in BATCH))
_INSERT = f"""
    INSERT INTO plain.latest BY NAME
    SELECT * REPLACE (coalesce(event_id, blob_id) AS event_id, coalesce("time", saved_at) AS "time")
    FROM read_ndjson(?, columns = {_READ})
"""
_SUMS = "SELECT workflow, count(*), sum(size), avg((value->>'loss')::DOUBLE) FROM {}tasks GROUP BY ALL ORDER BY ALL"


class _Plain:
    """DuckDB with a copy of an index."""

    def __init__(self, root: Path, copy: Path) -> None:
        self._copy = str(copy)
        shutil.copy(root / CATALOG_FOLDER / "catalog.duckdb", copy)
        self._connection = duckdb.connect()
        self._connection.execute("SET enable_progress_bar = false").fetchall()

    def ask(self, segment: str | None = None) -> None:
        """Insert the rows of a segment, if one is given, and list names."""
        self._run(f"ATTACH '{self._copy}' AS plain")
        if segment is not None:
            self._connection.execute(_INSERT, [segment]).fetchall()
        self._connection.execute(_ASK, [WORKFLOW, PREFIX]).fetchall()
        self._run("DETACH plain")

    def sums(self) -> None:
        """Ask for sums with a metric."""
        self._run(f"ATTACH '{self._copy}' AS plain (READ_ONLY)")
        self._connection.sql(_SUMS.format("plain.")).to_arrow_table()
        self._run("DETACH plain")

    def _run(self, sql: str) -> None:
        self._connection.execute(sql).fetchall()


def run(folder: Path, rounds: int) -> None:
    """Measure and print."""
    root = folder / "storage"
    million.write_journal(root)
    million.write_files(root)
    million.age(root, -86_400.0)  # segments of tomorrow: no question compacts them meanwhile
    catalog = Catalog.open(root)
    catalog.refresh()
    large(root, catalog, _Plain(root, folder / "plain.duckdb"), rounds)
    small(folder / "small", folder / "small.duckdb", rounds)


def large(root: Path, catalog: Catalog, plain: _Plain, rounds: int) -> None:
    """Ask with nothing new, and after a few new lines."""
    nothing: Times = defaultdict(list)
    sums: Times = defaultdict(list)
    later: dict[int, Times] = {count: defaultdict(list) for count in LATER}
    for number in range(rounds):
        for count in LATER:
            million.append(root, f"later_{number}_{count}", count)
            million.age(root, -86_400.0)
            later[count]["plain DuckDB"].append(milliseconds(plain.ask, _newest(root)))
            later[count]["functionfuse"].append(milliseconds(catalog.names, WORKFLOW, f"{PREFIX}*"))
        nothing["plain DuckDB"].append(milliseconds(plain.ask))
        nothing["functionfuse"].append(milliseconds(catalog.names, WORKFLOW, f"{PREFIX}*"))
        sums["plain DuckDB"].append(milliseconds(plain.sums))
        sums["functionfuse"].append(milliseconds(catalog.sql, _SUMS.format("")))
    show(f"{million.RESULTS:,} results, nothing new", nothing, "plain DuckDB", "ms")
    for count, times in later.items():
        show(f"{million.RESULTS:,} results, {count:,} new", times, "plain DuckDB", "ms")
    show(f"{million.RESULTS:,} results, sums with a metric", sums, "plain DuckDB", "ms")


def _newest(root: Path) -> str:
    return str(max((root / JOURNAL_FOLDER).glob(f"*{SEGMENT_SUFFIX}")))


def small(root: Path, copy: Path, rounds: int) -> None:
    """Ask after each save into a storage of few results."""
    storage = storage_factory({"kind": "file", "options": {"path": str(root)}})
    for number in range(SMALL):
        storage.save(WORKFLOW, f"{PREFIX}{number}", number)
    storage.list_tasks(WORKFLOW)
    plain = _Plain(root, copy)
    line = copy.with_suffix(SEGMENT_SUFFIX)
    times: Times = defaultdict(list)
    for number in range(10 * rounds):
        storage.save(WORKFLOW, f"{PREFIX}later_{number}", number)
        line.write_bytes(Path(_newest(root)).read_bytes().splitlines()[-1])
        times["plain DuckDB"].append(milliseconds(plain.ask, str(line)))
        times["functionfuse"].append(milliseconds(storage.list_tasks, WORKFLOW, f"{PREFIX}*"))
    show(f"{SMALL} results, a question after each save", times, "plain DuckDB", "ms")
