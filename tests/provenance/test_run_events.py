"""What the catalog tells of runs: where each result comes from, what ran, what failed."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DuplicateName, UnpicklableResult
from functionfuse.fingerprint import of_function, of_value
from functionfuse.storage.filestorage import FileStorage


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a new storage."""
    return FileStorage(str(tmp_path / "store"))


@workflow
def load(path: str, limit: int = 10, *more: Any, **options: Any) -> list[Any]:
    """Return the arguments."""
    return [path, limit, *more, *options.values()]


@workflow
def fit(data: Any, rate: float, *, loss: str = "l2") -> Any:
    """Return the data."""
    return data


@workflow
def fail(*parents: Any, message: str = "of the node") -> None:
    """Raise an error."""
    raise RuntimeError(message)


@workflow
class Model:
    """An object."""

    def __init__(self, size: int) -> None:
        self.size = size

    def grow(self, by: int) -> int:
        """Become larger."""
        self.size += by
        return self.size


def run(storage: FileStorage, *leaves: Any, name: str = "flow", **options: Any) -> Any:
    """Run a new workflow."""
    graph = LocalWorkflow(*leaves, workflow_name=name)
    graph.set_storage(storage)
    return graph.run(**options)


def record(storage: FileStorage, task: str) -> dict[str, Any]:
    """Return what the catalog knows of a result, with JSON parsed."""
    answer = storage.catalog.tasks(task=task)
    (row,) = answer.fetchall()
    found = dict(zip(answer.columns, row, strict=True))
    return {**found, "inputs": found["inputs"] and json.loads(found["inputs"])}


def runs(storage: FileStorage) -> list[dict[str, Any]]:
    """Return the runs, the oldest first."""
    answer = storage.catalog.sql("SELECT * FROM runs ORDER BY started, run_id")
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


def events(storage: FileStorage) -> list[tuple[str, str | None]]:
    """Return the events with their tasks, in the order of their ids."""
    rows = storage.catalog.sql("SELECT event, task FROM events ORDER BY event_id").fetchall()
    return [(event, task) for event, task in rows]


def details(storage: FileStorage, event: str) -> list[dict[str, Any]]:
    """Return what else is told of the events of one kind."""
    rows = storage.catalog.sql("SELECT details FROM events WHERE event = ? ORDER BY event_id", [event]).fetchall()
    return [json.loads(row[0]) for row in rows]


def utcnow() -> datetime:
    """Return the time as the catalog has it."""
    return datetime.now(timezone.utc)


# Where a result comes from


def test_a_result_tells_what_it_was_computed_by(storage: FileStorage) -> None:
    """The record has the function's full name, the fingerprint of its code, the seconds that it took, and the run."""

    @workflow
    def slow(seconds: float) -> None:
        time.sleep(seconds)

    run(storage, slow(0.05).set_name("slow"), load("a").set_name("quick"))
    found, other = record(storage, "slow"), record(storage, "quick")
    assert found["function"] == "test_run_events.test_a_result_tells_what_it_was_computed_by.<locals>.slow"
    assert found["code_fingerprint"] == of_function(slow)
    assert 0.05 <= found["duration"] < 5
    assert 0 <= other["duration"] < 0.05
    assert found["run_id"] == other["run_id"] == runs(storage)[0]["run_id"]
    assert UUID(str(found["run_id"])).version == 7


@pytest.mark.parametrize(
    ("args", "kwargs", "inputs"),
    [
        (("a.csv",), {}, {"path": "'a.csv'"}),
        (("a", 5), {}, {"path": "'a'", "limit": "5"}),
        (("a", 5, None, 2.5), {}, {"path": "'a'", "limit": "5", "*2": "None", "*3": "2.5"}),
        (("a",), {"limit": True, "extra": b"x"}, {"path": "'a'", "limit": "True", "extra": "b'x'"}),
        (([1, 2],), {"big": "x" * 100}, {"path": of_value([1, 2]), "big": of_value("x" * 100)}),
        ((threading.Lock(),), {}, {"path": None}),
        ((), {"path": "höhe\n"}, {"path": r"'höhe\n'"}),
    ],
)
def test_inputs_hold_one_fingerprint_an_argument(
    storage: FileStorage, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: dict[str, Any]
) -> None:
    """Arguments are recorded by name: small scalars as literals, others by a fingerprint, unknown ones as null."""

    @workflow
    def count(path: Any, limit: int = 10, *more: Any, **options: Any) -> None:
        return None

    run(storage, count(*args, **kwargs).set_name("node"))
    assert record(storage, "node")["inputs"] == inputs
    assert record(storage, "node")["parents"] == []


def test_parents_are_recorded_by_name_and_by_their_blobs(storage: FileStorage) -> None:
    """Parents are listed by name, and are inputs by the ids of the blobs that were used, items with their keys."""
    data = load("a").set_name("data")
    node = fit(data, load("b").set_name("rates")[0], loss=data[1]).set_name("node")
    run(storage, node)
    found = record(storage, "node")
    ids = {name: record(storage, name)["blob_id"] for name in ("data", "rates")}
    assert found["parents"] == ["data", "rates"]
    assert found["inputs"] == {
        "data": f"blob:{ids['data']}",
        "rate": f"blob:{ids['rates']}[0]",
        "loss": f"blob:{ids['data']}[1]",
    }


def test_restored_parents_are_recorded_by_their_blobs_too(storage: FileStorage) -> None:
    """The blob id of a parent is that of the blob that was read, also if another run wrote it."""
    data = load("a").set_name("data")
    run(storage, data)
    run(storage, fit(data, 0.5).set_name("node"))
    found = record(storage, "node")
    assert found["inputs"]["data"] == f"blob:{record(storage, 'data')['blob_id']}"
    assert found["run_id"] != record(storage, "data")["run_id"]


def test_parents_in_containers_are_recorded(storage: FileStorage) -> None:
    """Nodes within lists and dicts are parents; the argument has a fingerprint that depends on their blobs."""
    a, b = load("a").set_name("a"), load("b").set_name("b")
    node = fit([a, {"k": b[0]}], 1.0).set_name("node")
    run(storage, node)
    before = record(storage, "node")
    run(storage, node, recompute="b")
    after = record(storage, "node")
    assert before["parents"] == after["parents"] == ["a", "b"]
    assert before["inputs"]["data"] != after["inputs"]["data"]
    assert before["inputs"]["rate"] == after["inputs"]["rate"] == "1.0"
    assert before["inputs"]["data"].startswith("xxh3:")


def test_objects_are_recorded_though_they_are_not_stored(storage: FileStorage) -> None:
    """A constructor and methods are parents by name; what came from them is an input by its lineage."""
    model = Model(3).set_name("model")
    grown = model.grow(1).set_name("grown")
    run(storage, fit(grown, 0.1).set_name("number"), fit(model, 0.1).set_name("object"))
    number, whole = record(storage, "number"), record(storage, "object")
    assert number["parents"] == ["grown"]
    assert whole["parents"] == ["model", "grown"]
    assert number["inputs"]["data"].startswith("lineage:")
    assert whole["inputs"]["data"].startswith("lineage:")


def test_parents_that_are_not_stored_are_recorded(storage: FileStorage) -> None:
    """A parent that `log_nodes` keeps out of the storage is recorded by name and lineage."""
    graph = LocalWorkflow(fit(load("a").set_name("data"), 1.0).set_name("node"), workflow_name="flow")
    graph.set_storage(storage)
    graph.log_nodes("data")
    graph.run()
    found = record(storage, "node")
    assert found["parents"] == ["data"]
    assert found["inputs"]["data"].startswith("lineage:")


def test_a_replaced_function_is_the_one_recorded(storage: FileStorage) -> None:
    """Name and code of what was called are recorded, not those of the function that was decorated."""

    def other(path: str) -> str:
        return path * 2

    node = load("a").set_name("node")
    graph = LocalWorkflow(node, workflow_name="flow")
    graph.set_storage(storage)
    graph.replace_func(node, other)
    graph.run()
    assert record(storage, "node")["function"].endswith(".<locals>.other")
    assert record(storage, "node")["code_fingerprint"] == of_function(other)


def test_a_result_saved_by_hand_tells_nothing_of_a_run(storage: FileStorage) -> None:
    """What was not computed in a run has no function, inputs, run or duration, rather than invented ones."""
    storage.save("flow", "node", 3)
    found = record(storage, "node")
    columns = ("run_id", "function", "code_fingerprint", "inputs", "parents", "duration")
    assert [found[column] for column in columns] == [None] * 6


# Runs


def test_a_run_is_recorded_from_its_start_to_its_end(storage: FileStorage) -> None:
    """A run has an id, its workflow and backend, times in UTC, a status, and how much was computed and restored."""
    before = utcnow()
    data = load("a").set_name("data")
    run(storage, fit(data, 1.0).set_name("first"))
    run(storage, fit(data, 2.0).set_name("second"), Model(1).grow(2))
    run(storage, fit(data, 1.0).set_name("first"), name="another")
    after = utcnow()
    found = runs(storage)
    assert [(row["workflow"], row["backend"], row["status"]) for row in found] == [
        ("flow", "local", "finished"),
        ("flow", "local", "finished"),
        ("another", "local", "finished"),
    ]
    assert [(row["computed"], row["restored"]) for row in found] == [(2, 0), (3, 1), (2, 0)]
    times = [moment for row in found for moment in (row["started"], row["finished"])]
    assert times == sorted(times)
    slack = timedelta(milliseconds=1)
    assert before - slack <= times[0] <= times[-1] <= after + slack
    assert len({row["run_id"] for row in found}) == 3


def test_a_run_that_restores_its_leaf_is_a_run(storage: FileStorage) -> None:
    """A run that computes nothing is recorded like every other."""
    for _ in range(2):
        run(storage, load("a").set_name("leaf"))
    assert [(row["computed"], row["restored"], row["status"]) for row in runs(storage)] == [
        (1, 0, "finished"),
        (0, 1, "finished"),
    ]


def test_events_come_in_the_order_in_which_things_happened(storage: FileStorage) -> None:
    """The start of a run, its saves, and its end are events in this order, and carry the run's id."""
    run(storage, fit(load("a").set_name("data"), 1.0).set_name("node"))
    run(storage, fit(load("a").set_name("data"), 1.0).set_name("node"), recompute="node")
    assert events(storage) == [
        ("run-started", None),
        ("save", "data"),
        ("save", "node"),
        ("run-finished", None),
        ("run-started", None),
        ("save", "node"),
        ("run-finished", None),
    ]
    rows = storage.catalog.sql("SELECT run_id, time FROM events ORDER BY event_id").fetchall()
    assert [row[0] for row in rows] == [rows[0][0]] * 4 + [rows[4][0]] * 3
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert details(storage, "run-finished")[0] == {
        "backend": "local",
        "status": "finished",
        "computed": 2,
        "restored": 0,
    }
    assert [told["nodes"] for told in details(storage, "run-started")] == [2, 1]


def test_a_run_without_a_storage_is_recorded_nowhere(storage: FileStorage) -> None:
    """A workflow without a storage writes no event to one that it had before."""
    run(storage, load("a").set_name("leaf"))
    LocalWorkflow(load("b").set_name("leaf"), workflow_name="flow").run()
    assert len(runs(storage)) == 1


def test_reading_a_result_later_is_no_run(storage: FileStorage) -> None:
    """Asking nodes for results that are stored reads them, and is no run of its own."""
    data = load("a").set_name("data")
    leaf = fit(data, 1.0).set_name("leaf")
    run(storage, leaf)
    run(storage, leaf)
    assert leaf.result == data.result == ["a", 10]
    assert len(runs(storage)) == 2


def test_what_cannot_be_run_is_no_run(storage: FileStorage) -> None:
    """A graph that is refused leaves no event."""
    storage.save("flow", "x", 1)
    with pytest.raises(DuplicateName):
        run(storage, load("a").set_name("same"), load("b").set_name("same"))
    assert events(storage) == [("save", "x")]


def test_runs_at_once_are_told_apart(storage: FileStorage) -> None:
    """Runs of several threads at the same time each have their start, end and counts."""
    graphs = [LocalWorkflow(fit(load("a"), 1.0), workflow_name=f"flow{number}") for number in range(4)]
    everyone = threading.Barrier(4)

    def one(graph: LocalWorkflow) -> None:
        graph.set_storage(storage)
        everyone.wait(240)
        graph.run()

    threads = [threading.Thread(target=one, args=(graph,)) for graph in graphs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {row["workflow"]: row for row in runs(storage)}
    assert sorted(found) == ["flow0", "flow1", "flow2", "flow3"]
    assert {(row["status"], row["computed"], row["restored"]) for row in found.values()} == {("finished", 2, 0)}
    saved = storage.catalog.sql("SELECT workflow, run_id, count(*) FROM tasks GROUP BY ALL").fetchall()
    assert sorted(saved) == sorted((row["workflow"], row["run_id"], 2) for row in found.values())


# Failures


def test_a_failure_is_recorded_with_its_traceback(storage: FileStorage) -> None:
    """A failing node is an event with exception and traceback; the run's status is failed, its saves are there."""
    data = load("a").set_name("data")
    with pytest.raises(RuntimeError):
        run(storage, fit(fail(data).set_name("bad"), 1.0).set_name("never"))
    assert events(storage) == [
        ("run-started", None),
        ("save", "data"),
        ("task-failed", "bad"),
        ("run-finished", None),
    ]
    (told,) = details(storage, "task-failed")
    assert told["error"] == "RuntimeError('of the node')"
    assert told["traceback"].startswith("Traceback (most recent call last):")
    assert re.search(
        r'File ".*test_run_events\.py", line \d+, in fail\n +raise RuntimeError\(message\)', told["traceback"]
    )
    assert "RuntimeError: of the node" in told["traceback"]
    (found,) = runs(storage)
    assert (found["status"], found["computed"], found["restored"]) == ("failed", 1, 0)
    failed_in = storage.catalog.sql("SELECT run_id, workflow FROM events WHERE event = 'task-failed'").fetchall()
    assert failed_in == [(found["run_id"], "flow")]


@pytest.mark.parametrize(("kind", "status"), [(KeyboardInterrupt, "interrupted"), (SystemExit, "failed")])
def test_other_ways_to_stop_a_run_are_recorded(storage: FileStorage, kind: Any, status: str) -> None:
    """A KeyboardInterrupt in a node makes the run an interrupted one, another BaseException a failed one."""

    @workflow
    def stop() -> None:
        raise kind

    with pytest.raises(kind):
        run(storage, stop().set_name("stop"))
    assert runs(storage)[0]["status"] == status
    assert runs(storage)[0]["finished"] is not None
    assert events(storage)[1] == ("task-failed", "stop")


def test_a_result_that_cannot_be_stored_is_a_failure(storage: FileStorage) -> None:
    """An unpicklable result and a missing item are failures of the node where the run stopped."""

    @workflow
    def lock() -> Any:
        return threading.Lock()

    with pytest.raises(UnpicklableResult):
        run(storage, lock().set_name("lock"))
    with pytest.raises(IndexError):
        run(storage, fit(load("a").set_name("data")[9], 1.0).set_name("node"))
    assert [event for event in events(storage) if event[0] == "task-failed"] == [
        ("task-failed", "lock"),
        ("task-failed", "node"),
    ]
    assert details(storage, "task-failed")[0]["error"].startswith("UnpicklableResult(")
    assert [row["status"] for row in runs(storage)] == ["failed", "failed"]


def test_a_stored_result_that_is_damaged_fails_the_run(storage: FileStorage, tmp_path: Path) -> None:
    """A run that cannot read its leaf has failed, and says so."""
    run(storage, load("a").set_name("leaf"))
    (tmp_path / "store" / "flow" / "leaf").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="'leaf' of workflow 'flow'"):
        run(storage, load("a").set_name("leaf"))
    assert [row["status"] for row in runs(storage)] == ["finished", "failed"]


def test_a_very_long_traceback_is_cut(storage: FileStorage) -> None:
    """Of a message of a megabyte the end is recorded, and the journal stays readable."""
    with pytest.raises(RuntimeError):
        run(storage, fail(message="x" * 1_000_000 + " the end").set_name("bad"))
    (told,) = details(storage, "task-failed")
    assert len(told["traceback"]) <= 20_000
    assert len(told["error"]) <= 20_000
    assert " the end" in told["traceback"]
    assert runs(storage)[0]["status"] == "failed"


@pytest.mark.parametrize("text", ['quote" and \\ and \n', "höhe 雪 😀", "lone \ud800", "nul \0"])
def test_odd_characters_are_recorded(storage: FileStorage, text: str) -> None:
    """Workflow and node names and messages may hold any characters."""
    parent = load(text).set_name(text)
    with pytest.raises(RuntimeError):
        run(storage, fail(parent, message=text).set_name(f"{text}!"), name=f"flow {text}")
    assert [event for event, _ in events(storage)] == ["run-started", "save", "task-failed", "run-finished"]
    assert runs(storage)[0]["status"] == "failed"
    assert storage.list_tasks(f"flow {text}") == [text]
    assert run(storage, fit(parent, 1.0).set_name("child"), name=f"flow {text}") == [text, 10]
    assert len(record(storage, "child")["parents"]) == 1


def test_runs_are_logged(storage: FileStorage, caplog: pytest.LogCaptureFixture) -> None:
    """The end of a run and a failing node are messages of the logger functionfuse.run; nothing is printed."""
    caplog.set_level(logging.INFO, "functionfuse")
    run(storage, load("a").set_name("data"))
    with pytest.raises(RuntimeError):
        run(storage, fail(load("a").set_name("data")).set_name("bad"))
    messages = [(entry.name, entry.getMessage()) for entry in caplog.records]
    assert messages == [
        ("functionfuse.run", "workflow 'flow' finished: 1 computed, 0 restored"),
        ("functionfuse.run", "node 'bad' of workflow 'flow' failed: RuntimeError"),
        ("functionfuse.run", "workflow 'flow' failed: 0 computed, 1 restored"),
    ]


def test_a_run_prints_nothing(storage: FileStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """A run writes nothing to standard output or error by itself."""
    run(storage, fit(load("a").set_name("data"), 1.0))
    assert capfd.readouterr() == ("", "")
