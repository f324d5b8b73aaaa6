"""The index is only a cache: deleted, damaged or foreign, it is built anew from journal and blobs, unasked."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from catalog import Catalog
from catalog.errors import NewerFormat
from catalog.format.record import Origin
from functionfuse.storage.filestorage import FileStorage
from workshop import (
    delete_catalog,
    delete_index,
    history,
    index_of,
    journal_of,
    lines,
    root_of,
    running_python,
    say,
    segments,
    task_names,
    task_rows,
    wait_for,
)

RUN = "01890000-0000-7000-8000-000000000001"


def fill(storage: FileStorage) -> None:
    """Save results of many kinds, overwrite, remove, and tell of a run."""
    origin = Origin(run_id=RUN, function="f", code_fingerprint="c", inputs={"x": "1"}, parents=("p",), duration=0.5)
    storage.note("run-started", "w", RUN, {"backend": "local"})
    storage.keep("w", "a", {"accuracy": 0.5}, origin)
    storage.save("w", "a", {"accuracy": 0.75})
    storage.keep("w", "kept", {"accuracy": float("nan"), "é😀": "\udc80"}, origin)
    for number, name in enumerate(["a/b", "..", ".hidden", "nul\0", "%41", "\udc80", "long" * 75, "bigdata", "é😀"]):
        storage.save("w", name, number)
        storage.save(name, "t", number)
    storage.save("w", "gone", 1)
    storage.remove_task("w", "gone")
    storage.save("other", "big", b"x" * 100_000)
    storage.note("run-finished", "w", RUN, {"status": "finished", "computed": 2, "restored": 0})


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a storage with all that, of which tests take copies."""
    storage = FileStorage(tmp_path_factory.mktemp("filled"))
    fill(storage)
    storage.list_tasks("w")
    return root_of(storage)


@pytest.fixture
def full(filled: Path, tmp_path: Path) -> FileStorage:
    """Return a storage of its own with all that; the path has words that DuckDB's messages have too."""
    shutil.copytree(filled, tmp_path / "lock block")
    return FileStorage(tmp_path / "lock block")


def known(catalog: Catalog) -> tuple[Any, ...]:
    """Return all that the three tables say."""
    runs = catalog.sql("FROM runs ORDER BY ALL").fetchall()
    return task_rows(catalog), catalog.sql("FROM events ORDER BY event_id").fetchall(), runs


@pytest.fixture(scope="module")
def expected(filled: Path) -> tuple[Any, ...]:
    """Return all that the catalog of the storage says."""
    return known(Catalog.open(filled))


def garbage(path: Path) -> None:
    """Overwrite a file with random bytes."""
    path.write_bytes(random.Random(1).randbytes(50_000))


def cut(size: float) -> Callable[[Path], None]:
    """Return what cuts a file to a part of its size."""
    return lambda path: os.truncate(path, int(path.stat().st_size * size))


def scratched(where: float) -> Callable[[Path], None]:
    """Return what overwrites a block within a file."""

    def scratch(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(int(path.stat().st_size * where))
            file.write(random.Random(2).randbytes(8192))

    return scratch


def changed(sql: str) -> Callable[[Path], None]:
    """Return what runs a statement in an index."""

    def change(path: Path) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute(sql).fetchall()

    return change


def half_made(path: Path) -> None:
    """Leave an index whose making was cut short before its tables were there."""
    path.unlink()
    with duckdb.connect(str(path)):
        pass


def of_text(path: Path) -> None:
    """Put a text in place of an index."""
    path.write_text("SQLite format 3\0 or whatever")


DAMAGES = {
    "deleted": Path.unlink,
    "emptied": cut(0),
    "one byte": lambda path: path.write_bytes(b"x"),
    "cut within the header": cut(0.001),
    "cut in half": cut(0.5),
    "cut at its end": cut(0.98),
    "garbage": garbage,
    "another file": of_text,
    "header scratched": scratched(0),
    "scratched in the middle": scratched(0.5),
    "another version": changed("UPDATE meta SET schema_version = 99"),
    "no version": changed("DELETE FROM meta"),
    "another storage's": changed("UPDATE meta SET storage = 'other'"),
    "half made": half_made,
    "no meta": changed("DROP TABLE meta"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_built_anew(full: FileStorage, expected: tuple[Any, ...], damage: str) -> None:
    """Whatever happened to the index's file, the next question answers as if nothing had, and heals it."""
    full.list_tasks("w")
    DAMAGES[damage](index_of(full))
    assert full.list_tasks("w", "a*") == ["a", "a/b"]
    assert known(full.catalog) == expected
    with duckdb.connect(str(index_of(full)), read_only=True) as connection:
        assert connection.sql("SELECT count(*) FROM tasks").fetchall() == [(len(expected[0]),)]


def test_a_stale_log_beside_the_index(full: FileStorage, expected: tuple[Any, ...]) -> None:
    """A write-ahead log of DuckDB that does not belong to the index does no harm."""
    index_of(full).with_suffix(".duckdb.wal").write_bytes(random.Random(3).randbytes(5000))
    assert known(full.catalog) == expected


def test_the_index_of_another_storage(full: FileStorage, storage: FileStorage) -> None:
    """An index that was copied from another storage is not believed, though it is sound."""
    storage.save("w", "mine", 1)
    storage.list_tasks("w")
    shutil.copy(index_of(full), index_of(storage))
    assert task_names(storage.catalog) == [("w", "mine")]
    assert history(storage.catalog) == [("save", "mine")]


def test_all_comes_back_from_the_blobs(full: FileStorage) -> None:
    """Without `.catalog` at all, every column of every task is as before: time, size, checksum, id and the others."""
    before = task_rows(full.catalog)
    assert len(before) >= 20
    delete_catalog(full)
    assert task_rows(full.catalog) == before
    again = history(full.catalog)
    assert len(again) == len(before)
    assert {event for event, _ in again} == {"save"}


def test_a_lost_journal_is_no_loss_to_the_index(full: FileStorage) -> None:
    """When only the journal is lost, tasks and history stay, and later saves begin a new one."""
    before = known(full.catalog)
    shutil.rmtree(journal_of(full))
    assert known(full.catalog) == before
    full.save("w", "later", 1)
    assert ("w", "later") in task_names(full.catalog)
    assert len(full.catalog.sql("FROM events").fetchall()) == len(before[1]) + 1
    assert [line["task"] for line in lines(full)] == ["later"]


def test_a_lost_segment_is_made_up_for_by_its_blobs(storage: FileStorage) -> None:
    """Results whose segment was deleted before any question are found in the folder, with all columns."""
    storage.save("w", "a", 1)
    before = task_rows(storage.catalog)
    delete_index(storage)
    for segment in segments(storage):
        segment.unlink()
    assert task_rows(storage.catalog) == before
    assert history(storage.catalog) == [("save", "a")]


def test_a_folder_that_was_deleted_and_begun_again(full: FileStorage) -> None:
    """A storage that is deleted and begun again at its old place shows nothing of what was there before."""
    full.list_tasks("w")
    shutil.rmtree(root_of(full))
    full.save("w", "new", 1)
    assert task_names(full.catalog) == [("w", "new")]
    assert history(full.catalog) == [("save", "new")]


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", "[]", '{"uuid": "x"}', '{"uuid": "x", "format": "y"}'])
def test_a_torn_identity_counts_as_absent(full: FileStorage, content: str) -> None:
    """A storage whose identity was torn, as by a power cut, answers as before."""
    before = task_rows(full.catalog)
    (root_of(full) / ".catalog" / "storage.json").write_text(content)
    assert task_rows(full.catalog) == before


def test_a_newer_storage_is_an_error(full: FileStorage) -> None:
    """A storage of a newer format is refused, and nothing in it is touched."""
    (root_of(full) / ".catalog" / "storage.json").write_text('{"uuid": "x", "format": 99}')
    before = index_of(full).read_bytes()
    with pytest.raises(NewerFormat, match="install a newer"):
        full.catalog.names("w")
    assert index_of(full).read_bytes() == before


ASKING = """
import sys
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1])
number = int(sys.argv[2])
storage.list_tasks("w")
print("up", flush=True)
sys.stdin.readline()
while True:
    storage.save("w", f"{number:06}", number)
    storage.list_tasks("w")
    number += 1
"""


@pytest.mark.slow
def test_questions_that_are_killed(storage: FileStorage) -> None:
    """Processes killed by SIGKILL in the midst of questions leave an index that is used or built anew, never wrong."""
    chance = random.Random(4)
    for round_ in range(4):
        with running_python(ASKING, root_of(storage), round_ * 1000) as process:
            wait_for(process, "up")
            say(process, "go")
            time.sleep(chance.uniform(0.05, 0.4))
            process.kill()
            process.wait()
        stored = sorted(path.name for path in (root_of(storage) / "w").iterdir() if path.name.isdigit())
        assert storage.list_tasks("w") == stored
        assert len(storage.catalog.sql("SELECT DISTINCT task FROM events").fetchall()) == len(stored)
