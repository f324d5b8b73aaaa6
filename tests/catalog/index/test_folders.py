"""What people do to the folder by hand: files that go, come, are copied, moved, or are no results at all."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from catalog.index import reconcile as settle
from catalog.index.history import History
from catalog.store import blobs
from catalog.store.local import LocalStore
from functionfuse.storage.filestorage import FileStorage
from workshop import (
    blob_id,
    delete_catalog,
    delete_index,
    history,
    index_of,
    journal_of,
    root_of,
    segments,
    task_names,
    task_rows,
)

MANY = 2_050  # more files than a question looks through every time


@pytest.fixture
def three(storage: FileStorage) -> FileStorage:
    """Return a storage with three results of a workflow, and one of another, that was asked."""
    for name in ("a", "b", "c"):
        storage.save("w", name, name)
    storage.save("v", "other", 1)
    storage.list_tasks("w")
    return storage


def path_of(storage: FileStorage, *parts: str) -> Path:
    """Return a path within a storage."""
    return root_of(storage).joinpath(*parts)


def older(obj: Any) -> bytes:
    """Return an object as IBM Function Fuse stores it: a pickle and its SHA-1."""
    data = pickle.dumps(obj)
    return data + hashlib.sha1(data).digest()


# What goes


def test_a_file_that_was_deleted_by_hand(three: FileStorage) -> None:
    """A deleted file is gone at the next question; its save stays in the history."""
    path_of(three, "w", "b").unlink()
    assert three.list_tasks("w") == ["a", "c"]
    assert task_names(three.catalog) == [("v", "other"), ("w", "a"), ("w", "c")]
    assert ("save", "b") in history(three.catalog)
    delete_index(three)
    assert three.list_tasks("w") == ["a", "c"]


def test_a_file_that_was_deleted_and_saved_again(three: FileStorage) -> None:
    """A result saved anew under the name of a deleted file is listed."""
    path_of(three, "w", "b").unlink()
    three.list_tasks("w")
    three.save("w", "b", "again")
    assert [row["value"] for row in task_rows(three.catalog) if row["task"] == "b"] == ['"again"']


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> FileStorage:
    """Return a storage with a folder of thousands of results, that was asked."""
    storage = FileStorage(tmp_path_factory.mktemp("crowded"))
    for number in range(MANY):
        storage.save("w", f"{number:04}", None)
    assert len(storage.list_tasks("w")) == MANY
    return storage


@pytest.mark.slow
def test_files_deleted_by_hand_from_a_large_folder(crowded: FileStorage) -> None:
    """Of thousands of files, one that was deleted is gone at the next question, and one copied in is there."""
    path_of(crowded, "w", "0007").unlink()
    assert crowded.list_tasks("w", "000[5-9]") == ["0005", "0006", "0008", "0009"]
    shutil.copy(path_of(crowded, "w", "0008"), path_of(crowded, "w", "copied"))
    assert crowded.list_tasks("w", "copied") == ["copied"]


def test_a_large_folder_in_which_results_are_saved(crowded: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a large folder in which results are being saved, a deletion by hand is seen later, a save at once."""
    monkeypatch.setattr(settle, "_RARELY", 2.0)
    crowded.catalog.rebuild()
    crowded.save("w", "saved", 1)
    assert crowded.list_tasks("w", "s*") == ["saved"]
    path_of(crowded, "w", "0009").unlink()
    crowded.save("w", "second", 1)
    assert crowded.list_tasks("w", "s*") == ["saved", "second"]
    deadline = time.monotonic() + 240
    while crowded.list_tasks("w", "0009") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert crowded.list_tasks("w", "0009") == []


def test_a_folder_that_takes_long_is_not_looked_through_each_time(
    crowded: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to look through a folder in which results are being saved, it is left alone afterwards."""
    looks: list[str] = []
    names = LocalStore.names
    monkeypatch.setattr(LocalStore, "names", lambda store, folder: looks.append(folder) or names(store, folder))
    monkeypatch.setattr(settle, "_RARELY", 1e9)
    crowded.catalog.rebuild()
    for number in range(3):
        crowded.save("w", f"saved {number}", 1)
        crowded.list_tasks("w", "1")
    assert looks == ["w"]


@pytest.mark.parametrize("asked", [True, False], ids=["asked before", "never asked"])
def test_a_workflow_that_was_deleted_by_hand(storage: FileStorage, asked: bool) -> None:
    """When a whole workflow folder was deleted, its tasks are gone, though the journal tells of them."""
    storage.save("w", "a", 1)
    storage.save("v", "b", 1)
    if asked:
        storage.list_tasks("w")
    shutil.rmtree(path_of(storage, "w"))
    assert task_names(storage.catalog) == [("v", "b")]
    delete_index(storage)
    assert task_names(storage.catalog) == [("v", "b")]


def test_what_went_does_not_come_back_with_the_journal(three: FileStorage) -> None:
    """A copy of the journal put back later does not list files that are gone."""
    saved = segments(three)[0].read_bytes()
    path_of(three, "w", "b").unlink()
    three.list_tasks("w")
    delete_index(three)
    (journal_of(three) / "back.ndjson").write_bytes(saved)
    assert three.list_tasks("w") == ["a", "c"]


# What comes


def test_a_copied_file_is_a_result_of_its_new_name(three: FileStorage) -> None:
    """A blob copied to another name is listed there with the columns of the original but its name."""
    shutil.copy(path_of(three, "w", "a"), path_of(three, "w", "copy"))
    rows = {row["task"]: row for row in task_rows(three.catalog)}
    assert {**rows["a"], "task": "copy"} == rows["copy"]
    assert three.read_task("w", "copy") == "a"
    delete_catalog(three)
    assert {row["task"]: row for row in task_rows(three.catalog)} == rows


def test_a_copy_is_overwritten_and_removed_as_any_result(three: FileStorage) -> None:
    """A copied result can be overwritten, removed and saved again, and the original stays as it is."""
    shutil.copy(path_of(three, "w", "a"), path_of(three, "w", "copy"))
    assert three.list_tasks("w", "copy") == ["copy"]
    three.save("w", "copy", "changed")
    values = {row["task"]: row["value"] for row in task_rows(three.catalog)}
    assert (values["a"], values["copy"]) == ('"a"', '"changed"')
    three.remove_task("w", "copy")
    assert three.list_tasks("w") == ["a", "b", "c"]


def test_a_moved_file(three: FileStorage) -> None:
    """A blob that was renamed by hand is listed under its new name only."""
    path_of(three, "w", "a").rename(path_of(three, "w", "z"))
    assert three.list_tasks("w") == ["b", "c", "z"]
    path_of(three, "w", "z").rename(path_of(three, "v", "z"))
    assert task_names(three.catalog) == [("v", "other"), ("v", "z"), ("w", "b"), ("w", "c")]
    path_of(three, "v", "z").rename(path_of(three, "w", "a"))
    assert three.list_tasks("w") == ["a", "b", "c"]


def test_a_workflow_that_was_copied(three: FileStorage) -> None:
    """A copy of a workflow's folder is a workflow with the same tasks."""
    shutil.copytree(path_of(three, "w"), path_of(three, "copy"))
    assert three.list_tasks("copy") == three.list_tasks("w") == ["a", "b", "c"]


def test_a_workflow_that_was_renamed(three: FileStorage) -> None:
    """A workflow's folder that was renamed is a workflow of its new name, and the old one is gone."""
    path_of(three, "w").rename(path_of(three, "new name"))
    assert task_names(three.catalog) == [("new name", "a"), ("new name", "b"), ("new name", "c"), ("v", "other")]
    assert three.list_tasks("w") == []


@pytest.mark.parametrize("copy", ["copytree", "times kept not"])
def test_a_storage_that_was_copied(three: FileStorage, tmp_path: Path, copy: str) -> None:
    """A copy of a whole storage answers as the original, and from then on each has its own results."""
    keep = {"copy_function": shutil.copy} if copy == "times kept not" else {}
    shutil.copytree(root_of(three), tmp_path / "twin", **keep)
    twin = FileStorage(tmp_path / "twin")
    assert task_rows(twin.catalog) == task_rows(three.catalog)
    assert history(twin.catalog) == history(three.catalog)
    twin.save("w", "mine", 1)
    three.remove_task("w", "a")
    assert twin.list_tasks("w") == ["a", "b", "c", "mine"]
    assert three.list_tasks("w") == ["b", "c"]


def test_a_blob_of_another_storage(three: FileStorage, tmp_path: Path) -> None:
    """A blob that was copied in from another storage is listed with what its footer says."""
    other = FileStorage(tmp_path / "other")
    other.save("w", "guest", {"accuracy": 1.0})
    shutil.copy(path_of(other, "w", "guest"), path_of(three, "w", "guest"))
    (guest,) = [row for row in task_rows(three.catalog) if row["task"] == "guest"]
    assert guest == task_rows(other.catalog)[0]


def test_files_of_the_older_format(three: FileStorage) -> None:
    """Files of IBM Function Fuse are taken in by the next question, with size, time and SHA-1."""
    content = older([1, 2])
    for name in ("old", "old %", "é"):
        path_of(three, "w", name).write_bytes(content)
    os.utime(path_of(three, "w", "old"), (1_600_000_000, 1_600_000_000))
    assert three.list_tasks("w") == ["a", "b", "c", "old", "old %", "é"]
    (row,) = [row for row in task_rows(three.catalog) if row["task"] == "old"]
    assert (row["size"], row["format"], row["serializers"]) == (len(content), 0, ["pickle"])
    assert row["checksum"] == f"sha1:{content[-20:].hex()}"
    assert row["saved_at"].replace(tzinfo=timezone.utc) == datetime.fromtimestamp(1_600_000_000, timezone.utc)
    before = task_rows(three.catalog)
    delete_catalog(three)
    assert task_rows(three.catalog) == before
    three.save("w", "old", "new")
    assert [row["format"] for row in task_rows(three.catalog) if row["task"] == "old"] == [3]


@pytest.mark.parametrize("seconds", [-1.5, -86_400, 0, 2**34 - 1])
def test_an_older_file_with_an_odd_time(three: FileStorage, seconds: float) -> None:
    """A file whose time is before 1970, or far in the future, is listed like any other."""
    path = path_of(three, "w", "odd")
    path.write_bytes(older(1))
    os.utime(path, (seconds, seconds))
    assert three.list_tasks("w") == ["a", "b", "c", "odd"]
    assert all(row["saved_at"] is not None for row in task_rows(three.catalog))


def test_two_files_of_one_name(storage: FileStorage) -> None:
    """Where the older format left a file under the raw form of a name that is encoded now, there is one task."""
    storage.save("w", "a%b", "new")
    path_of(storage, "w", "a%b").write_bytes(older("old"))
    for _ in range(2):
        assert storage.list_tasks("w") == ["a%b"]
        assert storage.read_task("w", "a%b") == "new"
        assert [row["value"] for row in task_rows(storage.catalog)] == ['"new"']
        delete_catalog(storage)


# What is no result


def clutter(storage: FileStorage) -> None:
    """Put into a storage what does not belong there."""
    blob = path_of(storage, "w", "a").read_bytes()
    for name, content in {
        "notes.txt": b"my notes",
        "empty": b"",
        "one byte": b"\x80",
        "table.csv": b"a,b\n1,2\n" * 1000,
        "bare pickle": pickle.dumps([1, 2]),
        "cut blob": blob[:-10],
        "damaged footer": blob[:-60] + b"XXXX" + blob[-56:],
        "only a trailer": blob[-40:],
        ".hidden": blob,
        ".123.tmp": blob,
        b"\xff\xfe".decode("utf-8", "surrogateescape"): b"no UTF-8",
    }.items():
        path_of(storage, "w", name).write_bytes(content)
        path_of(storage, name).write_bytes(content)
    path_of(storage, "w", "bigdata", "0189").mkdir(parents=True)
    path_of(storage, "w", "bigdata", "0189", "array").write_bytes(blob)
    path_of(storage, "w", "bigdata", "loose").write_bytes(blob)
    path_of(storage, "w", "a folder").mkdir()
    path_of(storage, "w", "dangling").symlink_to("nowhere")
    os.mkfifo(path_of(storage, "w", "pipe"))
    os.mkfifo(path_of(storage, "pipe"))
    path_of(storage, ".git").mkdir()
    path_of(storage, ".git", "blob").write_bytes(blob)
    path_of(storage, b"folder \xff".decode("utf-8", "surrogateescape")).mkdir()
    path_of(storage, "loop").symlink_to(".")


def test_what_is_no_result_is_left_alone(three: FileStorage) -> None:
    """Foreign files, folders, pipes, links, damaged blobs and the folder of side files are never tasks."""
    clutter(three)
    for _ in range(2):
        assert three.list_tasks("w") == ["a", "b", "c"]
        names = [name for name in task_names(three.catalog) if name[0] in ("v", "w")]
        assert names == [("v", "other"), ("w", "a"), ("w", "b"), ("w", "c")]
        delete_index(three)


def test_a_file_called_as_another_name(storage: FileStorage) -> None:
    """Where one task's file is called as another task is, each of the two goes and comes for itself."""
    storage.save("w", "x%2Fy", 1)
    storage.save("w", "x/y", 2)
    assert storage.list_tasks("w") == ["x%2Fy", "x/y"]
    path_of(storage, "w", "x%252Fy").rename(root_of(storage) / "aside")
    assert storage.list_tasks("w") == ["x/y"]
    path_of(storage, "w", "x%2Fy").rename(root_of(storage) / "aside too")
    (root_of(storage) / "aside").rename(path_of(storage, "w", "x%252Fy"))
    assert storage.list_tasks("w") == ["x%2Fy"]
    (root_of(storage) / "aside too").rename(path_of(storage, "w", "x%2Fy"))
    assert storage.list_tasks("w") == ["x%2Fy", "x/y"]


def test_names_that_are_no_utf_8(three: FileStorage) -> None:
    """A blob in a folder, under a name, that are no UTF-8 is listed, and questions go on after it."""
    folder = root_of(three) / b"folder \xff".decode("utf-8", "surrogateescape")
    folder.mkdir()
    shutil.copy(path_of(three, "w", "a"), folder / b"\xfe".decode("utf-8", "surrogateescape"))
    for expected in (["\udcfe"], ["new", "\udcfe"]):
        assert three.list_tasks("folder \udcff") == expected
        assert three.list_tasks("folder \udcff") == expected
        three.save("folder \udcff", "new", 1)


def test_names_that_look_cut_and_are_no_utf_8(three: FileStorage) -> None:
    """A folder and a file of the older format whose names look cut, and are no UTF-8, are a workflow and a task."""
    odd = os.fsdecode(b"x%~\xff")
    path_of(three, odd).mkdir()
    assert three.list_tasks("w") == ["a", "b", "c"]
    for folder in ("w", odd):
        path_of(three, folder, odd).write_bytes(older(1))
    for workflow, tasks in (("w", ["a", "b", "c", odd]), (odd, [odd])):
        assert three.list_tasks(workflow) == tasks
    before = segments(three)
    assert three.list_tasks("w") == ["a", "b", "c", odd]
    assert three.list_tasks(odd) == [odd]
    assert segments(three) == before


def test_a_workflow_that_goes_while_they_are_listed(three: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow that is removed while the folders are listed is gone, and no result of another one is looked at."""
    scandir, look_at = os.scandir, blobs.blob_at
    looked_at: list[str] = []

    @contextmanager
    def removing(path: Any) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            found = list(entries)
        if str(path).rstrip("/") == three.catalog.path:
            shutil.rmtree(path_of(three, "v"))
        yield found

    def counted(store: LocalStore, folder: str, file: str) -> Any:
        looked_at.append(f"{folder}/{file}")
        return look_at(store, folder, file)

    monkeypatch.setattr(blobs, "blob_at", counted)
    monkeypatch.setattr(os, "scandir", removing)
    names = three.list_tasks("w")
    monkeypatch.undo()
    assert names == ["a", "b", "c"]
    assert looked_at == ["v/other"]


def test_a_folder_that_may_not_be_read(three: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign folder that this user may not list, as `lost+found`, is no workflow, and no obstacle."""
    path_of(three, "lost+found").mkdir()
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert three.list_tasks("w") == ["a", "b", "c"]


def test_a_damaged_blob_stays_listed(three: FileStorage) -> None:
    """A result whose file was damaged later is still listed, as reading it says what is wrong."""
    path = path_of(three, "w", "b")
    os.truncate(path, 20)
    three.save("w", "d", 1)
    assert three.list_tasks("w") == ["a", "b", "c", "d"]


def test_names_beside_a_folder_of_that_name(three: FileStorage) -> None:
    """A task called as the folder of side files is a task, and the folder is none."""
    three.save("w", "bigdata", 1)
    three.save("bigdata", "bigdata", 2)
    path_of(three, "w", "bigdata").mkdir(exist_ok=True)
    assert three.list_tasks("w") == ["a", "b", "bigdata", "c"]
    assert three.list_tasks("bigdata") == ["bigdata"]
    three.remove_task("w", "bigdata")
    assert three.list_tasks("w") == ["a", "b", "c"]


def test_a_question_at_which_nothing_is_new_writes_nothing(three: FileStorage) -> None:
    """Asked twice with nothing in between, the second question leaves the index's bytes and time as they are."""
    three.list_tasks("w")
    before = index_of(three).stat().st_mtime_ns, index_of(three).read_bytes()
    for _ in range(3):
        three.list_tasks("w")
        three.catalog.tasks()
    assert (index_of(three).stat().st_mtime_ns, index_of(three).read_bytes()) == before


def test_the_id_of_a_copy_is_the_same_for_everyone(three: FileStorage, tmp_path: Path) -> None:
    """Two indexes of one storage give a copied blob the same event, so that they can be compared."""
    shutil.copy(path_of(three, "w", "a"), path_of(three, "w", "copy"))
    query = "SELECT event_id::VARCHAR FROM events WHERE task = 'copy'"
    first = three.catalog.sql(query).fetchall()
    delete_index(three)
    assert three.catalog.sql(query).fetchall() == first
    assert first != [(blob_id(three, "w", "a"),)]


# Many folders

LONG = "a long name " * 30  # of which the folder's name keeps only a digest


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the SQL that looking through folders will run."""
    said: list[str] = []
    for name in ("run", "rows"):
        run = getattr(History, name)

        def noted(self: History, sql: str, *parameters: object, run: Any = run) -> Any:
            said.append(sql)
            return run(self, sql, *parameters)

        monkeypatch.setattr(History, name, noted)
    return said


@pytest.mark.parametrize("journal", [True, False], ids=["told by the journal", "of which only the files tell"])
def test_a_workflow_more_takes_no_statement_more(tmp_path: Path, statements: list[str], journal: bool) -> None:
    """The statements of a first question do not grow with the number of workflows."""
    counts = []
    for number in (3, 40):
        storage = FileStorage(tmp_path / str(number))
        for at in range(number):
            storage.save(f"workflow {at}", "a", at)
        if not journal:
            delete_catalog(storage)
        statements.clear()
        assert len(task_names(storage.catalog)) == number
        counts.append(len(statements))
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
def test_what_came_and_went_in_many_folders(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However folders are taken together, each is held against its own names."""
    expected = set()
    for at, workflow in enumerate((*(f"w{at}" for at in range(12)), "ü/%", LONG, f"{LONG}2")):
        for task in ("a", "b", "%61", LONG)[: 1 + at % 4]:
            storage.save(workflow, task, at)
            expected.add((workflow, task))
    assert set(task_names(storage.catalog)) == expected
    for at_once in (0, 5, 1_000):
        monkeypatch.setattr(settle, "_SMALL_FOLDER", at_once)
        for folder in (folder for folder in root_of(storage).iterdir() if folder.name[0] != "."):
            (first,) = (file for file in folder.iterdir() if file.name == "a")
            first.rename(folder / f"moved {at_once}")
        expected = {(workflow, f"moved {at_once}" if task == "a" else task) for workflow, task in expected}
        assert set(task_names(storage.catalog)) == expected
        for folder in (folder for folder in root_of(storage).iterdir() if folder.name[0] != "."):
            (folder / f"moved {at_once}").rename(folder / "a")
        expected = {(workflow, "a" if task.startswith("moved") else task) for workflow, task in expected}
        assert set(task_names(storage.catalog)) == expected
    for name in ("w3", "w5", "w7"):
        shutil.rmtree(path_of(storage, name))
    expected = {(workflow, task) for workflow, task in expected if workflow not in ("w3", "w5", "w7")}
    assert set(task_names(storage.catalog)) == expected
