"""Many ask at once: threads, processes, forked children, programs that hold the index, users who may not write."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from catalog import Catalog
from catalog.index import location
from catalog.index import lock as locking
from functionfuse.storage.filestorage import FileStorage
from workshop import index_of, root_of, run_python, running_python, say, task_names, task_rows, wait_for


@pytest.fixture
def endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a question that has to wait for others wait until the test has failed."""
    monkeypatch.setattr(locking, "_PATIENCE", 600.0)


# At once


BUSY = """
import sys, threading
from functionfuse.storage.filestorage import FileStorage
root, me = sys.argv[1:]
storage = FileStorage(root)
storage.list_tasks("w")
print("up", flush=True)
sys.stdin.readline()
missed = []

def work(thread):
    for number in range(5):
        name = f"{me} {thread} {number}"
        storage.save("w", name, number)
        storage.save("shared", "result", name)
        if name not in storage.list_tasks("w"):
            missed.append(name)
        if number == 2:
            storage.remove_task("w", name)

threads = [threading.Thread(target=work, args=(thread,)) for thread in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(missed), flush=True)
"""


@pytest.mark.slow
def test_processes_and_threads_save_and_ask_at_once(storage: FileStorage) -> None:
    """Of two processes with two threads each, every question sees the saves before it, and in the end all is there."""
    root = root_of(storage)
    storage.save("w", "first", 1)
    with running_python(BUSY, root, "a") as one, running_python(BUSY, root, "b") as two:
        for process in (one, two):
            wait_for(process, "up")
        for process in (one, two):
            say(process, "go")
        for process in (one, two):
            wait_for(process, "0")
            assert process.wait() == 0
    expected = {f"{me} {thread} {number}" for me in "ab" for thread in (0, 1) for number in (0, 1, 3, 4)} | {"first"}
    assert set(storage.list_tasks("w")) == expected
    kinds = storage.catalog.sql("SELECT event, count(*) FROM events WHERE workflow = 'w' GROUP BY ALL ORDER BY ALL")
    assert kinds.fetchall() == [("remove", 4), ("save", 21)]
    (shared,) = storage.catalog.tasks("shared").project("value->>'$'").fetchall()
    assert shared == (storage.read_task("shared", "result"),)
    storage.catalog.refresh()
    index_of(storage).unlink()
    assert set(storage.list_tasks("w")) == expected


@pytest.mark.slow
def test_threads_ask_different_storages_at_once(tmp_path: Path) -> None:
    """Threads that ask several storages by all kinds of questions get the answers of their own storage."""
    storages = [FileStorage(tmp_path / str(number)) for number in range(3)]
    wrong: list[Any] = []

    def work(number: int) -> None:
        storage = storages[number]
        for count in range(4):
            storage.save("w", f"{number} {count}", number)
            if len(storage.list_tasks("w")) != count + 1:
                wrong.append((number, count))
            values = storage.catalog.sql("SELECT DISTINCT value->>'$' FROM tasks").fetchall()
            if values != [(str(number),)]:
                wrong.append(values)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Fork


FORKING = """
import os, sys
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
storage.save("w", "parent", 1)
answer = storage.catalog.tasks()
assert storage.list_tasks("w") == ["parent"]
child = os.fork()
if child == 0:
    storage.save("w", "child", 2)
    found = storage.list_tasks("w")
    rows = storage.catalog.sql("SELECT count(*) FROM events").fetchall()
    os._exit(0 if found == ["child", "parent"] and rows == [(2,)] else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), storage.list_tasks("w"), len(answer.fetchall()))
"""


def test_a_forked_child_asks(storage: FileStorage) -> None:
    """A child that was forked after questions asks questions of its own, and so does the parent after it."""
    assert run_python(FORKING, root_of(storage)).strip() == "0 ['child', 'parent'] 1"


FORKING_WITHIN = """
import os, sys, threading, time
from catalog.index.index import Index
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
storage.save("w", "a", 1)
asked, forked = threading.Event(), threading.Event()

def ask():
    with storage.catalog._index.question():
        asked.set()
        forked.wait()

thread = threading.Thread(target=ask)
thread.start()
asked.wait()
child = os.fork()
if child == 0:
    time.sleep(400)
forked.set()
thread.join()
print("forked", flush=True)
sys.stdin.readline()
os.kill(child, 9)
"""


def test_a_child_forked_in_the_midst_of_a_question_locks_nobody_out(
    storage: FileStorage, caplog: pytest.LogCaptureFixture, endless_patience: None
) -> None:
    """A child that was forked while another thread asked does not hold on to the index: others ask at once."""
    with running_python(FORKING_WITHIN, root_of(storage)) as process:
        wait_for(process, "forked")
        assert storage.list_tasks("w") == ["a"]
        assert caplog.messages == []
        say(process, "end")
        process.wait()


# Held by another program


HOLDING = """
import sys, duckdb
with duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reading") as connection:
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held(storage: FileStorage, how: str) -> Iterator[None]:
    """Have the index open in another program."""
    with running_python(HOLDING, index_of(storage), how) as process:
        wait_for(process, "held")
        yield


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reading", "writing"])
def test_an_index_that_another_program_has_open(
    storage: FileStorage, caplog: pytest.LogCaptureFixture, endless_patience: None, how: str
) -> None:
    """While a foreign program holds the index, a private one answers at once; that is said once a process."""
    storage.save("w", "a", 1)
    expected = task_rows(storage.catalog)
    location._reported.clear()
    with held(storage, how), caplog.at_level(logging.WARNING, "functionfuse.catalog"):
        assert task_rows(storage.catalog) == expected
        storage.save("w", "b", 2)
        assert storage.list_tasks("w") == ["a", "b"]
        assert storage.catalog.sql("SELECT count(*) FROM events").fetchall() == [(2,)]
    assert len(caplog.messages) == 1
    assert "another program" in caplog.messages[0]
    assert storage.list_tasks("w") == ["a", "b"]
    with duckdb.connect(str(index_of(storage)), read_only=True) as connection:
        assert connection.sql("SELECT count(*) FROM tasks").fetchall() == [(2,)]


def test_an_index_that_this_program_has_open(storage: FileStorage) -> None:
    """A user who opened the index in this very process is not robbed of it: questions are answered beside it."""
    storage.save("w", "a", 1)
    storage.list_tasks("w")
    before = index_of(storage).stat().st_ino
    with duckdb.connect(str(index_of(storage))) as connection:
        storage.save("w", "b", 1)
        assert storage.list_tasks("w") == ["a", "b"]
        assert connection.sql("SELECT count(*) FROM tasks").fetchall() == [(1,)]
    assert index_of(storage).stat().st_ino == before
    assert storage.list_tasks("w") == ["a", "b"]


def test_a_question_of_another_process_that_takes_long(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that holds the lock for longer than others are patient is not waited for."""
    storage.save("w", "a", 1)
    storage.list_tasks("w")
    monkeypatch.setattr(locking, "_PATIENCE", 0.2)
    with open(f"{index_of(storage)}.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert storage.list_tasks("w") == ["a"]


# Who may not write


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of all that is in a folder."""
    found = [path.stat() for path in [folder, *sorted(folder.rglob("*"))]]
    names = [str(path) for path in [folder, *sorted(folder.rglob("*"))]]
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, found, strict=True)}


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes storages read-only for this process; root may write everywhere, so it is told otherwise."""

    def deny(*folders: Path) -> None:
        access = os.access

        def guarded(path: Any, mode: int, **options: Any) -> bool:
            inside = any(str(path).startswith(str(folder)) for folder in folders)
            return not (inside and mode & os.W_OK) and access(path, mode, **options)

        monkeypatch.setattr(os, "access", guarded)

    return deny


def test_a_storage_that_may_not_be_written(storage: FileStorage, read_only: Any) -> None:
    """Who may only read a storage gets all answers, from an index in the cache directory, and touches nothing."""
    for name in ("a", "b"):
        storage.save("w", name, 1)
    expected = task_rows(storage.catalog)
    index_of(storage).unlink()
    before = everything(root_of(storage))
    read_only(root_of(storage))
    reader = Catalog.open(root_of(storage))
    assert task_rows(reader) == expected
    assert reader.sql("SELECT count(*) FROM events").fetchall() == [(2,)]
    assert everything(root_of(storage)) == before
    cached = list(Path(os.environ["XDG_CACHE_HOME"], "functionfuse").glob("*/catalog-*.duckdb"))
    assert len(cached) == 1


def test_a_reader_sees_what_writers_save(storage: FileStorage, read_only: Any) -> None:
    """A reader's private index is brought up to date by every question."""
    storage.save("w", "a", 1)
    read_only(root_of(storage))
    reader = Catalog.open(root_of(storage))
    assert task_names(reader) == [("w", "a")]
    storage.save("w", "b", 1)
    storage.remove_task("w", "a")
    assert task_names(reader) == [("w", "b")]


def test_private_indexes_are_not_mixed_up(tmp_path: Path, read_only: Any) -> None:
    """Storages, copies of one, and one that was begun again at its old place each have a private index of their own."""
    for name in ("one", "two"):
        FileStorage(tmp_path / name).save("w", name, 1)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    FileStorage(tmp_path / "copy").save("w", "only here", 1)
    read_only(tmp_path)
    readers = {name: Catalog.open(tmp_path / name) for name in ("one", "two", "copy")}
    for _ in range(2):
        assert task_names(readers["one"]) == [("w", "one")]
        assert task_names(readers["two"]) == [("w", "two")]
        assert task_names(readers["copy"]) == [("w", "one"), ("w", "only here")]
    shutil.rmtree(tmp_path / "one")
    FileStorage(tmp_path / "one").save("w", "begun again", 1)
    assert task_names(readers["one"]) == [("w", "begun again")]
    assert readers["one"].sql("SELECT task FROM events").fetchall() == [("begun again",)]


def test_an_older_storage_that_may_not_be_written(tmp_path: Path, read_only: Any) -> None:
    """A storage of the older format, without `.catalog`, is answered read-only too, and gets none."""
    import hashlib
    import pickle

    data = pickle.dumps(5)
    (tmp_path / "old" / "w").mkdir(parents=True)
    (tmp_path / "old" / "w" / "t").write_bytes(data + hashlib.sha1(data).digest())
    read_only(tmp_path / "old")
    assert task_names(Catalog.open(tmp_path / "old")) == [("w", "t")]
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["w"]


def test_a_cache_directory_at_the_usual_place(
    storage: FileStorage, read_only: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without XDG_CACHE_HOME the private index is in the home directory's `.cache`."""
    storage.save("w", "a", 1)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    read_only(root_of(storage))
    assert task_names(Catalog.open(root_of(storage))) == [("w", "a")]
    assert len(list((tmp_path / "home" / ".cache" / "functionfuse").glob("*/catalog-*.duckdb"))) == 1
