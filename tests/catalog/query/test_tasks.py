"""`catalog.tasks`: its filters, its columns, and the relation that it returns."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from catalog import Catalog
from catalog.errors import CatalogUnusable, InvalidQuestion
from catalog.format import author
from catalog.format.columns import TASKS
from catalog.format.record import Origin
from functionfuse.storage.filestorage import FileStorage
from workshop import blob_id, index_of, run_python, task_names, task_rows


class Box:
    """A value that a serializer takes over."""

    def __init__(self, content: bytes) -> None:
        self.content = content


class BoxSerializer:
    """Keeps a box in a file of its own."""

    name = "BoxSerializer"
    serializer_class = Box

    @classmethod
    def pickle(cls, obj: Box, protocols: Any) -> tuple[str, str]:
        """Write the content."""
        with protocols["file_protocol"].open("box", "wb") as file:
            file.write(obj.content)
        return cls.name, "box"

    @classmethod
    def unpickle(cls, pid: Any, protocols: Any) -> Box:
        """Read the content."""
        with protocols["file_protocol"].open(pid[1], "rb") as file:
            return Box(file.read())

    @classmethod
    def remove(cls, pid: Any, protocols: Any) -> None:
        """Delete the file."""
        protocols["file_protocol"].remove(pid[1])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> FileStorage:
    """Return a storage with results of several types, sizes, times, workflows and serializers."""
    storage = FileStorage(tmp_path_factory.mktemp("kept"))
    storage.register_persistent_serializers(BoxSerializer)
    results = {
        ("fit", "load"): b"x" * 5000,
        ("fit", "model_1"): {"accuracy": 0.91, "kind": "tree"},
        ("fit", "model_2"): {"accuracy": 0.97, "kind": "forest"},
        ("fit", "Model_3"): {"accuracy": 0.5},
        ("plot", "box"): Box(b"y" * 10_000),
        ("plot", "count"): 42,
    }
    real = author.time
    try:
        for minute, ((workflow, task), result) in enumerate(results.items()):
            seconds = datetime.fromisoformat(f"2026-05-01T10:{minute:02d}:00+00:00").timestamp()
            author.time = SimpleNamespace(time=lambda seconds=seconds: seconds)  # type: ignore[assignment]
            storage.save(workflow, task, result)
    finally:
        author.time = real
    return storage


ALL = ["Model_3", "load", "model_1", "model_2", "box", "count"]  # by workflow, then task, as bytes sort


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({}, ALL),
        ({"workflow": "fit"}, ALL[:4]),
        ({"workflow": "f*"}, ALL[:4]),
        ({"workflow": "F*"}, []),
        ({"workflow": "[!f]*"}, ["box", "count"]),
        ({"task": "model_?"}, ["model_1", "model_2"]),
        ({"task": "[mM]odel_*"}, ["Model_3", "model_1", "model_2"]),
        ({"workflow": "plot", "task": "*o*"}, ["box", "count"]),
        ({"serializer": "BoxSerializer"}, ["box"]),
        ({"serializer": "pickle"}, ALL),
        ({"serializer": "Box"}, []),
        ({"serializer": "\udc80"}, []),
        ({"type": "dict"}, ["Model_3", "model_1", "model_2"]),
        ({"type": "*.Box"}, ["box"]),
        ({"type": "b*"}, ["load"]),
        ({"min_size": 5000}, ["load", "box"]),
        ({"min_size": 10_000}, ["box"]),  # side files count
        ({"max_size": 4999}, ["Model_3", "model_1", "model_2", "count"]),
        ({"min_size": 5000, "max_size": 9999}, ["load"]),
        ({"min_size": 5001, "max_size": 5000}, []),
        ({"since": "2026-05-01T10:04:00Z"}, ["box", "count"]),
        ({"until": "2026-05-01T10:02:00Z"}, ["load", "model_1"]),
        ({"since": "2026-05-01T10:01:00Z", "until": "2026-05-01T10:03:00Z", "task": "*1"}, ["model_1"]),
        ({"limit": 2}, ALL[:2]),
        ({"limit": 0}, []),
        ({"limit": 99}, ALL),
        ({"order_by": "saved_at"}, ["load", "model_1", "model_2", "Model_3", "box", "count"]),
        ({"order_by": "saved_at DESC", "limit": 2}, ["count", "box"]),
        ({"order_by": "size desc", "limit": 2}, ["box", "load"]),
        ({"order_by": "workflow DESC, task ASC"}, ["box", "count", "Model_3", "load", "model_1", "model_2"]),
        ({"order_by": " type ,task", "limit": 1}, ["load"]),
    ],
)
def test_filters_and_order(kept: FileStorage, question: dict[str, Any], expected: list[str]) -> None:
    """Each filter keeps what it says, filters add up, and rows come in the order that was asked for."""
    assert [task for _, task, *_ in kept.catalog.tasks(**question).fetchall()] == expected


@pytest.mark.parametrize(
    "question",
    [
        {"limit": -1},
        {"limit": True},
        {"limit": "5"},
        {"limit": 2.5},
        {"order_by": "age"},
        {"order_by": "size; DROP TABLE latest"},
        {"order_by": "size SIDEWAYS"},
        {"order_by": "task,"},
        {"order_by": ["size"]},
        {"since": "2026-05-02", "until": "2026-05-01"},
        {"since": "now"},
        {"workflow": None},
        {"task": 5},
        {"type": dict},
        {"serializer": 5},
        {"min_size": "big"},
        {"max_size": "small"},
    ],
    ids=str,
)
def test_a_filter_that_makes_no_sense(kept: FileStorage, question: dict[str, Any]) -> None:
    """A filter that cannot be understood is refused as such, whichever it is."""
    with pytest.raises(InvalidQuestion):
        kept.catalog.tasks(**question)


def test_what_is_refused_names_what_is_known(kept: FileStorage) -> None:
    """The message about an unknown column lists those that there are."""
    with pytest.raises(InvalidQuestion, match=r"age.*columns:.*saved_at.*size"):
        kept.catalog.tasks(order_by="age")


def test_there_is_no_catalog_without_a_storage(tmp_path: Path) -> None:
    """A question about a folder that is not there is refused, names it, and makes nothing."""
    with pytest.raises(CatalogUnusable, match="absent"):
        Catalog.open(tmp_path / "absent").tasks()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_storage_has_no_tasks(storage: FileStorage) -> None:
    """A storage in which nothing was saved yet answers with all columns and no row."""
    storage.new_workflow("w")
    answer = storage.catalog.tasks()
    assert answer.columns == [column.name for column in TASKS]
    assert answer.fetchall() == []
    assert storage.list_tasks("w") == []


# Columns


def test_the_columns_of_a_save(storage: FileStorage) -> None:
    """A row holds what DESIGN.md promises, each in its type and unit, for a result saved by hand."""
    before = datetime.now(timezone.utc)
    storage.save("w", "t", {"accuracy": 0.5, "names": ["a", None]})
    (row,) = task_rows(storage.catalog)
    path = Path(storage.catalog.path) / "w" / "t"
    assert list(row) == [column.name for column in TASKS]
    assert (row["workflow"], row["task"], row["serializers"]) == ("w", "t", ["pickle"])
    assert row["size"] == path.stat().st_size
    assert timedelta(seconds=-1) < row["saved_at"] - before < timedelta(minutes=1)
    assert str(row["blob_id"]) == blob_id(storage, "w", "t")
    assert row["checksum"] == f"xxh3:{path.read_bytes()[-40:-24].hex()}"
    assert (row["format"], row["type"]) == (3, "dict")
    assert row["value"] == '{"accuracy":0.5,"names":["a",null]}'
    assert row["summary"] == '{"length":2,"keys":["accuracy","names"]}'
    assert (row["pid"], row["host"]) == (os.getpid(), os.uname().nodename)
    assert row["user"]
    assert row["python"].startswith("3.")
    assert row["packages"] == "{}"
    unknown = ("run_id", "function", "code_fingerprint", "inputs", "parents", "duration")
    assert {row[name] for name in unknown} == {None}


def test_the_types_of_the_columns(kept: FileStorage) -> None:
    """The columns have the types that the schema says; JSON and UUID may be text."""
    found = {
        name: str(type) for name, type in zip(kept.catalog.tasks().columns, kept.catalog.tasks().types, strict=True)
    }
    assert found["saved_at"] == "TIMESTAMP WITH TIME ZONE"
    assert {found[name] for name in ("size", "pid")} == {"BIGINT"}
    assert {found[name] for name in ("serializers", "parents")} == {"VARCHAR[]"}
    assert (found["format"], found["duration"]) == ("INTEGER", "DOUBLE")
    assert {found[name] for name in ("workflow", "task", "checksum", "type", "host", "user", "python")} == {"VARCHAR"}


def test_where_a_result_came_from(storage: FileStorage) -> None:
    """What a run adds to a record is found in the columns of its names."""
    run = "01890000-0000-7000-8000-00000000000a"
    inputs = {"x": "i1", "y": None}
    origin = Origin(run_id=run, function="model", code_fingerprint="f1", inputs=inputs, parents=("load",), duration=1.5)
    storage.keep("w", "t", 1, origin)
    (row,) = task_rows(storage.catalog)
    assert (str(row["run_id"]), row["function"], row["code_fingerprint"]) == (run, "model", "f1")
    assert (row["inputs"], row["parents"], row["duration"]) == ('{"x":"i1","y":null}', ["load"], 1.5)


def test_side_files_count(kept: FileStorage) -> None:
    """The size of a result with side files is that of the blob and the side files."""
    blob = Path(kept.catalog.path, "plot", "box").stat().st_size
    assert kept.catalog.tasks(task="box").project("size").fetchall() == [(blob + 10_000,)]


def test_an_overwrite_changes_the_row(storage: FileStorage) -> None:
    """After an overwrite there is one row, of the new result."""
    storage.save("w", "t", 1)
    before = task_rows(storage.catalog)
    storage.save("w", "t", "two")
    (row,) = task_rows(storage.catalog)
    assert (row["type"], row["value"], str(row["blob_id"])) == ("str", '"two"', blob_id(storage, "w", "t"))
    assert row["blob_id"] > before[0]["blob_id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a/b", "..", ".hidden", "nul\0", "\n", "%41", "%", "emoji 😀", "\udc80", "x" * 300, "bigdata"]
)
def test_awkward_names_are_rows(storage: FileStorage, name: str) -> None:
    """A name that no file can have is one row, and is found by itself."""
    storage.save(name, name, 1)
    assert storage.list_tasks(name, "*") == [name]
    assert len(task_names(storage.catalog)) == 1
    storage.remove_task(name, name)
    assert task_names(storage.catalog) == []


# The relation


def ask(storage: FileStorage) -> duckdb.DuckDBPyRelation:
    """Ask for the models, ranked."""
    return storage.catalog.tasks("fit", "model_*", order_by="task")


def test_the_answer_as_rows_and_columns(kept: FileStorage) -> None:
    """`.columns` and `.fetchall()` work, the latter as often as wanted."""
    answer = ask(kept)
    assert answer.columns == [column.name for column in TASKS]
    assert [row[1] for row in answer.fetchall()] == ["model_1", "model_2"]
    assert [row[1] for row in answer.fetchall()] == ["model_1", "model_2"]


def test_the_answer_as_pandas(kept: FileStorage) -> None:
    """`.df()` gives a DataFrame."""
    pytest.importorskip("pandas")
    frame = ask(kept).df()
    assert list(frame["task"]) == ["model_1", "model_2"]
    assert frame["saved_at"].dtype.kind == "M"


def test_the_answer_as_polars(kept: FileStorage) -> None:
    """`.pl()` gives a Polars DataFrame."""
    pytest.importorskip("polars")
    frame = ask(kept).pl()
    assert frame["task"].to_list() == ["model_1", "model_2"]
    assert frame["serializers"].to_list() == [["pickle"], ["pickle"]]


def test_the_answer_as_arrow(kept: FileStorage) -> None:
    """`.arrow()` and `.to_arrow_table()` give the same Arrow data."""
    table = ask(kept).to_arrow_table()
    arrow = ask(kept).arrow()
    assert table.column("task").to_pylist() == ["model_1", "model_2"]
    assert (arrow if isinstance(arrow, pa.Table) else arrow.read_all()).column("task") == table.column("task")


def test_the_answer_is_shown(kept: FileStorage, capsys: pytest.CaptureFixture[str]) -> None:
    """`.show()` prints the rows."""
    ask(kept).project("task, value").show()
    shown = capsys.readouterr().out
    assert "model_1" in shown
    assert "forest" in shown


def test_the_answer_is_filtered_by_sql(kept: FileStorage) -> None:
    """`.filter`, `.project`, `.order` and `.limit` take SQL, with JSON's operators."""
    answer = kept.catalog.tasks("fit")
    good = answer.filter("(value->>'accuracy')::DOUBLE > 0.6").order("(value->>'accuracy')::DOUBLE DESC")
    assert good.project("task, value->>'kind'").fetchall() == [("model_2", "forest"), ("model_1", "tree")]
    assert answer.limit(1).project("task").fetchall() == [("Model_3",)]


def test_the_answer_outlives_storage_and_index(storage: FileStorage) -> None:
    """An answer is a snapshot: it does not change with a later save, and stays when the folder is deleted."""
    storage.save("w", "a", 1)
    answer = storage.catalog.tasks()
    storage.save("w", "b", 2)
    storage.list_tasks("w")
    shutil.rmtree(storage.catalog.path)
    assert [row[1] for row in answer.fetchall()] == ["a"]
    assert answer.filter("task = 'a'").project("value").fetchall() == [("1",)]


def test_the_answer_is_used_by_other_threads(kept: FileStorage) -> None:
    """Answers made in one thread are read in others, while all of them ask further questions."""
    answers = [kept.catalog.tasks(task=f"*{number}") for number in (1, 2, 3)]
    found: dict[int, list[str]] = {}

    def read(number: int) -> None:
        kept.catalog.tasks(limit=1).fetchall()
        found[number] = [row[1] for row in answers[number - 1].fetchall()]

    threads = [threading.Thread(target=read, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1: ["model_1"], 2: ["model_2"], 3: ["Model_3"]}


READ_PLAINLY = """
import sys, duckdb
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.sql("SELECT task FROM tasks WHERE value->>'accuracy' > '0.9' ORDER BY task").fetchall())
    print(connection.sql("SELECT event, task FROM events ORDER BY time LIMIT 1").fetchall())
    print(connection.sql("SELECT count(*) FROM runs").fetchall())
"""


def test_nothing_stays_locked(kept: FileStorage) -> None:
    """While this process holds answers, another opens the index with plain DuckDB and reads tasks, events and runs."""
    answer = ask(kept)
    told = run_python(READ_PLAINLY, index_of(kept)).splitlines()
    assert told == ["[('model_1',), ('model_2',)]", "[('save', 'load')]", "[(0,)]"]
    assert len(answer.fetchall()) == 2
    assert not index_of(kept).with_suffix(".duckdb.wal").exists()


def test_a_catalog_is_pickled(kept: FileStorage) -> None:
    """A pickled catalog answers as the original does, and its representation tells its folder."""
    twin = pickle.loads(pickle.dumps(kept.catalog))
    assert task_rows(twin) == task_rows(kept.catalog)
    assert repr(twin) == f"Catalog({kept.catalog.path!r})"


def test_a_catalog_is_opened_by_path(kept: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path may be a string, a path object, or relative to the current folder."""
    root = Path(kept.catalog.path)
    monkeypatch.chdir(root.parent)
    for path in (str(root), root, root.name):
        assert len(Catalog.open(path).tasks().fetchall()) == len(ALL)
