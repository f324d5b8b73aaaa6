"""Retention: what `gc` plans and removes, against an oracle in plain Python; pins."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from catalog.errors import InvalidQuestion
from catalog.format import author
from functionfuse.errors import InvalidName, TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer
from processes import at_once

NOW = datetime.now(timezone.utc)
OLDER = Path(__file__).parents[2] / "fixtures" / "older-format" / "study"


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return an empty storage."""
    return FileStorage(tmp_path / "storage")


@pytest.fixture
def age() -> Iterator[Callable[[timedelta], None]]:
    """Return a function that sets how long ago the storage believes to be."""
    real = author.time

    def set_age(ago: timedelta) -> None:
        author.time = SimpleNamespace(time=lambda: (NOW - ago).timestamp())  # type: ignore[assignment]

    yield set_age
    author.time = real


@pytest.fixture
def aged(storage: FileStorage, age: Callable[[timedelta], None]) -> FileStorage:
    """Return a storage with results that are 0 to 4 days old, in two workflows; the oldest is large."""
    for days in range(5):
        age(timedelta(days=days, minutes=1))
        storage.save("v", f"{days}", days)
        storage.save("w", f"{days}", "x" * 20_000 if days == 4 else days)
    return storage


def names(plan: Any) -> list[tuple[str, str]]:
    """Return workflow and task of every row of a plan."""
    return list(plan.project("workflow, task").fetchall())


def test_the_plan_is_a_relation(aged: FileStorage) -> None:
    """A dry run, the default, returns what would go, by name, and removes nothing."""
    plan = aged.gc(keep_last=3)
    assert plan.columns == ["workflow", "task", "size", "saved_at", "blob_id", "removed"]
    assert names(plan) == [("v", "3"), ("v", "4"), ("w", "3"), ("w", "4")]
    assert plan.project("removed").distinct().fetchall() == [(False,)]
    assert len(aged.list_tasks("v")) == 5


def test_what_is_planned_is_removed(aged: FileStorage) -> None:
    """Without a dry run the plan is carried out, each row says so, and the history tells why."""
    done = aged.gc(keep_last=3, older_than="80h", dry_run=False)
    assert done.project("workflow, task, removed").fetchall() == [("v", "4", True), ("w", "4", True)]
    assert aged.list_tasks("w") == ["0", "1", "2", "3"]
    said = aged.catalog.sql("SELECT DISTINCT details FROM events WHERE event = 'remove'").fetchall()
    assert said == [('{"reason":"gc","keep_last":"3","older_than":"80h"}',)]
    assert names(aged.gc(keep_last=3, older_than="80h", dry_run=False)) == []


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param({"keep_last": 4}, ["4"], id="keep_last"),
        pytest.param({"keep_last": 0}, ["0", "1", "2", "3", "4"], id="keep none"),
        pytest.param({"older_than": timedelta(days=3)}, ["3", "4"], id="timedelta"),
        pytest.param({"older_than": "3d"}, ["3", "4"], id="days"),
        pytest.param({"older_than": " 71.5 h "}, ["3", "4"], id="hours"),
        pytest.param({"older_than": "0.5w"}, ["4"], id="weeks"),
        pytest.param({"older_than": "4000min"}, ["3", "4"], id="minutes"),
        pytest.param({"older_than": NOW - timedelta(days=3)}, ["3", "4"], id="datetime"),
        pytest.param({"older_than": (NOW - timedelta(days=3)).isoformat()}, ["3", "4"], id="ISO"),
        pytest.param({"older_than": date.max}, ["0", "1", "2", "3", "4"], id="date"),
        pytest.param({"older_than": "999999999999d"}, [], id="for ever"),
        pytest.param({"larger_than": 20_000}, ["4"], id="bytes"),
        pytest.param({"larger_than": "20kB"}, ["4"], id="kB"),
        pytest.param({"larger_than": "20 KiB"}, [], id="KiB"),
        pytest.param({"older_than": "2d", "larger_than": "0.01MB"}, ["4"], id="both"),
        pytest.param({"keep_last": 5, "older_than": "1h"}, [], id="the last ones stay whatever else"),
    ],
)
def test_conditions(aged: FileStorage, conditions: dict[str, Any], expected: list[str]) -> None:
    """Each condition, in each way in which it can be written, plans what it says; together all have to hold."""
    assert names(aged.gc(workflow="w", **conditions)) == [("w", task) for task in expected]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        pytest.param({}, "would remove everything", id="none"),
        pytest.param({"keep_last": -1}, "keep_last=-1", id="negative"),
        pytest.param({"keep_last": True}, "keep_last=True", id="bool"),
        pytest.param({"keep_last": "3"}, "keep_last='3'", id="text"),
        pytest.param({"older_than": "3 moons"}, "as in 90min, 12h, 30d or 2w", id="unit of age"),
        pytest.param({"older_than": "lately"}, "is no date", id="date"),
        pytest.param({"older_than": 3}, "older_than is a datetime", id="number"),
        pytest.param({"older_than": timedelta(-1)}, "not negative", id="negative age"),
        pytest.param({"larger_than": "1 GBit"}, "as in 500MB or 2GiB", id="unit of size"),
        pytest.param({"larger_than": -1}, "larger_than=-1", id="negative size"),
        pytest.param({"larger_than": True}, "larger_than=True", id="bool size"),
        pytest.param({"keep_last": 1, "workflow": 7}, "a pattern for workflow", id="workflow"),
    ],
)
def test_bad_conditions(aged: FileStorage, conditions: dict[str, Any], message: str) -> None:
    """What cannot be understood is refused with the value and the remedy, and nothing is removed."""
    with pytest.raises(InvalidQuestion, match=message):
        aged.gc(**conditions, dry_run=False)
    assert len(aged.list_tasks("w")) == 5


def test_what_was_saved_anew_stays(aged: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is overwritten or removed between plan and removal is left, and the answer says so."""
    expired = aged.catalog.expired

    def late(*arguments: Any, **conditions: Any) -> Any:
        plan = expired(*arguments, **conditions)
        aged.save("w", "3", "anew")
        aged.remove_task("w", "4")
        return plan

    monkeypatch.setattr(aged.catalog, "expired", late)
    done = aged.gc(workflow="w", older_than="47h", dry_run=False)
    assert done.project("task, removed").fetchall() == [("2", True), ("3", False), ("4", False)]
    assert aged.read_task("w", "3") == "anew"


def test_processes_collect_at_once(aged: FileStorage) -> None:
    """Several processes that collect at the same time remove each result once."""
    at_once(*[lambda: aged.gc(keep_last=1, dry_run=False)] * 3)
    assert aged.list_tasks("w") == aged.list_tasks("v") == ["0"]


def test_side_files_and_the_older_format_go_too(storage: FileStorage) -> None:
    """Results with side files, with odd names, and of the older format are planned and removed like any other."""
    import shutil

    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "a/b", Note("beside"))
    storage.save("w", "x" * 300, 1)
    root = Path(storage.catalog.path)
    shutil.copytree(OLDER, root / "study")
    done = storage.gc(keep_last=0, dry_run=False)
    assert done.filter("NOT removed").fetchall() == []
    assert len(done.fetchall()) == 6
    assert [path for path in root.glob("[!.]*/**/*") if path.is_file()] == []
    assert storage.catalog.verify().ok


# Pins


def test_pins(aged: FileStorage) -> None:
    """What is pinned is never planned, by its name, until it is unpinned; it still counts among the last."""
    aged.pin("w", "4")
    aged.pin("w", "0")
    assert names(aged.gc(workflow="w", keep_last=1)) == [("w", "1"), ("w", "2"), ("w", "3")]
    aged.save("w", "4", "anew")
    assert ("w", "4") not in names(aged.gc(keep_last=0))
    aged.unpin("w", "4")
    assert ("w", "4") in names(aged.gc(keep_last=0))


def test_a_pin_is_no_lock(aged: FileStorage) -> None:
    """A pinned result can be removed by name; the name stays pinned."""
    aged.pin("w", "4")
    aged.remove_task("w", "4")
    aged.save("w", "4", 1)
    assert ("w", "4") not in names(aged.gc(keep_last=0))


def test_pins_that_say_nothing_new(aged: FileStorage) -> None:
    """Pinning twice, and unpinning what is not pinned or not there, changes and records nothing."""
    aged.unpin("w", "4")
    aged.unpin("none", "none")
    aged.pin("w", "4")
    aged.pin("w", "4")
    kinds = "SELECT event, workflow, task, host IS NOT NULL FROM events WHERE event LIKE '%pin'"
    assert aged.catalog.sql(kinds).fetchall() == [("pin", "w", "4", True)]


def test_bad_pins(aged: FileStorage) -> None:
    """Pinning what is not there, and names that are none, are errors."""
    with pytest.raises(TaskNotFound, match=r"'none'.*nothing is stored there"):
        aged.pin("w", "none")
    with pytest.raises(InvalidName):
        aged.pin("w", "")
    with pytest.raises(InvalidName):
        aged.unpin("", "a")


def test_pins_by_a_clock_that_jumped_back(aged: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last word counts, also where it is spoken by a clock that is behind."""
    aged.pin("w", "4")
    monkeypatch.setattr("catalog.format.ids.time", SimpleNamespace(time_ns=lambda: 10**18))
    monkeypatch.setattr("catalog.format.ids._last_tick", 0)
    aged.unpin("w", "4")
    assert ("w", "4") in names(aged.gc(keep_last=0))


# Against an oracle


results = st.lists(
    st.tuples(st.sampled_from("vw"), st.sampled_from(["a", "b", "c", "d", "e/f"]), st.integers(0, 9), st.booleans()),
    max_size=12,
)


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)
@given(
    saved=results,
    keep_last=st.none() | st.integers(0, 3),
    days=st.none() | st.integers(0, 9),
    large=st.booleans(),
    pinned=st.sets(st.tuples(st.sampled_from("vw"), st.sampled_from("abc"))),
)
def test_gc_against_an_oracle(
    age: Callable[[timedelta], None],
    saved: list[tuple[str, str, int, bool]],
    keep_last: int | None,
    days: int | None,
    large: bool,
    pinned: set[tuple[str, str]],
) -> None:
    """Whatever was saved and pinned, what goes is what a few lines of Python say."""
    if keep_last is None and days is None and not large:
        return
    with tempfile.TemporaryDirectory() as folder:
        storage = FileStorage(folder)
        there: dict[tuple[str, str], tuple[int, int, bool]] = {}
        for number, (workflow, task, ago, is_large) in enumerate(saved):
            age(timedelta(days=ago, hours=1))
            storage.save(workflow, task, "x" * 10_000 if is_large else 0)
            there[workflow, task] = (-ago, number, is_large)
        for name in pinned & there.keys():
            storage.pin(*name)
        expected = set()
        for workflow, task in there:
            newest = sorted((key for key in there if key[0] == workflow), key=there.__getitem__, reverse=True)
            ago, is_large = -there[workflow, task][0], there[workflow, task][2]
            goes = (keep_last is None or newest.index((workflow, task)) >= keep_last) and (not large or is_large)
            if goes and (days is None or ago >= days) and (workflow, task) not in pinned:
                expected.add((workflow, task))
        older_than = None if days is None else timedelta(days=days)
        done = storage.gc(
            keep_last=keep_last, older_than=older_than, larger_than="9kB" if large else None, dry_run=False
        )
        assert names(done.filter("removed")) == sorted(expected)
        left = {(workflow, task) for workflow in "vw" for task in storage.list_tasks(workflow)}
        assert left == there.keys() - expected
