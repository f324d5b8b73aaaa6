"""`catalog.sql`: queries over tasks, events and runs; what is no query is refused."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.errors import InvalidQuestion
from functionfuse.storage.filestorage import FileStorage
from workshop import blob_id, index_of, task_names, task_rows

RUN = "01890000-0000-7000-8000-00000000000"  # and a digit


def note_run(storage: FileStorage, number: int, **end: Any) -> None:
    """Write the events of one run; of its end only if there was one."""
    storage.note("run-started", "fit", f"{RUN}{number}", {"backend": "local"})
    if end:
        storage.note("run-finished", "fit", f"{RUN}{number}", end)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> FileStorage:
    """Return a storage with metrics, an overwrite, a removal, a finished run and one that was killed."""
    storage = FileStorage(tmp_path_factory.mktemp("ranked"))
    note_run(storage, 1, status="finished", computed=3, restored=1)
    for name, accuracy in (("svm", 0.8), ("tree", 0.95), ("forest", 0.9)):
        storage.save("fit", name, {"accuracy": accuracy, "curve": [0.1, accuracy], "kind": {"name": name}})
    storage.save("fit", "svm", {"accuracy": 0.99})
    storage.save("fit", "odd", float("nan"))
    storage.save("fit", "gone", 1)
    storage.remove_task("fit", "gone")
    note_run(storage, 2)
    storage.note("task-failed", "fit", f"{RUN}2", {"traceback": "Traceback ..."}, "tree")
    return storage


def answer(storage: FileStorage, query: str, params: Any = None) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    return storage.catalog.sql(query, params).fetchall()


def test_results_are_ranked_by_a_metric(ranked: FileStorage) -> None:
    """JSON's operators reach into values, so that models are ranked without unpickling one."""
    query = """
        SELECT task, (value->>'accuracy')::DOUBLE AS accuracy FROM tasks
        WHERE value->>'accuracy' IS NOT NULL ORDER BY accuracy DESC
    """
    assert answer(ranked, query) == [("svm", 0.99), ("tree", 0.95), ("forest", 0.9)]


def test_values_are_reached_at_any_depth(ranked: FileStorage) -> None:
    """Items of lists and of nested objects are reached by index, by arrow and by path."""
    wanted = "(value->'curve'->>1)::DOUBLE, value->'kind'->>'name', value->>'$.kind.name'"
    assert answer(ranked, f"SELECT {wanted} FROM tasks WHERE task = 'tree'") == [(0.95, "tree", "tree")]


def test_what_is_not_finite_is_a_number(ranked: FileStorage) -> None:
    """NaN, which JSON lacks, comes back as NaN when it is cast."""
    assert answer(ranked, "SELECT isnan((value->>'$')::DOUBLE) FROM tasks WHERE task = 'odd'") == [(True,)]


def test_the_history_tells_of_overwrites_and_removals(ranked: FileStorage) -> None:
    """`events` keeps what `tasks` no longer shows, in order, with its columns of kind, id and time."""
    found = answer(ranked, "SELECT event, task FROM events WHERE task IN ('svm', 'gone') ORDER BY event_id")
    assert found == [("save", "svm"), ("save", "svm"), ("save", "gone"), ("remove", "gone")]
    columns = ranked.catalog.sql("FROM events").columns
    assert columns[:5] == ["event", "event_id", "time", "workflow", "task"]
    assert answer(ranked, "SELECT count(*) FROM events WHERE event IS NULL OR time IS NULL OR event_id IS NULL") == [
        (0,)
    ]


def test_a_save_has_the_id_and_time_of_its_blob(ranked: FileStorage) -> None:
    """The event of a save is found by the id in the blob, and its time is `saved_at`."""
    found = answer(
        ranked, "SELECT task FROM events WHERE event_id = ? AND time = saved_at", [blob_id(ranked, "fit", "tree")]
    )
    assert found == [("tree",)]


def test_a_failure_keeps_its_details(ranked: FileStorage) -> None:
    """What only one kind of event has is in `details`."""
    query = "SELECT task, details->>'traceback', run_id::VARCHAR FROM events WHERE event = 'task-failed'"
    assert answer(ranked, query) == [("tree", "Traceback ...", f"{RUN}2")]


def test_runs_are_joined_from_their_events(ranked: FileStorage) -> None:
    """`runs` has one row a run: the counts of a finished one, `running` and no end for one that was killed."""
    wanted = "run_id::VARCHAR, workflow, backend, status, computed, restored, finished >= started"
    assert answer(ranked, f"SELECT {wanted} FROM runs ORDER BY 1") == [
        (f"{RUN}1", "fit", "local", "finished", 3, 1, True),
        (f"{RUN}2", "fit", "local", "running", None, None, None),
    ]


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("SELECT task FROM tasks WHERE task = ? AND size > ?", ["tree", 0]),
        ("SELECT task FROM tasks WHERE task = ? AND size > ?", ("tree", 0)),
        ("SELECT task FROM tasks WHERE task = $1 AND size > $2", ["tree", 0]),
        ("SELECT task FROM tasks WHERE task = $name AND size > $least", {"name": "tree", "least": 0}),
        ("SELECT task FROM tasks WHERE task IN (SELECT unnest(?))", [["tree", "'; DROP TABLE latest; --"]]),
        ("FROM tasks SELECT task WHERE task = 'tree'", None),
        ("WITH best AS (SELECT task FROM tasks WHERE value->>'accuracy' = '0.95') SELECT * FROM best", None),
        ("-- a comment\nSELECT task FROM tasks WHERE task = 'tree';", None),
        ("SELECT 1; SELECT task FROM tasks WHERE task = 'tree'", None),
        ("(SELECT task FROM tasks WHERE task = 'tree') UNION (SELECT task FROM tasks WHERE false)", None),
    ],
)
def test_queries_and_parameters(ranked: FileStorage, query: str, params: Any) -> None:
    """Positional, numbered and named parameters work, and so do all ways to write one SELECT."""
    assert answer(ranked, query, params) == [("tree",)]


def test_tables_are_joined(ranked: FileStorage) -> None:
    """A join of two tables answers with the columns of both, though some share their names."""
    found = ranked.catalog.sql("SELECT * FROM tasks t JOIN events e ON e.event_id = t.blob_id WHERE t.task = 'tree'")
    (row,) = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert (row["task"], row["task_1"], row["event"]) == ("tree", "tree", "save")
    assert len(found.columns) == len(ranked.catalog.tasks().columns) + len(ranked.catalog.sql("FROM events").columns)


def test_an_answer_without_rows(ranked: FileStorage) -> None:
    """A query that finds nothing answers with its columns and no row."""
    found = ranked.catalog.sql("SELECT task, size FROM tasks WHERE false")
    assert (found.columns, found.fetchall()) == (["task", "size"], [])


def test_an_answer_is_asked_again(ranked: FileStorage) -> None:
    """An answer is a relation that can be filtered, as that of `tasks`."""
    found = ranked.catalog.sql("SELECT task, value FROM tasks")
    assert found.filter("(value->>'accuracy')::DOUBLE > 0.94").order("task").project("task").fetchall() == [
        ("svm",),
        ("tree",),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO latest SELECT * FROM latest",
        "UPDATE latest SET size = 0",
        "DELETE FROM history",
        "DROP TABLE latest",
        "DROP VIEW tasks",
        "CREATE TABLE mine (a INTEGER)",
        "CREATE VIEW mine AS SELECT 1",
        "CREATE TEMP MACRO mine() AS 1",
        "ALTER TABLE latest ADD COLUMN x INTEGER",
        "COPY tasks TO 'copied.csv'",
        "COPY (SELECT * FROM tasks) TO 'copied.csv'",
        "EXPORT DATABASE 'copied'",
        "ATTACH 'other.duckdb'",
        "DETACH storage_index",
        "USE memory",
        "PRAGMA disable_checkpoint_on_shutdown",
        "SET threads = 1",
        "INSTALL httpfs",
        "LOAD httpfs",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "VACUUM",
        "CHECKPOINT",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE DELETE FROM latest",
        "PREPARE p AS SELECT 1",
        "SELECT 1; DROP TABLE latest",
        "",
        "   ",
        ";",
        "-- nothing but a comment",
    ],
)
def test_what_is_no_query_is_refused(ranked: FileStorage, tmp_path: Any, monkeypatch: Any, statement: str) -> None:
    """A statement that is no reading one is refused, and neither catalog nor disk is changed by it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidQuestion, match=r"refused|empty"):
        ranked.catalog.sql(statement)
    assert list(tmp_path.iterdir()) == []
    assert len(task_names(ranked.catalog)) == 4


@pytest.mark.parametrize(
    ("query", "params", "said"),
    [
        ("SELEKT 1", None, "SELEKT"),
        ("SELECT 1 +", None, "syntax"),
        ("SELECT 'open", None, "open"),
        ("SELECT age FROM tasks", None, "age"),
        ("SELECT * FROM absent", None, "absent"),
        ("SELECT nosuch(task) FROM tasks", None, "nosuch"),
        ("SELECT task::INTEGER FROM tasks", None, "INT32"),
        ("SELECT value->'x'->>5::UUID FROM tasks", None, ""),
        ("SELECT ?", None, "parameter"),
        ("SELECT ?", [], "parameter"),
        ("SELECT ?", [1, 2], "parameter"),
        ("SELECT $a", {"b": 1}, ""),
        ("SELECT 1", [1], "parameter"),
        ("SELECT ?", [object()], ""),
    ],
)
def test_what_duckdb_cannot_answer(ranked: FileStorage, query: str, params: Any, said: str) -> None:
    """A query with a mistake is refused with DuckDB's words, and the next one is answered."""
    with pytest.raises(InvalidQuestion, match=f"(?i){said}"):
        ranked.catalog.sql(query, params).fetchall()
    assert answer(ranked, "SELECT 1") == [(1,)]


def test_a_mistake_leaves_the_index_as_it_is(ranked: FileStorage) -> None:
    """A query that fails half way does not cost the index: it is neither rebuilt nor rolled back."""
    before = (index_of(ranked).stat().st_ino, task_rows(ranked.catalog))
    with pytest.raises(InvalidQuestion):
        ranked.catalog.sql("SELECT task, value::INTEGER FROM tasks").fetchall()
    assert (index_of(ranked).stat().st_ino, task_rows(ranked.catalog)) == before
