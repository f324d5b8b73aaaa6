"""A compaction that is killed at every step: ``python compacting.py STORAGE`` tells the number of deaths by its status.

This process uses neither DuckDB nor Arrow, so that forking is safe; its children do.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb  # noqa: F401 - here, so that no child has to, as Arrow is
import pyarrow.compute
import pyarrow.parquet  # noqa: F401
from killing import Death
from processes import Child

from catalog import Catalog
from catalog.compact import Compaction
from functionfuse.storage.filestorage import FileStorage

ROOT = Path(sys.argv[1])


def events() -> list[object]:
    """Return all events with their places in the journal, from an index that is built anew."""
    with Catalog.open(ROOT)._index.question() as (connection, _):
        return list(connection.sql("FROM history ORDER BY event_id").fetchall())


def check(expected: str) -> Callable[[Callable[[str], None]], None]:
    """Return what a child does that checks the journal."""

    def work(send: Callable[[str], None]) -> None:
        (ROOT / ".catalog" / "catalog.duckdb").unlink(missing_ok=True)
        found = repr(events())
        assert found == (expected or found)
        send(found)

    return work


def compact(moment: int) -> Callable[[object], None]:
    """Return what a child does that dies at a moment."""

    def work(_: object) -> None:
        catalog = Catalog.open(ROOT)
        with catalog._index.question() as (connection, _):
            Death(moment).arm()
            Compaction(connection, catalog._index._folder).all()

    return work


def age() -> None:
    """Let all segments be old enough to be compacted."""
    then = time.time() - 300
    for segment in (ROOT / ".catalog" / "journal").glob("*.ndjson"):
        os.utime(segment, (then, then))


def said(child: Child) -> str:
    """Return the one line of a child that has to succeed."""
    (line,) = child.lines()
    assert child.status == 0, line.replace("\\n", "\n")
    return line


def main() -> int:
    """Kill, check, and go on, until one compaction survives; return the number of deaths."""
    storage = FileStorage(ROOT)
    for number in range(4):
        storage.save("w", str(number), number)
    storage.remove_task("w", "2")
    expected = said(Child(check("")))
    for moment in itertools.count():
        age()
        child = Child(compact(moment))
        assert child.lines() == []
        said(Child(check(expected)))
        if child.status == 0:
            break
        assert child.status == signal.SIGKILL
        if moment % 4 == 0:  # something new to compact, in a segment of another process
            said(Child(lambda send, moment=moment: send(str(storage.save("w", f"more {moment}", 1)))))  # type: ignore[misc]
            expected = said(Child(check("")))
    journal = ROOT / ".catalog"
    assert list(journal.glob("journal/*.ndjson")) == list(journal.glob("retired/*")) == []
    return moment


if __name__ == "__main__":
    sys.exit(main())
