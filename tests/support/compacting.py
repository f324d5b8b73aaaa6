"""A compaction that is killed at every step: ``python compacting.py STORAGE`` tells the number of deaths by its status.

This process uses neither DuckDB nor Arrow, so that forking is safe; its children do.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb  # noqa: F401 - here, so that no child has to, as Arrow is
import pyarrow.compute
import pyarrow.parquet  # noqa: F401

from catalog import Catalog
from catalog.index.history import History
from catalog.index.small_tables import SmallTables
from catalog.journal.compaction import Compaction
from catalog.journal.view import StorageView
from functionfuse.storage.filestorage import FileStorage
from killing import Death
from processes import Child


def events(root: Path) -> str:
    """Return all events with their places in the journal, from an index that is built anew."""
    (root / ".catalog" / "catalog.duckdb").unlink(missing_ok=True)
    with Catalog.open(root)._index.question() as (connection, _):
        return repr(connection.sql("FROM history ORDER BY event_id").fetchall())


def compact(root: Path, moment: int) -> None:
    """Compact, and die at a moment."""
    catalog = Catalog.open(root)
    with catalog._index.question() as (connection, _):
        if moment >= 0:
            Death(moment).arm()
        Compaction(History(connection, SmallTables()), StorageView.of(catalog._store)).compact_all()


def check(root: Path, expected: str) -> None:
    """Check the journal that a dead compactor left, and again when the next one has been there."""
    assert events(root) == expected
    age(root)
    compact(root, -1)
    assert events(root) == expected
    assert list(root.glob(".catalog/journal/*.ndjson")) == list(root.glob(".catalog/retired/*")) == []


def age(root: Path) -> None:
    """Let all segments be old enough to be compacted."""
    then = time.time() - 300
    for segment in (root / ".catalog" / "journal").glob("*.ndjson"):
        os.utime(segment, (then, then))


def ended(work: Callable[[], str | None]) -> tuple[int, str]:
    """Do the work in a child, and return its status and what it has to say."""
    child = Child(lambda send: send(work() or ""))
    lines = child.lines()
    assert not lines or not lines[0].startswith("failed"), lines[0].replace("\\n", "\n")
    return child.status, lines[0] if lines else ""


def dies(base: Path, root: Path, moment: int, expected: str) -> bool:
    """Kill a compaction of a copy of the storage at a moment, check what is left, and tell whether it came to that."""
    shutil.copytree(base, root)
    status, _ = ended(lambda: compact(root, moment))
    ended(lambda: check(root, expected))
    assert status in (0, signal.SIGKILL)
    return status != 0


def main(folder: Path) -> int:
    """Kill at each moment, until a compaction survives; return the number of deaths."""
    base = folder / "base"
    storage = FileStorage(base)
    for number in range(4):
        storage.save("w", str(number), number)
    storage.remove_task("w", "2")
    storage._journal._abandon()  # a second segment
    storage.save("w", "3", "over")
    age(base)
    _, expected = ended(lambda: events(base))
    moment = 0
    while dies(base, folder / str(moment), moment, expected):
        moment += 1
    return moment


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
