"""Long queries of `catalog.sql` lock out nobody who only reads, and lose nothing for those who have news."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import iglob
from pathlib import Path

import pytest

from catalog.errors import InvalidQuestion
from catalog.index import location
from catalog.index import lock as locking
from catalog.index.lock import Lock
from functionfuse.storage.filestorage import FileStorage
from workshop import index_of, root_of, run_python, running_python, task_names, task_rows, wait_for

ENDLESS = "SELECT count(*) FROM range(1000000000000)"
ASKING = f"""
import sys
from catalog import Catalog
from catalog.errors import InvalidQuestion
catalog = Catalog.open(sys.argv[1])
catalog.sql("SELECT 1")
print("up", flush=True)
try:
    catalog.sql("{ENDLESS}", time_limit=float(sys.argv[2]))
except InvalidQuestion:
    print("stopped", flush=True)
"""


def wait_until_shared(storage: FileStorage) -> None:
    """Wait until the index is only read by those who have it."""
    deadline = time.monotonic() + 240
    with Lock(f"{index_of(storage)}.lock") as lock:
        while lock.take():
            lock.free()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while not lock.share():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def wait_until_read(storage: FileStorage) -> None:
    """Wait until a query reads the index, which its reader has opened since it is shared."""
    wait_until_shared(storage)
    deadline = time.monotonic() + 240
    while not any(is_open(descriptor, index_of(storage)) for descriptor in iglob("/proc/[0-9]*/fd/*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_open(descriptor: str, path: Path) -> bool:
    """Tell whether a file descriptor of some process, which may have closed it since, is of this file."""
    try:
        return os.readlink(descriptor) == str(path)
    except OSError:
        return False


@contextmanager
def asked_elsewhere(storage: FileStorage, seconds: float) -> Iterator[None]:
    """Have a query run in another process, for so long."""
    with running_python(ASKING, root_of(storage), seconds) as process:
        wait_for(process, "up")
        wait_until_read(storage)
        yield


@pytest.fixture
def quiet(storage: FileStorage, caplog: pytest.LogCaptureFixture) -> Iterator[FileStorage]:
    """Return a storage with two results, whose questions must log nothing: no private index answers them."""
    location._reported.clear()
    for name in ("a", "b"):
        storage.save("w", name, 1)
    assert storage.list_tasks("w") == ["a", "b"]
    with caplog.at_level(logging.INFO, "functionfuse.catalog"):
        yield storage


def test_who_reads_does_not_wait_for_a_long_query(quiet: FileStorage, caplog: pytest.LogCaptureFixture) -> None:
    """While a query of another process runs, all kinds of questions are answered, from the same index."""
    before = index_of(quiet).stat()
    expected = task_rows(quiet.catalog)
    with asked_elsewhere(quiet, 60):
        assert task_rows(quiet.catalog) == expected
        assert quiet.list_tasks("w") == ["a", "b"]
        assert quiet.catalog.sql("SELECT count(*) FROM tasks").fetchall() == [(2,)]
        assert run_python(LISTING, root_of(quiet)) == "a b\n"
        with Lock(f"{index_of(quiet)}.lock") as lock:
            assert not lock.take()  # the query still runs
    assert index_of(quiet).stat().st_ino == before.st_ino
    assert caplog.messages == []


LISTING = """
import sys
from functionfuse.storage.filestorage import FileStorage
print(*FileStorage(sys.argv[1]).list_tasks("w"))
"""


def test_who_has_news_waits_for_the_query(quiet: FileStorage, caplog: pytest.LogCaptureFixture) -> None:
    """What was saved, removed or copied in since is in the answer, which comes when the query has ended."""
    with asked_elsewhere(quiet, 1):
        quiet.save("w", "c", 1)
        quiet.remove_task("w", "a")
        assert quiet.list_tasks("w") == ["b", "c"]
    with asked_elsewhere(quiet, 1):
        (index_of(quiet).parents[1] / "w" / "c").rename(index_of(quiet).parents[1] / "w" / "d")
        assert quiet.list_tasks("w") == ["b", "d"]
    assert caplog.messages == []


def test_who_has_news_does_not_wait_forever(
    quiet: FileStorage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a query that runs for longer than others are patient, a private index tells the news."""
    monkeypatch.setattr(locking, "_PATIENCE", 0.3)
    with asked_elsewhere(quiet, 60):
        quiet.save("w", "c", 1)
        assert quiet.list_tasks("w") == ["a", "b", "c"]
    assert "another process has held" in caplog.messages[0]
    assert quiet.list_tasks("w") == ["a", "b", "c"]


def test_threads_ask_beside_long_queries(quiet: FileStorage, caplog: pytest.LogCaptureFixture) -> None:
    """Two threads with long queries each get their answer, and what the program asks meanwhile gets its own."""
    said: list[str] = []

    def endless() -> None:
        try:
            quiet.catalog.sql(ENDLESS, time_limit=1)
        except InvalidQuestion as refusal:
            said.append(str(refusal))

    threads = [threading.Thread(target=endless) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until_shared(quiet)
    assert task_names(quiet.catalog) == [("w", "a"), ("w", "b")]
    assert said == []  # the queries still run
    quiet.save("w", "c", 1)
    assert quiet.list_tasks("w") == ["a", "b", "c"]
    for thread in threads:
        thread.join()
    assert said == ["the query was stopped after 1 s, its time limit: ask for less, or raise it"] * 2
    assert caplog.messages == []


def test_an_index_that_is_missing_beside_readers(quiet: FileStorage) -> None:
    """An index that was deleted while a query reads it is built anew when the query has ended."""
    with asked_elsewhere(quiet, 1):
        index_of(quiet).unlink()
        assert quiet.list_tasks("w") == ["a", "b"]
    assert index_of(quiet).exists()


BUSY = f"""
import sys, threading
from catalog.errors import InvalidQuestion
from functionfuse.storage.filestorage import FileStorage
root, me = sys.argv[1:]
storage = FileStorage(root)
wrong = []

def save():
    for number in range(6):
        storage.save("w", f"{{me}} {{number}}", number)
        if f"{{me}} {{number}}" not in storage.list_tasks("w"):
            wrong.append(number)

def ask():
    for number in range(6):
        try:
            storage.catalog.sql("{ENDLESS}", time_limit=0.1)
        except InvalidQuestion as refusal:
            if "time limit" not in str(refusal):
                wrong.append(str(refusal))

threads = [threading.Thread(target=target) for target in (save, ask)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong, flush=True)
"""


def test_nothing_is_lost_among_long_queries(quiet: FileStorage) -> None:
    """Of two processes that each save, list and ask long queries at once, every list has the saves before it.

    On a busy machine one may lose its patience with the other; then a private index has to know them.
    """
    with running_python(BUSY, root_of(quiet), "x") as one, running_python(BUSY, root_of(quiet), "y") as two:
        for process in (one, two):
            wait_for(process, "[]")
            assert process.wait() == 0
    expected = {"a", "b", *(f"{me} {number}" for me in "xy" for number in range(6))}
    assert set(quiet.list_tasks("w")) == expected
    assert quiet.catalog.sql("SELECT count(*) FROM events").fetchall() == [(len(expected),)]
