"""Storages that released versions wrote stay readable, with the index that they came with, another one, or none."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy
import pytest

from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import NoteSerializer
from oracle import listed, lying
from tests.fixtures.make_format_1 import EVENTS, FIELD, FOLDER, INDEX, RESULTS
from tests.fixtures.make_format_2 import FOLDER as FORMAT_2
from tests.fixtures.make_format_2 import RESULT

JOURNAL = FOLDER.with_name("format-1-journal.zip")  # its segments, compacted
NAMES = {*RESULTS, ("values", "field"), ("values", "settings")}
LISTED = ("awkward", "../../up", "\u00fc" * 200)  # workflows to list; the rest is asked for at once


def no_index(folder: Path) -> None:
    """Leave the storage without an index."""


def its_index(folder: Path) -> None:
    """Put the index there that it came with, which has not seen the last save."""
    with zipfile.ZipFile(INDEX) as archive:
        archive.extractall(folder)


def ask_of_index(folder: Path, *statements: str) -> None:
    """Change the index that it came with."""
    its_index(folder)
    with duckdb.connect(folder / "catalog.duckdb") as connection:
        for statement in statements:
            connection.execute(statement).fetchall()


def older_index(folder: Path) -> None:
    """Put an index there of a version before all released ones, with rows that are wrong and a table less."""
    ask_of_index(folder, "UPDATE meta SET schema_version = 0", "UPDATE latest SET task = 'wrong'", "DROP TABLE folders")


def anothers_index(folder: Path) -> None:
    """Put another storage's index there."""
    ask_of_index(folder, "UPDATE meta SET storage = 'another'", "UPDATE latest SET task = 'wrong'")


def cut_index(folder: Path) -> None:
    """Put half an index there."""
    its_index(folder)
    path = folder / "catalog.duckdb"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def compacted(folder: Path) -> None:
    """Put the journal there as it was compacted."""
    shutil.rmtree(folder / "journal")
    with zipfile.ZipFile(JOURNAL) as archive:
        archive.extractall(folder / "journal")


INDEXES = [no_index, its_index, older_index, anothers_index, cut_index, compacted]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a copy of the storage of format 1."""
    return Path(shutil.copytree(FOLDER, tmp_path / "storage"))


@pytest.fixture
def storage(root: Path) -> FileStorage:
    """Return the storage, which has not been asked anything."""
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    return storage


def test_values(storage: FileStorage) -> None:
    """Every result is read as it was saved: plain, by value, with buffers, with side files, of any name."""
    assert {(workflow, task): storage.read_task(workflow, task) for workflow, task in RESULTS} == RESULTS
    field = storage.read_task("values", "field")
    numpy.testing.assert_array_equal(field["field"], FIELD)
    assert field["unit"] == "T"
    assert storage.read_task("values", "settings").rate == 0.1


@pytest.mark.slow
@pytest.mark.parametrize("put_index", INDEXES)
def test_catalog(storage: FileStorage, root: Path, put_index: Callable[[Path], None]) -> None:
    """The catalog lists just what lies there, knows the history and the runs, and goes on from there."""
    put_index(root / ".catalog")
    for workflow in LISTED:
        assert storage.list_tasks(workflow) == sorted(task for name, task in NAMES if name == workflow)
    assert listed(storage) == lying(root)
    history = storage.catalog.sql("SELECT event, task FROM events WHERE workflow = 'history' ORDER BY event_id")
    assert [event for event, _ in history.fetchall()] == EVENTS
    assert "never" not in {task for _, task in history.fetchall()}
    runs = storage.catalog.sql("SELECT workflow, backend, status, computed, restored FROM runs ORDER BY workflow")
    assert runs.fetchall() == [("failed run", "local", "failed", 0, 0), ("run", "local", "finished", 2, 0)]
    assert storage.catalog.refresh().torn == 1
    storage.save("history", "overwritten", "fourth")
    storage.remove_task("history", "again")
    assert storage.list_tasks("history") == ["after the index", "overwritten"]
    assert listed(storage) == lying(root)


@pytest.mark.slow
@pytest.mark.parametrize("put_index", INDEXES)
def test_columns(storage: FileStorage, root: Path, put_index: Callable[[Path], None]) -> None:
    """What was recorded with a result then is in the columns of today."""
    put_index(root / ".catalog")
    columns = """type, value->>'accuracy', summary->>'length', serializers, format, host, "user", pid, python"""
    rows = storage.catalog.sql(f"SELECT {columns} FROM tasks WHERE task = 'metrics'").fetchall()
    assert rows == [("dict", "0.93", "2", ["pickle"], 1, "node-1", "ann", 4242, "3.11.2")]
    made = """SELECT child.function, child.parents, child.inputs->>'numbers' = 'blob:' || parent.blob_id,
    child.duration > 0, child.code_fingerprint IS NOT NULL, child.run_id = runs.run_id
    FROM tasks child, tasks parent, runs WHERE child.task = 'mean' AND parent.task = 'load' AND runs.workflow = 'run'"""
    assert storage.catalog.sql(made).fetchall() == [("__main__.mean", ["load"], True, True, True, True)]
    failed = storage.catalog.sql("SELECT task, details->>'error' FROM events WHERE event = 'task-failed'").fetchall()
    assert failed == [("invert", "ZeroDivisionError('division by zero')")]


def test_blobs_alone(storage: FileStorage, root: Path) -> None:
    """Without journal, identity and index, the blobs give back all that is there."""
    shutil.rmtree(root / ".catalog")
    assert listed(storage) == lying(root)
    assert len(lying(root)) == len(NAMES)


def test_compressed_buffers(tmp_path: Path) -> None:
    """What was compressed in format 2 is read, and listed with both its sizes."""
    root = Path(shutil.copytree(FORMAT_2, tmp_path / "storage"))
    storage = FileStorage(root)
    found = storage.read_task("values", "packed")
    assert found.keys() == RESULT.keys()
    for name, part in RESULT.items():
        numpy.testing.assert_array_equal(found[name], part)
    places = storage.footer("values", "packed").record.buffers
    assert [len(place) for place in places] == [6, 2, 6]
    rows = storage.catalog.sql("SELECT task, format, size, logical_size FROM tasks ORDER BY task").fetchall()
    sizes = {name: (root / "values" / name).stat().st_size for name in ("packed", "plain")}
    saved = sum(place[2] - place[1] for place in places if len(place) > 2)
    assert rows == [
        ("packed", 2, sizes["packed"], sizes["packed"] + saved),
        ("plain", 1, sizes["plain"], sizes["plain"]),
    ]
    assert listed(storage) == lying(root)


def test_side_files_go_too(storage: FileStorage, root: Path) -> None:
    """Removing and overwriting take the side files along."""
    assert len(list(root.glob("values/bigdata/*/*"))) == 2
    storage.remove_task("values", "notes")
    assert list(root.glob("values/bigdata/*/*")) == []


def test_an_index_of_a_newer_version_is_left_alone(storage: FileStorage, root: Path) -> None:
    """Another machine may use it with a newer library: it keeps every byte, and the answer comes from elsewhere."""
    storage.catalog.refresh()  # its index is of this version now, whichever wrote the storage
    path = root / ".catalog" / "catalog.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute("UPDATE meta SET schema_version = 1_000_000; DROP TABLE folders").fetchall()
    before = path.read_bytes()
    for workflow in LISTED:
        assert storage.list_tasks(workflow) == sorted(task for name, task in NAMES if name == workflow)
    storage.save("history", "more", 1)
    assert "more" in storage.list_tasks("history")
    assert path.read_bytes() == before
