"""What was: `events`, `runs`, `as_of`, and the history of one task."""

from __future__ import annotations

import html
import os
import pickle
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog
from catalog.errors import InvalidQuestion, NoSuchTask
from catalog.format import author
from catalog.format.columns import EVENTS, RUNS, TASKS
from catalog.format.ids import id_at, new_id
from catalog.task import Task
from functionfuse.storage.filestorage import FileStorage
from workshop import delete_index, root_of, write_segment

START = datetime(2026, 5, 1, 10, tzinfo=timezone.utc)
RUN = "01890000-0000-7000-8000-00000000000"  # and a digit


def minute(number: float) -> datetime:
    """Return a moment of the story."""
    return START + timedelta(minutes=number)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that sets the clock of saves and removals to a minute."""

    def set_to(number: float) -> None:
        seconds = minute(number).timestamp()
        monkeypatch.setattr(author, "time", SimpleNamespace(time=lambda: seconds))

    return set_to


@pytest.fixture
def told(storage: FileStorage, clock: Any) -> FileStorage:
    """Return a storage with saves, an overwrite, a removal and a run, a minute apart."""
    storage_steps = [
        lambda: storage.save("fit", "a", 1),
        lambda: storage.save("fit", "b", "x" * 1000),
        lambda: storage.save("fit", "a", "overwritten"),
        lambda: storage.remove_task("fit", "b"),
        lambda: storage.save("plot", "c", 3.0),
        lambda: storage.note("run-started", "fit", f"{RUN}1", {"backend": "local"}),
        lambda: storage.note("run-finished", "fit", f"{RUN}1", {"status": "failed", "computed": 1, "restored": 0}),
        lambda: storage.note("run-started", "plot", f"{RUN}2", {"backend": "ray"}),
    ]
    for number, step in enumerate(storage_steps):
        clock(number)
        step()
    return storage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (-1, {}),
        (0, {("fit", "a"): "1"}),
        (1, {("fit", "a"): "1", ("fit", "b"): f'"{"x" * 1000}"'}),
        (2.5, {("fit", "a"): '"overwritten"', ("fit", "b"): f'"{"x" * 1000}"'}),
        (3, {("fit", "a"): '"overwritten"'}),
        (99, {("fit", "a"): '"overwritten"', ("plot", "c"): "3.0"}),
    ],
)
def test_tasks_as_of_a_moment(told: FileStorage, number: float, expected: dict[tuple[str, str], str]) -> None:
    """`tasks(as_of=)` has what was stored at the moment, itself included, with the values of then."""
    found = told.catalog.tasks(as_of=minute(number)).project("workflow, task, value").fetchall()
    assert {(workflow, task): value for workflow, task, value in found} == expected
    assert told.list_tasks("fit", as_of=minute(number)) == sorted(
        task for workflow, task in expected if workflow == "fit"
    )


def test_as_of_now_is_what_there_is(told: FileStorage) -> None:
    """As of a moment after all events the table is the present one, row by row."""
    assert told.catalog.tasks(as_of=minute(99)).fetchall() == told.catalog.tasks().fetchall()


def test_as_of_with_the_other_filters(told: FileStorage) -> None:
    """Filters, dates, order and limit apply to the table of that moment."""
    at_two = {"as_of": minute(1)}
    names = [row[1] for row in told.catalog.tasks("fit", order_by="size DESC", limit=1, **at_two).fetchall()]
    assert names == ["b"]
    assert told.catalog.tasks(min_size=1000, type="str", since=minute(1), until=minute(2), **at_two).fetchall() != []
    assert told.catalog.tasks(since=minute(1.5), **at_two).fetchall() == []
    assert told.list_tasks("fit", "[ab]", until=minute(1), **at_two) == ["a"]


def test_a_clock_that_jumped_back(storage: FileStorage, clock: Any) -> None:
    """What replaced something counts as of its own time, though that lies before the time of what it replaced."""
    clock(10)
    storage.save("w", "t", "first")
    clock(5)
    storage.save("w", "t", "second")
    values = [storage.catalog.tasks(as_of=minute(number)).project("value").fetchall() for number in (4, 6, 11)]
    assert values == [[], [('"second"',)], [('"second"',)]]


def test_competing_writers_end_as_the_blob_says(storage: FileStorage) -> None:
    """Where the blob that won has the smaller id, it is listed from its time on, as it is in `tasks`."""
    storage.save("w", "t", "won")
    greater = new_id()
    line = {"event": "save", "format": 1, "blob_id": greater, "workflow": "w", "task": "t", "size": 1}
    write_segment(storage, [{**line, "saved_at": "2020-01-01T00:00:00Z"}])
    write_segment(storage, [{**line, "blob_id": id_at(0, b"x" * 10), "saved_at": "2019-01-01T00:00:00Z"}])
    now = storage.catalog.tasks().project("value").fetchall()
    assert now == [('"won"',)]
    assert storage.catalog.tasks(as_of=datetime.now(timezone.utc)).project("value").fetchall() == now


def test_files_of_the_older_format(storage: FileStorage) -> None:
    """A file that has no event is listed from its modification time on."""
    storage.new_workflow("w")
    path = root_of(storage) / "w" / "old"
    path.write_bytes(pickle.dumps(1) + b"\0" * 20)
    os.utime(path, (minute(3).timestamp(),) * 2)
    assert storage.list_tasks("w", as_of=minute(2)) == []
    assert storage.list_tasks("w", as_of=minute(3)) == ["old"]


STEPS = st.lists(st.tuples(st.sampled_from(["save", "remove"]), st.sampled_from("abc")), max_size=8)


@pytest.mark.slow
@given(steps=STEPS)
@settings(max_examples=5, deadline=None)
def test_every_moment_against_a_list(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]) -> None:
    """Of random saves and removals, each moment's names are those of a set at that moment, after a rebuild too."""
    storage = FileStorage(tmp_path_factory.mktemp("random"))
    there: set[str] = set()
    moments = []
    with pytest.MonkeyPatch.context() as patch:
        for number, (step, name) in enumerate(steps):
            seconds = minute(number).timestamp()
            patch.setattr(author, "time", SimpleNamespace(time=lambda seconds=seconds: seconds))
            if step == "save":
                storage.save("w", name, number)
                there.add(name)
            elif name in there:
                storage.remove_task("w", name)
                there.remove(name)
            moments.append(sorted(there))
    for _ in range(2):
        assert [storage.list_tasks("w", as_of=minute(number)) for number in range(len(steps))] == moments
        if steps:
            storage.list_tasks("w")
            delete_index(storage)


# Events and runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({}, [("save", "a"), ("save", "b"), ("save", "a"), ("remove", "b"), ("save", "c"), ("run-started", None)]),
        ({"workflow": "plot"}, [("save", "c"), ("run-started", None)]),
        ({"task": "[ab]", "event": "save"}, [("save", "a"), ("save", "b"), ("save", "a")]),
        ({"event": "remove"}, [("remove", "b")]),
        ({"event": "run-*", "workflow": "fit"}, [("run-started", None), ("run-finished", None)]),
        ({"since": minute(3), "until": minute(5)}, [("remove", "b"), ("save", "c")]),
        ({"min_size": 1000}, [("save", "b"), ("remove", "b")]),
        ({"type": "float"}, [("save", "c")]),
        ({"serializer": "pickle", "limit": 1}, [("save", "a")]),
        ({"order_by": "time DESC", "limit": 2}, [("run-started", None), ("run-finished", None)]),
    ],
)
def test_events_by_filters(told: FileStorage, question: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """`events` is filtered as `tasks`, and by kind; what happened first comes first."""
    answer = told.catalog.events(**question)
    assert answer.columns == [column.name for column in EVENTS]
    assert answer.project("event, task").fetchall()[:6] == expected


def test_events_tell_of_what_is_gone(told: FileStorage) -> None:
    """A removal says who removed what, when, of which size and checksum; so does the save before it."""
    wanted = '"user", host, pid, size, checksum, blob_id'
    saved, removed = told.catalog.events("fit", "b").project(wanted).fetchall()
    assert saved == removed
    assert (saved[2], None in saved) == (os.getpid(), False)
    (time,) = told.catalog.events("fit", "b", event="remove").project('"time"').fetchall()[0]
    assert time.replace(tzinfo=timezone.utc) == minute(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({}, ["1", "2"]),
        ({"workflow": "f*"}, ["1"]),
        ({"status": "running"}, ["2"]),
        ({"status": "f*"}, ["1"]),
        ({"backend": "ray"}, ["2"]),
        ({"since": minute(6)}, ["2"]),
        ({"until": minute(6)}, ["1"]),
        ({"order_by": "started DESC", "limit": 1}, ["2"]),
    ],
)
def test_runs_by_filters(told: FileStorage, question: dict[str, Any], expected: list[str]) -> None:
    """`runs` is filtered by workflow, start, status and backend."""
    answer = told.catalog.runs(**question)
    assert answer.columns == [column.name for column in RUNS]
    assert [str(run_id)[-1] for run_id, *_ in answer.fetchall()] == expected


@pytest.mark.parametrize("method", ["tasks", "events", "runs"])
@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"order_by": "age"}, r"unknown 'age'; columns: .*workflow"),
        ({"order_by": "workflow; DROP TABLE latest"}, "unknown"),
        ({"order_by": 5}, "not 5"),
        ({"limit": -1}, "limit=-1"),
        ({"limit": "5"}, "limit='5'"),
        ({"since": "soon"}, "since='soon'"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, "exchange"),
        ({"workflow": 5}, "not 5"),
    ],
    ids=str,
)
def test_a_filter_that_makes_no_sense(told: FileStorage, method: str, question: dict[str, Any], said: str) -> None:
    """All three questions refuse what cannot be understood, and name it."""
    with pytest.raises(InvalidQuestion, match=said):
        getattr(told.catalog, method)(**question)


def test_a_moment_that_makes_no_sense(told: FileStorage) -> None:
    """What is no moment is refused by its name, and so is a kind of event that is no string."""
    with pytest.raises(InvalidQuestion, match="as_of='then'"):
        told.catalog.tasks(as_of="then")
    with pytest.raises(InvalidQuestion, match="as_of"):
        told.list_tasks("fit", as_of=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidQuestion, match="event"):
        told.catalog.events(event=None)  # type: ignore[arg-type]


# One task


def test_a_task_has_the_columns_of_the_table() -> None:
    """`Task` has a field for every column of `tasks`, in its order, and the history."""
    assert list(Task.__dataclass_fields__) == [*(column.name for column in TASKS), "history"]


def test_a_task_with_its_history(told: FileStorage) -> None:
    """`task` gives parsed values, aware times and what happened under the name, oldest first."""
    task = told.catalog.task("fit", "a")
    assert (task.workflow, task.task, task.value, task.serializers) == ("fit", "a", "overwritten", ("pickle",))
    assert task.saved_at == minute(2)
    assert [(each.event, each.time) for each in task.history] == [("save", minute(0)), ("save", minute(2))]
    assert (task.history[1].event_id, task.history[1].checksum) == (task.blob_id, task.checksum)
    assert (task.summary, task.packages, task.parents) == (None, {}, ())


@pytest.mark.parametrize("name", ["\udc80", "a/b", "..", "*", "é\n", "<script>alert(1)</script>"])
def test_an_awkward_name_of_a_task(storage: FileStorage, name: str) -> None:
    """A name comes back exactly, is no glob, and is shown escaped."""
    storage.save(name, name, {"<b>": name.encode(errors="replace").decode(), "&": 1})
    task = Catalog.open(root_of(storage)).task(name, name)
    assert (task.workflow, task.task) == (name, name)
    shown = task._repr_html_()
    assert html.escape(name.encode("utf-8", "backslashreplace").decode()) in shown
    assert "<b>" not in shown
    assert "<script>" not in shown
    shown.encode()


def test_a_task_that_is_not_there(told: FileStorage) -> None:
    """A miss is a `FileNotFoundError` that names what was asked for, and says if there is a history."""
    with pytest.raises(FileNotFoundError, match="no task 'x' of workflow 'fit'"):
        told.catalog.task("fit", "x")
    with pytest.raises(NoSuchTask, match=r"events\(\) tells"):
        told.catalog.task("fit", "b")


def test_a_task_of_the_older_format_is_shown(storage: FileStorage, tmp_path: Path) -> None:
    """Of a file of which little is known, what is known is shown."""
    storage.new_workflow("w")
    (root_of(storage) / "w" / "old").write_bytes(pickle.dumps(1) + b"\0" * 20)
    task = storage.catalog.task("w", "old")
    assert (task.format, task.value, task.user) == (0, None, None)
    assert "sha1:" in task._repr_html_()
